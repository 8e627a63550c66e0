"""The comparison passes for a right conversion, and fails for every wrong one."""

import dataclasses

import conftest
import numpy as np
import pytest

from converters import albert as albert_lib
from converters import config as config_lib
from converters import errors
from converters import weight_map
from export import parity
from export import saved_model
from export import source_graph

SIGNATURES = tuple(source_graph.SIGNATURES)


def _config(**changes):
  return config_lib.AlbertConfig(**({
      'vocab_size': 200, 'embedding_size': 8, 'hidden_size': 16, 'num_hidden_layers': 3, 'num_attention_heads': 4,
      'intermediate_size': 24, 'max_position_embeddings': 128, 'type_vocab_size': 2, 'hidden_dropout_prob': 0.0,
      'attention_probs_dropout_prob': 0.0} | changes))


def test_batch_has_different_lengths_both_types_and_padding():
  batch = parity.make_batch(_config())
  lengths = batch.input_mask.sum(axis=1)
  assert len(set(lengths)) == 4 and lengths.max() == batch.input_mask.shape[1] and lengths.min() >= 1
  assert {tuple(sorted(set(row[mask == 1]))) for row, mask in zip(batch.input_type_ids, batch.input_mask, strict=True)} == {(0,), (0, 1)}
  assert not batch.input_type_ids[batch.input_mask == 0].any() and not batch.input_word_ids[batch.input_mask == 0].any()
  assert (batch.masked_lm_positions < lengths[:, np.newaxis]).all() and not batch.masked_lm_positions[:, -1].any()
  assert all(a.dtype == np.int32 for a in dataclasses.astuple(batch))


@pytest.mark.parametrize('changes', [dict(max_position_embeddings=1), dict(max_position_embeddings=2), dict(type_vocab_size=1)])
def test_batch_fits_the_smallest_models(changes):
  config = _config(**changes)
  batch = parity.make_batch(config)
  assert batch.input_mask.shape[1] <= config.max_position_embeddings
  assert batch.input_type_ids.max() < config.type_vocab_size
  assert (batch.masked_lm_positions < batch.input_mask.sum(axis=1)[:, np.newaxis]).all()


@pytest.fixture
def outputs():
  rng = np.random.default_rng(0)
  return {
      'tokens/pooled_output': rng.standard_normal((2, 4)),
      'tokens/sequence_output': rng.standard_normal((2, 3, 4)),
      'mlm/pooled_output': rng.standard_normal((2, 4)),
      'mlm/mlm_logits': rng.standard_normal((4, 5)),
      'sop/sop_log_probs': rng.standard_normal((2, 2)),
  }


MASK = np.array([[1, 1, 1], [1, 0, 0]])


def test_equal_outputs_pass(outputs):
  ours = outputs | {'mlm/mlm_logits': outputs['mlm/mlm_logits'].reshape(2, 2, 5)}
  differences = parity.compare(outputs, ours, MASK)
  assert {name: (d.values, d.max_abs) for name, d in differences.items()} == {
      'pooled_output': (16, 0.0), 'sequence_output': (16, 0.0), 'mlm_logits': (20, 0.0), 'sop_log_probs': (4, 0.0)}


def test_padding_is_not_compared(outputs):
  ours = {name: value.copy() for name, value in outputs.items()}
  ours['tokens/sequence_output'][1, 2] += 9
  parity.compare(outputs, ours, MASK)
  ours['tokens/sequence_output'][1, 0, 0] += 1e-3
  with pytest.raises(errors.ParityError, match='tokens/sequence_output differs by 0.001, more than 1e-05'):
    parity.compare(outputs, ours, MASK)


@pytest.mark.parametrize('side, value', [
    ('ours', 1e-4), ('theirs', 1e-4), *((side, value) for side in ('ours', 'theirs', 'both') for value in (np.nan, np.inf))])
@pytest.mark.parametrize('name', [
    'tokens/pooled_output', 'tokens/sequence_output', 'mlm/pooled_output', 'mlm/mlm_logits', 'sop/sop_log_probs'])
def test_one_wrong_value_fails(outputs, name, side, value):
  ours, theirs = ({n: v.copy() for n, v in outputs.items()} for _ in range(2))
  for wrong in {'ours': [ours], 'theirs': [theirs], 'both': [ours, theirs]}[side]:
    wrong[name].flat[1] += value
  with pytest.raises(errors.ParityError, match=f'{name} differs by'):
    parity.compare(theirs, ours, MASK)


def test_every_failing_output_is_named(outputs):
  ours = {name: value + 1 for name, value in outputs.items()}
  with pytest.raises(errors.ParityError) as caught:
    parity.compare(outputs, ours, MASK)
  assert all(name in str(caught.value) for name in outputs)


def test_missing_empty_and_misshapen_outputs_fail(outputs):
  without = {n: v for n, v in outputs.items() if n != 'sop/sop_log_probs'}
  with pytest.raises(errors.ParityError, match='sop/sop_log_probs is missing in the source'):
    parity.compare(without, outputs, MASK)
  with pytest.raises(errors.ParityError, match='sop/sop_log_probs is missing in the export'):
    parity.compare(outputs, without, MASK)
  assert not parity.Difference(0, 0.0, 1.0).passes
  with pytest.raises(errors.ParityError, match='no outputs'):
    parity.compare({}, {}, MASK)
  empty = outputs | {'tokens/pooled_output': np.zeros((0, 4))}
  with pytest.raises(errors.ParityError, match='tokens/pooled_output differs by nan'):
    parity.compare(empty, empty, MASK)
  with pytest.raises(errors.ParityError, match=r'pooled_output has shape \[2, 3\], the source\'s \[2, 4\]'):
    parity.compare(outputs, outputs | {'tokens/pooled_output': np.zeros((2, 3))}, MASK)


def _swapped(one, other):
  return lambda read, row, rows: read(rows[other if row.name == one else one if row.name == other else row.name])


def _changed(name, change):
  return lambda read, row, rows: change(read(row)) if row.name == name else read(row)


WRONG = {
    'query and key swapped': _swapped('attention.query.kernel', 'attention.key.kernel'),
    'layer norms swapped': _swapped('attention.norm.gamma', 'feed_forward.norm.gamma'),
    'value transposed': _changed('attention.value.kernel', lambda v: v.T),
    'pooler transposed': _changed('pooler.kernel', lambda v: v.T),
    'word embedding shifted': _changed('embeddings.word', lambda v: np.roll(v, 1, axis=0)),
    'token types swapped': _changed('embeddings.token_type', lambda v: v[::-1]),
    'mlm bias reversed': _changed('mlm.output_bias', lambda v: v[::-1]),
    'sop classes swapped': _changed('sop.kernel', lambda v: v[::-1]),
}


@pytest.fixture(scope='module')
def theirs(module):
  config = config_lib.read(module / 'assets/albert_config.json')
  batch = parity.make_batch(config)
  with source_graph.start(module, batch.for_source, SIGNATURES) as run:
    return batch, run.outputs()


@pytest.mark.parametrize('wrong', [None, *WRONG])
def test_weights_in_the_wrong_place_fail(source, theirs, monkeypatch, tmp_path, wrong):
  from export import encoder
  rows = {r.name: r for r in weight_map.rows(source.config, source.parts)}
  read = source.tensor
  if wrong:
    monkeypatch.setattr(source, 'tensor', lambda row: WRONG[wrong](read, row, rows))
  albert = albert_lib.build(source, source.parts)
  (tmp_path / 'sp.model').write_bytes(source.sp_model)
  saved_model.write(*encoder.exportable(albert, str(tmp_path / 'sp.model')), tmp_path / 'model')
  batch, expected = theirs
  actual = parity.encoder_outputs(tmp_path / 'model', batch, SIGNATURES, 'dict')
  if wrong is None:
    parity.compare(expected, actual, batch.input_mask)
  else:
    with pytest.raises(errors.ParityError, match='differs by'):
      parity.compare(expected, actual, batch.input_mask)


def test_export_without_parity_publishes_nothing(module, release, monkeypatch):
  transform = weight_map.Transform.apply
  monkeypatch.setattr(weight_map.Transform, 'apply',
                      lambda self, value, shape: transform(self, value.T if value.shape == (16, 16) else value, shape))
  with pytest.raises(errors.ParityError, match='no parity .*nothing was published'):
    release(module)
  assert conftest.leftovers(release.root) == []


def test_head_without_a_signature_is_refused_or_left_out(own_module, release):
  from tensorflow.core.protobuf import saved_model_pb2
  path = own_module / 'saved_model.pb'
  saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
  for meta_graph in saved.meta_graphs:
    del meta_graph.signature_def['sop']
  path.write_bytes(saved.SerializeToString())
  with pytest.raises(errors.SourceError, match='sop weights, but no signature to compare them with.*--nosop'):
    release(own_module)
  assert sorted(release(own_module, sop=False)[1].differences) == ['mlm_logits', 'pooled_output', 'sequence_output']


@pytest.mark.parametrize('signature', SIGNATURES)
def test_every_signature_is_compared(own_module, release, signature):
  from tensorflow.core.protobuf import saved_model_pb2
  path = own_module / 'saved_model.pb'
  saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
  graph = saved.meta_graphs[0]
  output = graph.signature_def[signature].outputs['pooled_output']
  tanh = next(n for n in graph.graph_def.node if n.name == output.name.split(':')[0])
  output.name = tanh.input[0] + ':0'
  path.write_bytes(saved.SerializeToString())
  with pytest.raises(errors.ParityError, match=rf'no parity \({signature}/pooled_output differs by [^;]*\)'):
    release(own_module)


def test_preprocessor_with_another_model_fails(preprocessor_path, make_module):
  import pathlib
  other = (make_module(vocab_size=150) / 'assets/30k-clean.model').read_bytes()
  with pytest.raises(errors.ParityError, match="no parity .* in the preprocessor for 'The bridge"):
    parity.check_preprocessor(pathlib.Path(preprocessor_path), other)
