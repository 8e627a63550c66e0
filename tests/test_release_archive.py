"""The archive's bytes depend only on the model's files."""

import gzip
import hashlib
import os
import platform
import random
import tarfile

import pytest
from isal import igzip

from converters import errors
from export import record as record_lib
from export.release import archive as release_archive
from export.store import digests


@pytest.fixture
def model(tmp_path):
  path = tmp_path / 'model'
  (path / 'variables').mkdir(parents=True)
  (path / 'saved_model.pb').write_bytes(b'graph' * 1000)
  (path / 'variables' / 'variables.index').write_bytes(b'index')
  return path


@pytest.mark.skipif(platform.machine() != 'x86_64', reason='isal chooses its code by processor')
def test_every_python_writes_the_same_bytes(model, tmp_path):
  """Recorded under Python 3.11.7; 3.12 and 3.13 gather writes in IGzipFile, which changes isal's output."""
  (model / 'variables' / 'variables.data-00000-of-00001').write_bytes(random.Random(1).randbytes(300_001))
  packed = release_archive.pack(model, tmp_path / '2.tar.gz')
  assert packed.archive.tar_sha256 == '9e36dfc89ddb57d8092e0a128b0e9b06bfddcc69f1ec7904f4ae7c15ec9e6713'
  assert packed.archive.sha256 == '48a7919bd62ab70c12aa49d183191b9dfece47a7998ae8650afec2cf9c8c60b2'
  assert igzip.decompress((tmp_path / '2.tar.gz').read_bytes()) == gzip.decompress((tmp_path / '2.tar.gz').read_bytes())


def test_root_of_the_archive_is_the_model_directory(model, tmp_path):
  release_archive.pack(model, tmp_path / '2.tar.gz')
  with tarfile.open(tmp_path / '2.tar.gz') as tar:
    members = {m.name: m for m in tar}
    assert list(members) == ['.', 'saved_model.pb', 'variables', 'variables/variables.index']
    assert tar.extractfile('saved_model.pb').read() == b'graph' * 1000
  for member in members.values():
    assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, '', '', 0)
    assert member.mode == (0o755 if member.isdir() else 0o644)


def test_owner_mode_time_and_order_do_not_matter(model, tmp_path):
  first = release_archive.pack(model, tmp_path / 'one.tar.gz')
  os.chmod(model / 'saved_model.pb', 0o600)
  os.utime(model / 'saved_model.pb', (1, 1))
  (model / 'variables' / 'variables.index').unlink()
  (model / 'variables' / 'variables.index').write_bytes(b'index')
  assert release_archive.pack(model, tmp_path / 'two.tar.gz') == first
  assert (tmp_path / 'one.tar.gz').read_bytes() == (tmp_path / 'two.tar.gz').read_bytes()


def test_digests_are_those_of_archive_tar_and_files(model, tmp_path):
  counted = []
  packed = release_archive.pack(model, tmp_path / '2.tar.gz', counted.append)
  archive = (tmp_path / '2.tar.gz').read_bytes()
  tar = igzip.decompress(archive)
  assert packed.archive.tar_sha256 == hashlib.sha256(tar).hexdigest()
  assert sum(counted) == len(tar)
  assert (packed.archive.size, packed.archive.sha256) == (len(archive), hashlib.sha256(archive).hexdigest())
  assert packed.files == digests.of_directory(model)


def test_digests_name_every_file(model):
  assert digests.of_directory(model) == {
    'saved_model.pb': record_lib.Digest(5000, hashlib.sha256(b'graph' * 1000).hexdigest()),
    'variables/variables.index': record_lib.Digest(5, hashlib.sha256(b'index').hexdigest()),
  }


def test_an_existing_archive_is_not_overwritten(model, tmp_path):
  (tmp_path / '2.tar.gz').write_bytes(b'')
  with pytest.raises(FileExistsError):
    release_archive.pack(model, tmp_path / '2.tar.gz')


@pytest.mark.parametrize(
  'name',
  [
    'notes.txt',
    'assets/more/x',
    'variables/checkpoint',
    'assets.extra/deep/er',
    '.hidden',
    'saved_model.pb.bak',
    'variables/sub/x',
  ],
)
def test_only_what_a_hub_host_allows_is_packed(model, tmp_path, name):
  (model / name).parent.mkdir(parents=True, exist_ok=True)
  (model / name).write_text('')
  with pytest.raises(errors.PublishError, match='is not a file of a SavedModel'):
    release_archive.pack(model, tmp_path / '2.tar.gz')
  assert not (tmp_path / '2.tar.gz').exists()


def test_a_link_is_not_packed(model, tmp_path):
  (model / 'fingerprint.pb').symlink_to(model / 'saved_model.pb')
  with pytest.raises(errors.PublishError, match='model: fingerprint.pb is not a file'):
    release_archive.pack(model, tmp_path / '2.tar.gz')


def test_everything_a_hub_host_allows_is_packed(model, tmp_path):
  allowed = [
    'fingerprint.pb',
    'keras_metadata.pb',
    'assets/a.model',
    'assets.extra/tf_serving_warmup_requests',
    'variables/variables.data-00000-of-00001',
  ]
  for name in allowed:
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_text(name)
  release_archive.pack(model, tmp_path / '2.tar.gz')
  with tarfile.open(tmp_path / '2.tar.gz') as tar:
    assert set(allowed) < set(tar.getnames())
