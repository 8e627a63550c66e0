"""A module is read from a directory, an archive or a hub handle; an invalid one is refused with one line."""

import errno
import http.server
import json
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
from converters.writers import tf2_checkpoint


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
  """A hub host on loopback that serves one archive for every request of the compressed format."""
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


@pytest.fixture
def served(module, tmp_path, host, monkeypatch):
  """The handle of a module on `host`, with a cache of its own in `tmp_path`; and the list of requests."""
  url, asked = host
  monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path / 'cache'))
  craft.archive(module, tmp_path / 'served.tar.gz')
  return f'{url}/google/albert_tiny/3', asked


def test_hub_handle_is_resolved_and_cached(served, module):
  handle, asked = served
  assert _same(_facts(handle), _facts(module))
  assert _same(_facts(handle), _facts(module))
  assert len(asked) == 1


def test_unknown_handle_is_refused(tmp_path, host, monkeypatch):
  monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path / 'cache'))
  with pytest.raises(errors.SourceError, match='google/albert_none/1: HTTPError: .*404.*; check the handle'):
    _facts(f'{host[0]}/google/albert_none/1')


def test_what_a_host_sends_is_unpacked_like_any_other_archive(own_module, tmp_path, host, monkeypatch):
  url, asked = host
  cache = tmp_path / 'cache'
  monkeypatch.setenv('TFHUB_CACHE_DIR', str(cache))
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
  handle = f'{url}/google/albert_tiny/3'
  (tmp_path / 'served.tar.gz').write_text('<!DOCTYPE html><html></html>')
  with pytest.raises(errors.ArchiveError, match=f'{handle}: this is a web page, not an archive; download'):
    _facts(handle)
  craft.archive(own_module, tmp_path / 'served.tar.gz')
  with pytest.raises(errors.ArchiveError, match=f'{handle}: more than 1000 bytes .*option max_source_bytes'):
    _facts(handle, caps=archive_lib.Caps(total_bytes=1000))
  with pytest.raises(errors.DigestError, match=f'{handle}: SHA-256 is .*option source_sha256'):
    _facts(handle, sha256='0' * 64)
  assert [path for path in cache.rglob('*') if path.is_file()] == []
  assert not list(tmp_path.glob('albert_*'))
  # Each digest has a separate place in the cache, which never answers another digest.
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
    pytest.raises(errors.SourceError, match='google/albert_tiny/3: .*timed out; check the handle'),
  ):
    _facts(f'http://127.0.0.1:{silent.getsockname()[1]}/google/albert_tiny/3')
  assert socket.getdefaulttimeout() is None


def test_config_can_be_given(own_module, tmp_path):
  config = (own_module / 'assets/albert_config.json').rename(tmp_path / 'config.json')
  with pytest.raises(errors.ConfigError, match='albert_config.json: no config .*option albert_config'):
    _facts(own_module)
  assert _facts(own_module, albert_config=str(config))[2].hidden_size == 16


def test_modules_without_heads_say_so(make_module):
  with source_lib.open_source(str(make_module(mlm=False, sop=False))) as source:
    assert source.parts == {weight_map.Part.ENCODER}


def test_a_directory_in_the_cache_that_lost_files_is_fetched_again(served, module, tmp_path):
  handle, asked = served
  right = _facts(handle)
  for lost in ('variables', 'assets', 'tfhub_module.pb'):
    path = next((tmp_path / 'cache').glob(f'*/{lost}'))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert _same(_facts(handle), right)
  assert len(asked) == 4
  craft.archive(module / 'assets', tmp_path / 'served.tar.gz')  # an incomplete model on the host: one more try
  shutil.rmtree(next((tmp_path / 'cache').glob('*/variables')))
  with pytest.raises(errors.SourceError):
    _facts(handle)


def test_other_files_are_skipped(own_module, module, tmp_path):
  (own_module / 'setup.py').write_text('')
  (own_module / '.DS_Store').write_bytes(b'x')
  (own_module / 'assets/._albert_config.json').write_bytes(b'x')
  craft.archive(own_module, tmp_path / 'module.tar.gz')
  (tmp_path / 'around').mkdir()
  shutil.copytree(own_module, tmp_path / 'around/albert_tiny')
  for path in (own_module, tmp_path / 'module.tar.gz', tmp_path / 'around'):
    assert _facts(path)[0] == _facts(module)[0]


def test_a_plain_tar_is_read(module, tmp_path):
  with tarfile.open(tmp_path / 'module.tar.gz', 'w') as tar:
    tar.add(module, 'albert_tiny')
  assert _facts(tmp_path / 'module.tar.gz')[0] == _facts(module)[0]


@pytest.mark.parametrize(
  'name, message',
  [
    ('pytorch_model.bin', 'a file of PyTorch, which cannot be read; give the directory of save_pretrained'),
    ('model.keras', 'a file of Keras, which cannot be read; give a SavedModel'),
    ('model.onnx', 'a file of another format, which cannot be read; give the model that it was made from'),
    ('model-00001-of-00002.safetensors', 'a file of a model, not a model; give its directory'),
  ],
)
def test_a_single_file_of_another_tool_is_named(tmp_path, refused, name, message):
  (tmp_path / name).write_bytes(b'PK\x03\x04')
  refused(tmp_path / name, f'{name}: {message}')


@pytest.mark.parametrize(
  'content, message',
  [
    (b'PK\3\4', 'module.tar.gz: this is a zip archive, not a .tar.gz; unpack it'),
    (b'<!DOCTYPE html>', 'module.tar.gz: this is a web page, not an archive; download'),
    (b'\xef\xbb\xbf  <html>', 'this is a web page'),
    (b'version https://git-lfs.github.com/spec/v1', 'this is a Git LFS pointer, not a .tar.gz; run `git lfs pull`'),
    (b'', 'module.tar.gz: '),
  ],
)
def test_what_an_archive_is_instead(tmp_path, content, message):
  (tmp_path / 'module.tar.gz').write_bytes(content)
  with pytest.raises(errors.ArchiveError, match=message):
    _facts(tmp_path / 'module.tar.gz')


def test_an_archive_of_something_else_names_its_files(tmp_path):
  (tmp_path / 'site').mkdir()
  (tmp_path / 'site/index.txt').write_text('')
  craft.archive(tmp_path / 'site', tmp_path / 'site.tar.gz')
  with pytest.raises(errors.ArchiveError, match=r"site.tar.gz: no file of a TF1 Hub module, .*there are 'index.txt'"):
    _facts(tmp_path / 'site.tar.gz')


@pytest.mark.parametrize(
  'handle', ['albert/albert-base-v2', 'hf://albert/albert-base-v2', 'huggingface.co/albert/albert-base-v2']
)
def test_a_name_of_hugging_face_is_explained(handle):
  with pytest.raises(errors.SourceError, match='run `hf download albert/albert-base-v2 --local-dir albert-base-v2`'):
    _facts(handle)


def test_a_cased_module_keeps_its_case(own_module):
  def edit(graph):
    node = next(n for n in graph.graph_def.node if n.name == 'Const')
    node.attr['value'].tensor.CopyFrom(tf.make_tensor_proto(False))

  modules.edit_graph(own_module, edit)
  with source_lib.open_source(str(own_module)) as source:
    assert not source.tokenization.lower_case and not source.tokenization.keep_accents
    assert source.tokenization.origin == 'tokenization_info of the module'
  with pytest.raises(errors.VocabularyError, match='option lower_case=True'):
    _facts(own_module, lower_case=True)


def test_missing_source_is_refused(tmp_path):
  with pytest.raises(errors.SourceError, match='nothing: no such file or directory; give'):
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
    errors.SourceError, match=f'{tmp_path}: more than 10000 files; give the directory of a model alone'
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
    pytest.raises(errors.SourceError, match=': both a TensorFlow checkpoint and a model of Hugging Face; '),
    source_lib.open_source(str(tmp_path)),
  ):
    pass


@pytest.mark.parametrize(
  'handle, message',
  [
    ('google/albert_base/3', 'may be a hub handle; give https://tfhub.dev/google/albert_base/3$'),
    ('tfhub.dev/google/albert_base/3', 'may be a hub handle; give https://tfhub.dev/google/albert_base/3$'),
    ('google/albert/tensorFlow2/base', 'Kaggle sends models to signed-in users only'),
    ('google/albert/TensorFlow1/base/3', 'Kaggle sends models to signed-in users only'),
    ('kaggle://google/albert/tensorFlow1/base', 'Kaggle sends models to signed-in users only'),
    ('albert/albert-base-v2@main', 'run `hf download albert/albert-base-v2 --local-dir albert-base-v2`'),
  ],
)
def test_a_handle_of_a_host_is_recognized(handle, message):
  with pytest.raises(errors.SourceError, match=message):
    source_lib.check_handle(handle)


@pytest.mark.parametrize(
  'content, message',
  [
    (
      'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n',
      'this is a Git LFS pointer, not the file; run',
    ),
    ('<!DOCTYPE html><html></html>', 'this is a web page, not the file; download it again'),
  ],
)
@pytest.mark.parametrize('name', ['saved_model.pb', 'variables/variables.index', 'assets/30k-clean.model'])
def test_a_file_that_was_not_downloaded_is_named(own_module, refused, name, content, message):
  (own_module / name).write_text(content)
  refused(own_module, f'own_module/{name}: {message}')


@pytest.mark.parametrize('name', ['saved_model.pb', 'assets/30k-clean.model'])
def test_a_file_of_a_model_is_not_the_model(module, refused, name):
  path = module / name
  refused(path, f'{path}: a file of a model, not a model; give its directory, {path.parent}')


@pytest.mark.parametrize(
  'content, message',
  [
    (b'\x28\xb5\x2f\xfd', 'a Zstandard archive'),
    (b'\x04\x22\x4d\x18', 'an LZ4 archive'),
    (b'\x89HDF\r\n', 'an HDF5 file'),
    (b'404: Not Found', 'not a .tar.gz or .tar .it begins with b.404: Not Found'),
  ],
)
def test_another_format_is_named(tmp_path, refused, content, message):
  path = tmp_path / 'module.tar.gz'
  path.write_bytes(content + b'x' * 2000)
  refused(path, f'module.tar.gz: (this is )?{message}', errors.ArchiveError)


def test_a_full_disk_is_named(module, tmp_path, refused, monkeypatch):
  def full(*args):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(archive_lib.shutil, 'copyfileobj', full)
  path = craft.archive(module, tmp_path / 'module.tar.gz')
  refused(path, 'module.tar.gz: no space left to unpack it in .*; free some, or set TMPDIR', errors.ArchiveError)


def test_the_digest_is_checked_before_a_file_is_parsed(own_module, refused):
  (own_module / 'saved_model.pb').write_bytes(b'x')
  (own_module / 'assets/albert_config.json').write_text('{')
  wrong = source_lib.Reading(sha256='0' * 64)
  refused(own_module, 'own_module: SHA-256 is .*, but option source_sha256 is 0000', errors.DigestError, reading=wrong)


def test_a_directory_of_macos_or_without_a_model_beside_it_is_no_obstacle(module, tmp_path):
  around = tmp_path / 'around'
  shutil.copytree(module, around / 'albert_tiny')
  (around / '__MACOSX/albert_tiny').mkdir(parents=True)
  (around / '__MACOSX/albert_tiny/._saved_model.pb').write_bytes(b'x')
  (around / 'runs').mkdir()
  (around / 'runs/events.out.tfevents.1').write_bytes(b'x')
  craft.archive(around, tmp_path / 'around.tar.gz')
  for path in (around, tmp_path / 'around.tar.gz', f'file://{around}', f'file://{tmp_path}/around.tar.gz'):
    assert _facts(path)[0] == _facts(module)[0]


def test_several_models_in_a_directory_are_named_in_the_order_of_their_numbers(module, tmp_path):
  for number in (500, 1500, 1000):
    shutil.copytree(module, tmp_path / f'checkpoint-{number}')
  message = (
    r': 3 models \(checkpoint-500, checkpoint-1000, checkpoint-1500\); give one, as '
    rf'{tmp_path}/checkpoint-1500$'
  )
  with pytest.raises(errors.SourceError, match=message):
    _facts(tmp_path)


def test_a_model_that_lies_deeper_is_found_and_named(module, tmp_path):
  shutil.copytree(module, tmp_path / 'snapshots/0123abc')
  with pytest.raises(errors.SourceError, match=f'a model lies deeper; give its directory, {tmp_path}/snapshots/0123ab'):
    _facts(tmp_path)


@pytest.mark.parametrize(
  'name, message',
  [
    ('pytorch_model.bin', r'no model that can be read \(pytorch_model.bin is a file of PyTorch\); give'),
    ('model.tflite', r'no model that can be read \(model.tflite is a file of another format\); give the model that'),
  ],
)
def test_a_directory_with_a_model_of_another_tool_is_named(tmp_path, name, message):
  (tmp_path / name).write_bytes(b'x')
  with pytest.raises(errors.SourceError, match=message):
    _facts(tmp_path)


@pytest.mark.parametrize(
  'content, message', [(b'version https://git-lfs.github.com/spec/v1', 'a Git LFS'), (b'<html>', 'a web page')]
)
def test_a_module_whose_format_file_was_not_downloaded_is_named(own_module, content, message):
  (own_module / 'tfhub_module.pb').write_bytes(content)
  with pytest.raises(errors.SourceError, match=f'own_module/tfhub_module.pb: this is {message}'):
    _facts(own_module)


def test_a_file_in_an_archive_is_named_by_the_archive(own_module, tmp_path):
  (own_module / 'assets/albert_config.json').write_text('{')
  path = craft.archive(own_module, tmp_path / 'module.tar.gz')
  with pytest.raises(errors.SourceError, match='^[^ ]*/module.tar.gz/assets/albert_config.json: invalid JSON'):
    _facts(path)


def test_an_archive_names_what_cannot_be_read_like_a_directory(tmp_path):
  (tmp_path / 'model').mkdir()
  (tmp_path / 'model/config.json').write_text('{}')
  (tmp_path / 'model/pytorch_model.bin').write_bytes(b'x')
  (tmp_path / 'model/tokenizer.json').write_bytes(b'{}')
  craft.archive(tmp_path / 'model', tmp_path / 'model.tar.gz')
  messages = []
  for path in (tmp_path / 'model', tmp_path / 'model.tar.gz'):
    with pytest.raises(errors.SourceError, match='pytorch_model.bin is not supported.*tokenizer.json cannot') as caught:
      _facts(path)
    messages.append(str(caught.value).partition(': ')[2])
  assert messages[0] == messages[1]


def test_equal_copies_of_the_vocabulary_count_as_one(own_module, module):
  shutil.copy(own_module / 'assets/30k-clean.model', own_module / 'assets/spiece.model')
  assert _facts(own_module)[1:3] == _facts(module)[1:3]
  (own_module / 'assets/spiece.model').write_bytes(b'x')
  with pytest.raises(errors.SourceError, match=r'2 SentencePiece models \(30k-clean.model, spiece.model\), not 1'):
    _facts(own_module)


def test_an_empty_source_is_named():
  for check in (source_lib.check_handle, _facts):
    with pytest.raises(errors.UsageError, match='option source: empty; give the directory or archive of a model'):
      check('')


def test_damaged_bytes_in_the_cache_are_fetched_again(served, tmp_path):
  handle, asked = served
  right = _facts(handle)
  data = next((tmp_path / 'cache').glob('*/variables/*.data-*'))
  craft.flip(data, data.stat().st_size // 2)
  with pytest.raises(errors.SourceError, match=f'cannot be read .*; run again, which downloads {handle} once more'):
    _facts(handle)
  assert _same(_facts(handle), right)
  assert len(asked) == 2


def test_a_path_inside_an_archive_is_not_advised(module, tmp_path):
  for number in (500, 1000):
    shutil.copytree(module, tmp_path / f'trainer/checkpoint-{number}')
  shutil.copytree(module, tmp_path / 'deep/a/b')
  for name, message in (
    ('trainer', r'2 models \(checkpoint-500, checkpoint-1000\); unpack the archive, and give one, as checkpoint-1000$'),
    ('deep', 'a model lies deeper; unpack the archive, and give its directory, a/b$'),
  ):
    path = craft.archive(tmp_path / name, tmp_path / f'{name}.tar.gz')
    with pytest.raises(errors.SourceError, match=rf'^[^ ]*/{name}.tar.gz: {message}'):
      _facts(path)


@pytest.mark.parametrize('packed', [False, True])
def test_the_transformer_of_sentence_transformers_is_read(module, tmp_path, packed):
  model = tmp_path / 'model'
  shutil.copytree(module, model / '0_Transformer')
  for name in ('1_Pooling', '2_Dense'):
    (model / name).mkdir()
    (model / name / 'config.json').write_text('{}')
    (model / name / 'model.safetensors').write_bytes(b'x')
  (model / 'config.json').write_text('{"__version__": "2.0.0"}')
  types = ('Transformer', 'Pooling', 'Dense')
  names = ('0_Transformer', '1_Pooling', '2_Dense')
  modules_json = [{'path': n, 'type': f'sentence_transformers.models.{t}'} for n, t in zip(names, types, strict=True)]
  (model / 'modules.json').write_text(json.dumps(modules_json))
  path = craft.archive(model, tmp_path / 'model.tar.gz') if packed else model
  assert _facts(path)[0] == _facts(module)[0]


def test_modules_of_sentence_transformers_outside_of_the_model_are_not_read(module, tmp_path):
  (tmp_path / 'model').mkdir()
  shutil.copytree(module, tmp_path / 'other')
  (tmp_path / 'model/modules.json').write_text('[{"path": "../other", "type": "x.Transformer"}]')
  with pytest.raises(errors.SourceError, match='no TF1 Hub module, checkpoint'):
    _facts(tmp_path / 'model')


@pytest.mark.parametrize('name', ['variables', 'assets'])
def test_a_part_of_a_module_is_named(module, name):
  with pytest.raises(errors.SourceError, match=f'{name}: a part of a SavedModel; give its directory, {module}$'):
    source_lib.check_handle(str(module / name))


def test_a_checkpoint_beside_a_config_alone_is_the_source(checkpoint_alone, tmp_path):
  right = _facts(checkpoint_alone)
  own = shutil.copytree(checkpoint_alone, tmp_path / 'own')
  (own / 'config.json').write_text('{}')
  assert _same(_facts(own), right)


@pytest.fixture
def checkpoint_alone(module, tmp_path):
  """A TF2 checkpoint of the encoder, as `--to=checkpoint` writes it."""
  (tmp_path / 'checkpoint').mkdir()
  with source_lib.open_source(str(module)) as source:
    tf2_checkpoint.write(source, tmp_path / 'checkpoint')
  return tmp_path / 'checkpoint'
