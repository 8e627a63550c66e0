"""ONNX files compute the encoder, have each weight once, and are published only if they are right."""

import dataclasses
import hashlib
import json
import os
import types

import numpy as np
import onnx
import pytest
import sentencepiece as spm
import tensorflow as tf

from converters import albert_config
from converters import errors
from converters import source as source_lib
from converters import weight_map
from converters.reference import inputs as proof_inputs
from converters.reference import measures
from converters.reference import outputs as reference_outputs
from converters.writers import graph_options
from converters.writers import int8_certificate
from converters.writers import onnx_graph
from converters.writers import onnx_int8
from converters.writers import onnx_model
from converters.writers import proof as proof_lib

_ALL = graph_options.Options(layers=True, mlm=True, sop=True)
_CONFIG = albert_config.AlbertConfig(
  vocab_size=50,
  embedding_size=8,
  hidden_size=16,
  num_hidden_layers=4,
  num_attention_heads=4,
  intermediate_size=24,
  max_position_embeddings=32,
  type_vocab_size=2,
  hidden_dropout_prob=0,
  attention_probs_dropout_prob=0,
)
_NAMES = ('input_word_ids', 'input_mask', 'input_type_ids')


def write(module, directory, options=_ALL):
  directory.mkdir(parents=True)
  with source_lib.open_source(str(module)) as source:
    return onnx_model.write(source, directory, options)


@pytest.fixture(scope='module')
def written(module, tmp_path_factory):
  """A directory by --to=onnx with every output. Not to be changed."""
  directory = tmp_path_factory.mktemp('onnx') / 'albert'
  write(module, directory)
  return directory


def _weights(config, parts=frozenset(weight_map.Part)):
  random = np.random.default_rng(1)
  return {
    row.name: random.normal(row.name.endswith('gamma'), 0.3, weight_map.shape(row.shape, config)).astype(np.float32)
    for row in weight_map.rows(config, parts)
  }


def _run(config, options, batch, path, names=onnx_graph.Names.ENCODER):
  """Builds a graph with random weights, and runs it."""
  model = onnx_graph.build(_weights(config), config, options, names)
  onnx.checker.check_model(model, full_check=True)
  path.write_bytes(onnx_graph.serialize(model))
  return onnx_model.runner(path)(batch)


def _masked(rows, length=9):
  """Makes a batch with the given masks, and types and ids at every position."""
  random = np.random.default_rng(3)
  mask = np.array(rows, np.int32).reshape(-1, length)
  ids = random.integers(0, _CONFIG.vocab_size, mask.shape).astype(np.int32)
  types = random.integers(0, 2, mask.shape).astype(np.int32)
  return proof_inputs.Batch(ids, mask, types, np.zeros((len(mask), 2), np.int32))


@pytest.mark.parametrize('padding_free', [False, True])
@pytest.mark.parametrize(
  'changes',
  [
    *({'activation': activation} for activation in albert_config.Activation),
    {'embedding_size': 16},
    {'num_hidden_groups': 2},
    {'num_hidden_groups': 2, 'inner_group_num': 2},
    {'type_vocab_size': 3},
  ],
  ids=str,
)
def test_every_config_computes_the_reference(changes, padding_free, tmp_path):
  config = dataclasses.replace(_CONFIG, **changes)
  weights, parts = _weights(config), frozenset(weight_map.Part)
  batch = proof_inputs.make(config)
  source = types.SimpleNamespace(config=config, tensor=lambda row: weights[row.name])
  expected = reference_outputs.Expected(source, parts, batch, None)
  for names in onnx_graph.Names:
    found = _run(config, dataclasses.replace(_ALL, padding_free=padding_free), batch, tmp_path / 'model.onnx', names)

    assert set(expected.outputs) == set(found)
    for name, value in found.items():
      distance = measures.relative(measures.packed(value, batch.input_mask, name), expected.outputs[name].ravel())
      assert distance.within(expected.float32[name].times(8)), (names, name)


@pytest.mark.parametrize(
  'rows',
  [
    [[1] * 9],
    [[1] + [0] * 8, [1] * 9],
    [[1, 0, 1, 1, 0, 0, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0, 1]],
    [[0, 0, 0, 1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0, 0, 0, 0]],
    [[0] * 9],
    [[0] * 9, [1, 1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 1]],
    [[2, 7, -1, 0, 0, 0, 0, 0, 0]],
    [],
  ],
  ids=str,
)
def test_without_padding_it_computes_the_same_and_gives_zeros_at_padding(rows, tmp_path):
  batch = _masked(rows)
  plain, packed = (
    _run(_CONFIG, dataclasses.replace(_ALL, padding_free=free), batch, tmp_path / f'{free}.onnx')
    for free in (False, True)
  )
  kept = batch.input_mask != 0
  kept |= ~kept.any(axis=1, keepdims=True)  # a row whose mask is all zero has no padding
  for name, value in packed.items():
    own, other = (value, plain[name])
    assert own.shape == other.shape and own.dtype == np.float32, name
    if name == 'sequence_output' or name.startswith('layer_'):
      assert not own[~kept].any(), name
      own, other = own[kept], other[kept]
    elif name == 'mlm_logits':  # of position 0
      own, other = own[kept[:, 0]], other[kept[:, 0]]
    np.testing.assert_allclose(own, other, atol=2e-5, err_msg=name)


def test_padding_is_not_computed(tmp_path):
  """An id that the table lacks is an error where it is computed, and none at padding."""
  batch = _masked([[1, 1, 0, 0, 0, 0, 0, 0, 0]])
  batch.input_word_ids[0, 5] = _CONFIG.vocab_size
  _run(_CONFIG, _ALL, batch, tmp_path / 'model.onnx')
  with pytest.raises(Exception, match='out of'):
    _run(_CONFIG, dataclasses.replace(_ALL, padding_free=False), batch, tmp_path / 'model.onnx')


def test_it_computes_the_published_encoder(written, released, config):
  encoder = tf.saved_model.load(released.root / 'tensorflow/albert_en_tiny/2')
  batch = proof_inputs.make(config, 11)
  theirs = encoder.mlm({name: tf.constant(value) for name, value in vars(batch).items()})
  theirs['sop_log_probs'] = encoder.sop({name: tf.constant(getattr(batch, name)) for name in _NAMES})['sop_log_probs']
  theirs |= {f'layer_{number}': value for number, value in enumerate(theirs.pop('encoder_outputs'))}
  for path in ('model.onnx', 'onnx/model.onnx'):
    ours = onnx_model.runner(written / path)(batch)
    assert set(ours) == set(theirs) - {'default'}
    for name, value in ours.items():
      one, other = (measures.packed(np.asarray(x), batch.input_mask, name) for x in (value, theirs[name]))
      np.testing.assert_allclose(one, other, atol=1e-5, err_msg=name)


def test_names_and_types(written):
  def interface(path):
    session = onnx_model.session(written / path)
    return [[(x.name, x.type, x.shape) for x in xs] for xs in (session.get_inputs(), session.get_outputs())]

  inputs, outputs = interface('model.onnx')
  assert inputs == [
    *((name, 'tensor(int32)', ['batch', 'seq']) for name in _NAMES),
    ('masked_lm_positions', 'tensor(int32)', ['batch', 'predictions']),
  ]
  assert [(name, shape) for name, _, shape in outputs] == [
    ('pooled_output', ['batch', 16]),
    ('sequence_output', ['batch', 'seq', 16]),
    *((f'encoder_outputs_{number}', ['batch', 'seq', 16]) for number in range(3)),
    ('mlm_logits', ['batch', 'predictions', 200]),
    ('sop_log_probs', ['batch', 2]),
  ]
  inputs, outputs = interface('onnx/model.onnx')
  assert inputs == [
    (name, 'tensor(int64)', ['batch', 'seq']) for name in ('input_ids', 'attention_mask', 'token_type_ids')
  ]
  assert [(name, shape) for name, _, shape in outputs] == [
    ('pooler_output', ['batch', 16]),
    ('last_hidden_state', ['batch', 'seq', 16]),
    *((f'hidden_states.{number + 1}', ['batch', 'seq', 16]) for number in range(3)),
    ('logits', ['batch', 'seq', 200]),
    ('sop_logits', ['batch', 2]),
  ]


def test_each_weight_is_stored_once_bit_for_bit(written, module):
  with source_lib.open_source(str(module)) as source:
    rows = weight_map.rows(source.config, source.parts)
    weights = {row.name: source.tensor(row) for row in rows}
  size = sum(value.nbytes for value in weights.values())
  assert sum((written / path).stat().st_size for path in ('model.onnx', 'onnx/model.onnx')) < size + 50_000
  for path in ('model.onnx', 'onnx/model.onnx'):
    model = onnx.load(written / path)
    assert [tensor.name for tensor in model.graph.initializer] == list(weights)
    for tensor in model.graph.initializer:
      assert np.array_equal(onnx.numpy_helper.to_array(tensor), weights[tensor.name]), tensor.name
    assert [node.op_type for node in model.graph.node].count('Block') == 3 and len(model.functions) == 1
    assert {node.domain for node in model.graph.node} | {node.domain for node in model.functions[0].node} == {
      '',
      'albert',
    }
    assert {one.domain: one.version for one in model.opset_import}[''] == 20 and model.ir_version == 9


def test_record_has_digests_and_figures(written, module):
  record = json.loads((written / 'record.json').read_text())
  with source_lib.open_source(str(module)) as source:
    assert record['source']['digest'] == source.digest
    assert record['weights'] == [
      {
        'name': row.name,
        'shape': list(source.tensor(row).shape),
        'sha256': hashlib.sha256(source.tensor(row).tobytes()).hexdigest(),
      }
      for row in weight_map.rows(source.config, source.parts)
    ]
  files = {path.relative_to(written).as_posix() for path in written.rglob('*') if path.is_file()}
  assert set(record['files']) == files - {'record.json'}
  for name, digests in record['files'].items():
    content = (written / name).read_bytes()
    assert digests == {'size': len(content), 'sha256': hashlib.sha256(content).hexdigest()}
  for figures in record['parity'].values():
    assert set(figures) == {
      'pooled_output', 'sequence_output', 'layer_0', 'layer_1', 'layer_2', 'mlm_logits', 'sop_log_probs'
    }  # fmt: skip
    for figure in figures.values():
      assert 0 < figure['distance']['rms'] < figure['allowed']['rms'] < 1e-4


def test_card_names_the_files(written):
  card = (written / 'README.md').read_text()
  assert 'masked_lm_positions' in card and '`last_hidden_state`' in card and '| `sop_log_probs` |' in card
  assert '{{' not in card and '{%' not in card


@pytest.mark.parametrize(
  'name',
  ['embeddings.word', 'attention.query.kernel', 'attention.norm.beta', 'pooler.bias', 'mlm.output_bias', 'sop.kernel'],
)
def test_a_wrong_weight_is_refused(name, module, tmp_path, monkeypatch):
  build = onnx_graph.build

  def wrong(weights, *args):
    return build(weights | {name: np.roll(weights[name], 1, axis=0)}, *args)

  monkeypatch.setattr(onnx_graph, 'build', wrong)
  with pytest.raises(errors.ParityError, match=r'^model.onnx: \w+ differs from the float64 result by .*; report'):
    write(module, tmp_path / 'albert')


def test_both_files_are_compared(module, tmp_path, monkeypatch):
  build = onnx_graph.build

  def wrong(weights, config, options, names):
    if names is onnx_graph.Names.HUGGING_FACE:
      options = dataclasses.replace(options, padding_free=False)
      config = dataclasses.replace(config, activation=albert_config.Activation.GELU_EXACT)
    return build(weights, config, options, names)

  monkeypatch.setattr(onnx_graph, 'build', wrong)
  with pytest.raises(errors.ParityError, match='^onnx/model.onnx: pooled_output'):
    write(module, tmp_path / 'albert')


def test_only_the_encoder_by_default(module, tmp_path):
  assert write(module, tmp_path / 'albert', graph_options.Options()) == [
    'the masked language model head',
    'the sentence order head',
  ]
  session = onnx_model.session(tmp_path / 'albert/model.onnx')
  assert [output.name for output in session.get_outputs()] == ['pooled_output', 'sequence_output']
  assert not any('mlm' in tensor.name for tensor in onnx.load(tmp_path / 'albert/model.onnx').graph.initializer)


def test_missing_head(make_module, tmp_path):
  with pytest.raises(errors.SourceError, match='no masked language model head; leave option with_mlm out'):
    write(make_module(mlm=False), tmp_path / 'albert')


def test_too_large_for_a_file(module, tmp_path, monkeypatch):
  monkeypatch.setattr(graph_options, '_LARGEST', 1000)
  with pytest.raises(errors.SourceError, match='bytes of weights, but a file has less than 2 GiB'):
    write(module, tmp_path / 'albert')


def test_the_proof_sees_holes_and_two_sizes(source):
  proof = proof_lib.Proof(source, source.parts)
  sizes = []

  def run(batch):
    sizes.append(batch.input_mask.shape)
    assert (batch.input_mask[-1] == [1, 0, 1, 1, 1, 0, 0, 0][: batch.input_mask.shape[1]]).all()
    return {}

  proof.check('model', run)
  assert sizes == [(5, 8), (4, 5)]


@pytest.fixture(scope='module')
def int8(module, tmp_path_factory):
  """A directory by --quantize=int8, and the corpus it was measured on. Not to be changed."""
  place = tmp_path_factory.mktemp('int8')
  corpus = place / 'texts.txt'
  corpus.write_text('The ferry was late.\n\nNobody minded, since the café had 1,000 cakes.\n')
  (place / 'albert').mkdir()
  with source_lib.open_source(str(module)) as source:
    onnx_model.write(source, place / 'albert', graph_options.Options(mlm=True), int8=True, corpus=corpus)
  return place / 'albert', corpus


def test_int8_has_every_kernel_and_table_quantized(int8):
  directory, _ = int8
  assert sorted(path.relative_to(directory).as_posix() for path in directory.rglob('*.onnx')) == [
    'model_quantized.onnx',
    'onnx/model_quantized.onnx',
  ]
  for path in ('model_quantized.onnx', 'onnx/model_quantized.onnx'):
    model = onnx.load(directory / path)
    floats = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    assert not any(name.endswith(('kernel', 'embeddings.word', 'embeddings.position')) for name in floats)
    products = [node for node in model.graph.node if node.op_type == 'MatMulInteger']
    assert len(products) == 3 * 6 + 4 and not model.functions  # blocks, projection, pooler and head
    (scale,) = [t for t in model.graph.initializer if t.name == 'feed_forward.intermediate.kernel_scale']
    assert list(scale.dims) == [24]


def test_int8_certificate(int8, config):
  directory, corpus = int8
  record = json.loads((directory / 'record.json').read_text())
  found = record['int8']
  assert found['corpus'] == {
    'texts': 'texts.txt',
    'sha256': hashlib.sha256(corpus.read_bytes()).hexdigest(),
    'count': 2,
  }
  layers = [f'layer_{number}' for number in range(config.num_hidden_layers)]
  assert set(found['distance']) == {'pooled_output', 'sequence_output', 'mlm_logits', *layers}
  for name, figure in found['distance'].items():
    assert 1e-3 < figure['rms'] < 0.2 and figure['rms'] < figure['largest'], name
  for figure in found['cosine'].values():
    assert 0.9 < figure['least'] <= figure['mean'] < 1
  assert 0.5 < found['mlm_top_1'] <= 1
  assert record['quantize'] == 'int8' and set(record['parity']) == {'model.onnx', 'onnx/model.onnx'}
  card = (directory / 'README.md').read_text()
  assert '**not** those of the source' in card and '| `layer_2` |' in card and 'on 2 texts' in card.lower()
  assert str(found['cosine']['pooled_output']['least']) in card and str(found['mlm_top_1']) in card


def test_int8_that_is_not_finite_is_refused(module, tmp_path, monkeypatch):
  quantized = onnx_int8.quantized

  def broken(model):
    result = quantized(model)
    (scale,) = [t for t in result.graph.initializer if t.name == 'pooler.kernel_scale']
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(np.nan), scale.name))
    return result

  monkeypatch.setattr(onnx_int8, 'quantized', broken)
  (tmp_path / 'albert').mkdir()
  with (
    source_lib.open_source(str(module)) as source,
    pytest.raises(errors.ParityError, match='pooled_output has values'),
  ):
    onnx_model.write(source, tmp_path / 'albert', graph_options.Options(), int8=True)


@pytest.mark.parametrize(
  'content, message', [(None, 'not a readable text file'), (b'\xff', 'not a read'), (b' ', 'no text')]
)
def test_invalid_corpus(module, tmp_path, content, message):
  if content is not None:
    (tmp_path / 'texts.txt').write_bytes(content)
  with source_lib.open_source(str(module)) as source, pytest.raises(errors.SourceError, match=message):
    int8_certificate.batches(source, tmp_path / 'texts.txt')


def test_texts_are_tokenized_as_the_weights_were_trained(source, tmp_path):
  (tmp_path / 'texts.txt').write_text('Café\n' + 'late ' * 300)
  ((batch,), described) = int8_certificate.batches(source, tmp_path / 'texts.txt')
  assert described['count'] == 2 and batch.input_word_ids.shape == (2, 128)
  processor = spm.SentencePieceProcessor(model_proto=source.sp_model)
  ids = [2, *processor.encode('cafe'), 3]
  assert batch.input_word_ids[0, : len(ids)].tolist() == ids and batch.input_mask[0].sum() == len(ids)
  assert batch.input_word_ids[1, -1] == 3 and batch.input_mask[1].all()


def test_to_onnx(convert, module, tmp_path):
  for name in ('one', 'two'):
    done = convert(f'--source={module}', '--to=onnx', f'--output={name}', '--with_mlm', '--nopadding_free')
    assert (done.returncode, done.stderr) == (0, '')
  assert done.stdout.startswith(f'two from {module}: a TF1 Hub module, sha256:')
  assert 'Left out: the sentence order head' in done.stdout
  for path in (tmp_path / 'one').rglob('*'):
    if path.is_file():
      assert path.read_bytes() == (tmp_path / 'two' / path.relative_to(tmp_path / 'one')).read_bytes(), path.name
  assert sorted(os.listdir(tmp_path)) == ['one', 'two']


def test_missing_package(convert, module, tmp_path):
  (tmp_path / 'hidden').mkdir()
  (tmp_path / 'hidden/onnxruntime.py').write_text('raise ModuleNotFoundError("No module named x", name="onnxruntime")')
  done = convert(f'--source={module}', '--to=onnx', '--output=albert', path='hidden')
  assert done.returncode == 1 and os.listdir(tmp_path) == ['hidden']
  assert done.stderr == (
    'error: --to=onnx: the package onnxruntime is missing (No module named x); run `pip install onnx onnxruntime`\n'
  )
