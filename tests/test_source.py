"""A module is read from a directory, an archive or a hub handle, and refused with one line when something is off."""

import http.server
import os
import shutil
import socket
import socketserver
import tarfile
import threading

import numpy as np
import pytest
import tensorflow as tf
from support import craft
from support import modules

from converters import errors
from converters import source as source_lib
from converters import weight_map
from converters.io import archive as archive_lib
from converters.io import digest


def _facts(handle, **reading):
  with source_lib.open_source(str(handle), source_lib.Reading(**reading)) as source:
    rows = weight_map.rows(source.config, source.parts)
    return source.digest, source.sp_model, source.config, [source.tensor(row) for row in rows]


def _same(one, other):
  return one[:3] == other[:3] and all(np.array_equal(a, b) for a, b in zip(one[3], other[3], strict=True))


def test_directory(module):
  with source_lib.open_source(str(module)) as source:
    assert source.parts == set(weight_map.Part)
    assert source.config.num_hidden_layers == 3
    assert source.sp_model == (module / 'assets/30k-clean.model').read_bytes()
    reader = tf.train.load_checkpoint(str(module / 'variables/variables'))
    for row in weight_map.rows(source.config, source.parts):
      assert np.array_equal(source.tensor(row), reader.get_tensor(row.tf1)), row.name


@pytest.mark.parametrize('prefix', ['./', ''])
def test_archive_is_read_like_its_directory_and_leaves_nothing(module, tmp_path, prefix, monkeypatch):
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
  archive = tmp_path / 'module.tar.gz'
  with tarfile.open(archive, 'w:gz') as tar:
    for path in module.iterdir():
      tar.add(path, prefix + path.name)
  assert _same(_facts(archive), _facts(module))
  assert os.listdir(tmp_path) == ['module.tar.gz']


@pytest.fixture
def host(tmp_path):
  """A hub host on loopback: serves one archive under every path that asks for the compressed format."""
  asked = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      asked.append(self.path)
      known = self.path == '/google/albert_tiny/3?tf-hub-format=compressed'
      self.send_response(200 if known else 404)
      self.end_headers()
      if known:
        self.wfile.write((tmp_path / 'served.tar.gz').read_bytes())

    def log_message(self, *args):
      pass

  with socketserver.TCPServer(('127.0.0.1', 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_address[1]}', asked
    server.shutdown()


def test_hub_handle_is_resolved_and_cached(module, tmp_path, host, monkeypatch):
  url, asked = host
  monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path / 'cache'))
  craft.archive(module, tmp_path / 'served.tar.gz')
  handle = f'{url}/google/albert_tiny/3'
  assert _same(_facts(handle), _facts(module))
  assert _same(_facts(handle), _facts(module))
  assert len(asked) == 1


def test_unknown_handle_is_refused(tmp_path, host, monkeypatch):
  monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path / 'cache'))
  with pytest.raises(errors.SourceError, match='404.*google/albert_none/1: check the handle'):
    _facts(f'{host[0]}/google/albert_none/1')


def test_what_a_host_sends_is_unpacked_like_any_other_archive(own_module, tmp_path, host, monkeypatch):
  url, asked = host
  cache = tmp_path / 'cache'
  monkeypatch.setenv('TFHUB_CACHE_DIR', str(cache))
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
  handle = f'{url}/google/albert_tiny/3'
  (own_module / 'setup.py').write_text('')
  craft.archive(own_module, tmp_path / 'served.tar.gz')
  with pytest.raises(errors.ArchiveError, match=f"member './setup.py' in {handle} is no file of a TF1 Hub module"):
    _facts(handle)
  (own_module / 'setup.py').unlink()
  craft.archive(own_module, tmp_path / 'served.tar.gz')
  with pytest.raises(errors.ArchiveError, match=f'more than 1000 bytes from {handle}: .*--max_source_bytes'):
    _facts(handle, caps=archive_lib.Caps(total_bytes=1000))
  with pytest.raises(errors.DigestError, match=f'{handle} has SHA-256 .*--source_sha256'):
    _facts(handle, sha256='0' * 64)
  assert [path for path in cache.rglob('*') if path.is_file()] == []
  assert not list(tmp_path.glob('albert_*'))
  # What was checked has a place of its own in the cache: another digest is never answered from it.
  right = digest.of_file(tmp_path / 'served.tar.gz')
  assert _facts(handle, sha256=right)[0] == _facts(handle)[0]
  before = len(asked)
  assert _facts(handle, sha256=f'sha256:{right.upper()}')[0] == _facts(handle)[0] and len(asked) == before
  with pytest.raises(errors.DigestError):
    _facts(handle, sha256='1' * 64)


def test_a_host_that_says_nothing_is_given_up(tmp_path, monkeypatch):
  from converters.io import hub_download

  monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path / 'cache'))
  monkeypatch.setattr(hub_download, '_SILENCE_SECONDS', 0.2)
  with (
    socket.create_server(('127.0.0.1', 0)) as silent,
    pytest.raises(errors.SourceError, match='timed out.*google/albert_tiny/3: check the handle'),
  ):
    _facts(f'http://127.0.0.1:{silent.getsockname()[1]}/google/albert_tiny/3')
  assert socket.getdefaulttimeout() is None


def test_config_can_be_given(own_module, tmp_path):
  config = (own_module / 'assets/albert_config.json').rename(tmp_path / 'config.json')
  with pytest.raises(errors.ConfigError, match='albert_config.json .*--albert_config'):
    _facts(own_module)
  assert _facts(own_module, albert_config=str(config))[2].hidden_size == 16


def test_modules_without_heads_say_so(make_module):
  with source_lib.open_source(str(make_module(mlm=False, sop=False))) as source:
    assert source.parts == {weight_map.Part.ENCODER}


def test_a_cased_module_is_refused(own_module):
  def edit(graph):
    node = next(n for n in graph.graph_def.node if n.name == 'Const')
    node.attr['value'].tensor.CopyFrom(tf.make_tensor_proto(False))

  modules.edit_graph(own_module, edit)
  with pytest.raises(errors.SourceError, match='do_lower_case is not true in .*saved_model.pb'):
    _facts(own_module)


def test_missing_source_is_refused(tmp_path):
  with pytest.raises(errors.SourceError, match='no file or directory .*nothing'):
    _facts(tmp_path / 'nothing')


def test_digest_follows_links(module, make_module, tmp_path):
  digests = []
  for number, variables in enumerate((module / 'variables', make_module(seed=1) / 'variables')):
    copy = shutil.copytree(module, tmp_path / str(number))
    shutil.rmtree(copy / 'variables')
    (copy / 'variables').symlink_to(variables)
    digests.append(_facts(copy)[0])
  assert digests[0] == _facts(module)[0] != digests[1]


def test_a_directory_of_ten_thousand_files_and_more_is_refused(tmp_path):
  for number in range(10_001):
    (tmp_path / str(number)).touch()
  with pytest.raises(
    errors.SourceError, match=f'more than 10000 files in {tmp_path}: give a directory with the files of a module'
  ):
    digest.of_tree(tmp_path)


def test_a_checkpoint_beside_a_model_of_hugging_face_is_refused(module, tmp_path):
  for name in (
    'config.json',
    'model.safetensors',
    'spiece.model',
    'albert_config.json',
    'model.ckpt-best.index',
    '30k-clean.model',
  ):
    (tmp_path / name).write_bytes(b'{}')
  with (
    pytest.raises(errors.SourceError, match='a checkpoint and a model of Hugging Face in '),
    source_lib.open_source(str(tmp_path)),
  ):
    pass
