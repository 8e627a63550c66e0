"""A module is read from a directory, an archive or a hub handle, and refused with one line when something is off."""

import gzip
import http.server
import json
import os
import pathlib
import shutil
import socketserver
import tarfile
import threading

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_shape_pb2
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

from converters import errors
from converters import source as source_lib
from converters import weight_map


def _archive(module: pathlib.Path, path: pathlib.Path, root: str = '.') -> pathlib.Path:
  with tarfile.open(path, 'w:gz') as tar:
    tar.add(module, root)
  return path


def _facts(handle, **kwargs):
  with source_lib.open_source(str(handle), **kwargs) as source:
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
  _archive(module, tmp_path / 'served.tar.gz')
  handle = f'{url}/google/albert_tiny/3'
  assert _same(_facts(handle), _facts(module))
  assert _same(_facts(handle), _facts(module))
  assert len(asked) == 1


def test_unknown_handle_is_refused(tmp_path, host, monkeypatch):
  monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path / 'cache'))
  with pytest.raises(errors.SourceError, match='404.*google/albert_none/1: check the handle'):
    _facts(f'{host[0]}/google/albert_none/1')


def test_config_can_be_given(own_module, tmp_path):
  config = (own_module / 'assets/albert_config.json').rename(tmp_path / 'config.json')
  with pytest.raises(errors.ConfigError, match='albert_config.json .*--albert_config'):
    _facts(own_module)
  assert _facts(own_module, albert_config=str(config))[2].hidden_size == 16


def test_modules_without_heads_say_so(make_module):
  with source_lib.open_source(str(make_module(mlm=False, sop=False))) as source:
    assert source.parts == {weight_map.Part.ENCODER}


def _edit_config(module, **changes):
  path = module / 'assets/albert_config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _edit_graph(module, edit):
  path = module / 'saved_model.pb'
  saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
  edit(saved_model.meta_graphs[0])
  path.write_bytes(saved_model.SerializeToString())


def _truncate(path, keep=0.5):
  os.truncate(path, int(path.stat().st_size * keep))


def _rename_input(graph):
  inputs = graph.signature_def['tokens'].inputs
  inputs['ids'].CopyFrom(inputs['input_ids'])
  del inputs['input_ids']


def _set_input(**fields):
  return lambda graph: graph.signature_def['tokens'].inputs['input_mask'].MergeFrom(meta_graph_pb2.TensorInfo(**fields))


def _shape(rank):
  # Merged into the two dimensions that are there.
  return tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=-1)] * (rank - 2))


def _make_cased(graph):
  node = next(n for n in graph.graph_def.node if n.name == 'do_lower_case')
  node.attr['value'].tensor.CopyFrom(tf.make_tensor_proto(False))


DATA = 'variables/variables.data-00000-of-00001'

FAULTS = {
    'no saved_model.pb': (lambda m: (m / 'saved_model.pb').unlink(), 'no saved_model.pb in '),
    'empty saved_model.pb': (lambda m: _truncate(m / 'saved_model.pb', 0), '0 metagraphs without tags in .*saved_model.pb'),
    'truncated saved_model.pb': (lambda m: _truncate(m / 'saved_model.pb'), 'no SavedModel in .*saved_model.pb'),
    'no tfhub_module.pb': (lambda m: (m / 'tfhub_module.pb').unlink(), 'no tfhub_module.pb in .*no TF1 Hub module'),
    'format 9': (lambda m: (m / 'tfhub_module.pb').write_bytes(b'\x08\x09'), 'unknown format in tfhub_module.pb'),
    'no tokens': (lambda m: _edit_graph(m, lambda g: g.signature_def.pop('tokens')),
                  r'no `tokens` signature in .*\(there are: mlm, sop, tokenization_info\)'),
    'tokens of another dtype': (lambda m: _edit_graph(m, _set_input(dtype=types_pb2.DT_INT64)),
                                'signature `tokens` has input_mask of dtype int64 instead of int32 in '),
    'tokens of another rank': (lambda m: _edit_graph(m, _set_input(tensor_shape=_shape(3))),
                               'signature `tokens` has input_mask of rank 3 instead of 2 in '),
    'mlm without logits': (lambda m: _edit_graph(m, lambda g: g.signature_def['mlm'].outputs.pop('mlm_logits')),
                           'signature `mlm` has no mlm_logits in '),
    'cased': (lambda m: _edit_graph(m, _make_cased), 'do_lower_case is false in .*saved_model.pb'),
    'other tokens': (lambda m: _edit_graph(m, _rename_input), r"signature `tokens` has inputs \['ids', 'input_mask', 'segment_ids'\], no input_ids in "),
    'no index': (lambda m: (m / 'variables/variables.index').unlink(), 'no variables.index in '),
    'truncated index': (lambda m: _truncate(m / 'variables/variables.index'), 'no checkpoint in .*variables.index'),
    'no data': (lambda m: (m / DATA).unlink(), 'in variables/: fetch the module again'),
    'truncated data': (lambda m: _truncate(m / DATA), 'cannot be read .* in variables/: fetch the module again'),
    'no SentencePiece model': (lambda m: (m / 'assets/30k-clean.model').unlink(), r'0 SentencePiece models \(none\)'),
    'two SentencePiece models': (lambda m: shutil.copy(m / 'assets/30k-clean.model', m / 'assets/x.model'),
                                 r'2 SentencePiece models \(30k-clean.model, x.model\)'),
    'empty SentencePiece model': (lambda m: _truncate(m / 'assets/30k-clean.model', 0), 'no SentencePiece model in '),
    'truncated SentencePiece model': (lambda m: _truncate(m / 'assets/30k-clean.model'), 'assets/30k-clean.model'),
    'config is no JSON': (lambda m: (m / 'assets/albert_config.json').write_text('{'), 'no valid JSON in '),
    'config is a list': (lambda m: (m / 'assets/albert_config.json').write_text('[]'), 'a list instead of an object in '),
    'another vocabulary': (lambda m: _edit_config(m, vocab_size=201),
                           '200 pieces in assets/30k-clean.model, but the embedding has 201 rows'),
    'another hidden size': (lambda m: _edit_config(m, hidden_size=32), r'bert/pooler/dense/kernel has shape \[16, 16\], not \[32, 32\]'),
    'heads do not divide': (lambda m: _edit_config(m, num_attention_heads=3), 'hidden_size 16 is not a multiple of num_attention_heads 3'),
    'two groups': (lambda m: _edit_config(m, num_hidden_groups=2), 'num_hidden_groups is 2, not 1'),
    'another activation': (lambda m: _edit_config(m, hidden_act='relu'), "hidden_act is 'relu', not 'gelu'"),
    'unknown attribute': (lambda m: _edit_config(m, rotary=True), "unknown 'rotary'"),
    'negative size': (lambda m: _edit_config(m, num_hidden_layers=-1), 'num_hidden_layers is -1'),
    'size as text': (lambda m: _edit_config(m, hidden_size='16'), "hidden_size is '16'"),
    'size true': (lambda m: _edit_config(m, num_hidden_layers=True), 'num_hidden_layers is True'),
    'too many layers': (lambda m: _edit_config(m, num_hidden_layers=1 << 20), 'num_hidden_layers is 1048576, not a whole number from 1 to 256'),
    'dropout beyond floats': (lambda m: _edit_config(m, hidden_dropout_prob=10**400), 'hidden_dropout_prob is 1000.*not a probability'),
    'dropout NaN': (lambda m: _edit_config(m, hidden_dropout_prob=float('nan')), 'hidden_dropout_prob is nan, not a probability'),
    'another layer norm': (lambda m: _edit_config(m, ln_type='preln'), "ln_type is 'preln', not 'postln'"),
    'dropout of 1': (lambda m: _edit_config(m, hidden_dropout_prob=1), 'hidden_dropout_prob is 1, not a probability'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_broken_module_is_refused(own_module, fault):
  damage, message = FAULTS[fault]
  damage(own_module)
  with pytest.raises(errors.SourceError, match=message):
    _facts(own_module)


def test_missing_source_is_refused(tmp_path):
  with pytest.raises(errors.SourceError, match='no file or directory .*nothing'):
    _facts(tmp_path / 'nothing')


def test_extra_directory_in_an_archive_is_named(module, tmp_path):
  with pytest.raises(errors.SourceError, match="the module is in its directory 'albert'"):
    _facts(_archive(module, tmp_path / 'module.tar.gz', 'albert'))


def test_truncated_archive_is_refused(module, tmp_path):
  archive = _archive(module, tmp_path / 'module.tar.gz')
  _truncate(archive)
  with pytest.raises(errors.ArchiveError, match='in .*module.tar.gz: fetch the archive again'):
    _facts(archive)


def test_flipped_bit_in_the_weights_is_refused(own_module):
  content = bytearray((own_module / DATA).read_bytes())
  content[len(content) // 2] ^= 1
  (own_module / DATA).write_bytes(content)
  with pytest.raises(errors.SourceError, match='cannot be read .*in variables/'):
    _facts(own_module)


MEMBERS = {
    'parent': dict(name='../x'),
    'absolute': dict(name='/tmp/x'),
    'backslash': dict(name='..\\x'),
    'control character': dict(name='a\nb'),
    'symbolic link': dict(name='x', type=tarfile.SYMTYPE, linkname='saved_model.pb'),
    'hard link': dict(name='x', type=tarfile.LNKTYPE, linkname='saved_model.pb'),
    'fifo': dict(name='x', type=tarfile.FIFOTYPE),
    'device': dict(name='x', type=tarfile.CHRTYPE),
    'duplicate': dict(name='saved_model.pb'),
}


@pytest.mark.parametrize('member', MEMBERS)
def test_hostile_archive_member_is_refused(module, tmp_path, member):
  archive = tmp_path / 'module.tar.gz'
  with tarfile.open(archive, 'w:gz') as tar:
    tar.add(module, '.')
    info = tarfile.TarInfo()
    for name, value in MEMBERS[member].items():
      setattr(info, name, value)
    tar.addfile(info)
  with pytest.raises(errors.ArchiveError, match='module.tar.gz'):
    _facts(archive)


def test_bomb_is_refused_before_it_is_unpacked(module, tmp_path, monkeypatch):
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
  bomb = tmp_path / 'zeros'
  with open(bomb, 'wb') as f:
    f.truncate(1 << 27)
  archive = _archive(bomb, tmp_path / 'module.tar.gz', 'saved_model.pb')
  bomb.unlink()
  with pytest.raises(errors.ArchiveError, match='bytes unpacked from .*no ALBERT module is so large'):
    _facts(archive)
  assert os.listdir(tmp_path) == ['module.tar.gz']


def _raw_archive(path, *members):
  with gzip.open(path, 'wb') as f:
    for info, content in members:
      f.write(info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512))
    f.write(bytes(1024))
  return path


def _header(**fields):
  info = tarfile.TarInfo()
  for name, value in fields.items():
    setattr(info, name, value)
  return info


HEADERS = {
    'header of 1048576 bytes': [(_header(name='pax', type=tarfile.XHDTYPE, size=1 << 20), bytes(1 << 20))],
    'header of 1048577 bytes': [(_header(name='././@LongLink', type=tarfile.GNUTYPE_LONGNAME, size=(1 << 20) + 1), b'x' * ((1 << 20) + 1))],
    'ValueError': [(_header(name='pax', type=tarfile.XHDTYPE, size=22), b'22 GNU.sparse.map=1,x\n'),
                                (_header(name='x', size=1), b'x')],
    'Error': [(_header(name='pax', type=tarfile.XHDTYPE, size=27), b'99999999999999999999999 a=\n')],
    'more than 1000 members': [(_header(name=f'd{i}', type=tarfile.DIRTYPE), b'') for i in range(1001)],
    'no files': [(_header(name='d', type=tarfile.DIRTYPE), b'')],
}


@pytest.mark.parametrize('case', HEADERS)
def test_hostile_archive_header_is_refused(tmp_path, case):
  with pytest.raises(errors.ArchiveError, match=f'{case}.*module.tar.gz'):
    _facts(_raw_archive(tmp_path / 'module.tar.gz', *HEADERS[case]))


@pytest.mark.parametrize('garbage', [b'x' * 100, gzip.compress(b'x' * 100)], ids=['plain', 'packed'])
def test_trailing_garbage_is_refused(module, tmp_path, garbage):
  archive = _archive(module, tmp_path / 'module.tar.gz')
  with open(archive, 'ab') as f:
    f.write(garbage)
  with pytest.raises(errors.ArchiveError, match='module.tar.gz: fetch the archive again'):
    _facts(archive)


def test_digest_follows_links(module, make_module, tmp_path):
  digests = []
  for number, variables in enumerate((module / 'variables', make_module(seed=1) / 'variables')):
    copy = shutil.copytree(module, tmp_path / str(number))
    shutil.rmtree(copy / 'variables')
    (copy / 'variables').symlink_to(variables)
    digests.append(_facts(copy)[0])
  assert digests[0] == _facts(module)[0] != digests[1]
