"""The comparison passes for a right conversion, and fails for every wrong one."""


import conftest
import numpy as np
import pytest

from converters import albert as albert_lib
from converters import errors
from converters import weight_map
from export import saved_model
from export.proof import parity
from export.proof import source_graph


class Right:
  """Stands for `parity.Expected`: the reference is given, and the same for both sides."""

  def __init__(self, outputs):
    self._outputs = outputs

  def of(self, name, outputs):
    return self._outputs[name]


MASK = np.array([[1, 1, 1], [1, 0, 0]])


@pytest.fixture
def right():
  rng = np.random.default_rng(0)
  return {
      'tokens/pooled_output': rng.standard_normal((2, 4)),
      'tokens/sequence_output': rng.standard_normal((4, 5)),
      'tokens/layer_0': rng.standard_normal((4, 5)),
      'mlm/pooled_output': rng.standard_normal((2, 4)),
      'mlm/mlm_logits': rng.standard_normal((2, 2, 5)),
      'sop/sop_log_probs': rng.standard_normal((2, 2)),
  }


@pytest.fixture
def outputs(right):
  """float32 outputs that are off by rounding alone; what is by position has its padding, of which nothing is asked."""
  result = {}
  for name, value in right.items():
    value = value.astype(np.float32)
    if name in ('tokens/sequence_output', 'tokens/layer_0'):
      value = np.concatenate([value, np.full((2, 5), 9, np.float32)]).reshape(2, 3, 5)
    result[name] = value
  return result


def _copy(outputs):
  return {name: value.copy() for name, value in outputs.items()}


def test_rounding_passes(right, outputs):
  theirs = outputs | {'mlm/mlm_logits': outputs['mlm/mlm_logits'].reshape(4, 5), 'tokens/layer_0': outputs['tokens/layer_0'].reshape(6, 5)}
  checks = parity.compare(theirs, outputs, Right(right), MASK)
  assert {name: check.values for name, check in checks.items()} == {
      'pooled_output': 8, 'sequence_output': 20, 'layer_0': 20, 'mlm_logits': 20, 'sop_log_probs': 4}
  for check in checks.values():
    assert 0 < check.export.rms == check.source.rms < check.allowed.rms < 3e-6


def test_padding_is_not_compared(right, outputs):
  ours = _copy(outputs)
  ours['tokens/sequence_output'][1, 2] += 9
  parity.compare(outputs, ours, Right(right), MASK)
  ours['tokens/sequence_output'][1, 0, 0] += 1e-3
  with pytest.raises(errors.ParityError, match='tokens/sequence_output is 0.00022 .at most 0.001. from the reference, more than 1.7e-06'):
    parity.compare(outputs, ours, Right(right), MASK)


def test_the_export_may_be_twice_as_far_off_as_the_source(right, outputs):
  rng = np.random.default_rng(1)
  noise = {name: rng.choice([-1e-5, 1e-5], value.shape).astype(np.float32) for name, value in outputs.items()}
  theirs = {name: value + noise[name] for name, value in outputs.items()}
  parity.compare(theirs, {name: value - 1.9 * noise[name] for name, value in outputs.items()}, Right(right), MASK)
  with pytest.raises(errors.ParityError, match='mlm/mlm_logits is'):
    parity.compare(theirs, {name: value - 2.1 * noise[name] for name, value in outputs.items()}, Right(right), MASK)


def test_one_value_far_off_fails_among_many(right, outputs):
  rng = np.random.default_rng(2)
  expected = {'tokens/pooled_output': rng.standard_normal(1_000_000)}
  theirs = {'tokens/pooled_output': (expected['tokens/pooled_output'] + 1e-6 * rng.standard_normal(1_000_000)).astype(np.float32)}
  ours = _copy(theirs)
  ours['tokens/pooled_output'][7] += 1e-3
  check = parity.verdict(*(v['tokens/pooled_output'] for v in (theirs, expected, ours, expected)))
  assert check.export.rms < check.allowed.rms and check.export.largest > check.allowed.largest and not check.passes


NAMES = ['tokens/pooled_output', 'tokens/sequence_output', 'tokens/layer_0', 'mlm/pooled_output', 'mlm/mlm_logits', 'sop/sop_log_probs']


@pytest.mark.parametrize('side, value', [
    ('ours', 1e-4), ('theirs', 1e-2), *((side, value) for side in ('ours', 'theirs', 'both') for value in (np.nan, np.inf))])
@pytest.mark.parametrize('name', NAMES)
def test_one_wrong_value_fails(right, outputs, name, side, value):
  ours, theirs = _copy(outputs), _copy(outputs)
  for wrong in {'ours': [ours], 'theirs': [theirs], 'both': [ours, theirs]}[side]:
    wrong[name].flat[1] += value
  with pytest.raises(errors.ParityError, match=f'no parity .{name} (of the source )?is '):
    parity.compare(theirs, ours, Right(right), MASK)


def test_every_failing_output_is_named(right, outputs):
  with pytest.raises(errors.ParityError) as caught:
    parity.compare(outputs, {name: value + 1 for name, value in outputs.items()}, Right(right), MASK)
  assert all(name in str(caught.value) for name in outputs)


def test_missing_empty_and_misshapen_outputs_fail(right, outputs):
  without = {n: v for n, v in outputs.items() if n != 'sop/sop_log_probs'}
  with pytest.raises(errors.ParityError, match='sop/sop_log_probs is missing in the source'):
    parity.compare(without, outputs, Right(right), MASK)
  with pytest.raises(errors.ParityError, match='sop/sop_log_probs is missing in the export'):
    parity.compare(outputs, without, Right(right), MASK)
  with pytest.raises(errors.ParityError, match='tokens/layer_0 is missing in the export'):
    parity.compare(outputs, {n: v for n, v in outputs.items() if 'layer' not in n}, Right(right), MASK)
  with pytest.raises(errors.ParityError, match='no outputs'):
    parity.compare({}, {}, Right(right), MASK)
  empty = {'tokens/pooled_output': np.zeros((0, 4), np.float32)}
  with pytest.raises(errors.ParityError, match='tokens/pooled_output of the source is nan'):
    parity.compare(empty, empty, Right(empty), MASK)
  with pytest.raises(errors.ParityError, match=r'pooled_output has shape \[2, 3\], the source\'s \[2, 4\]'):
    parity.compare(outputs, outputs | {'tokens/pooled_output': np.zeros((2, 3), np.float32)}, Right(right), MASK)


def test_layers_that_the_source_does_not_show_are_held_to_its_last_one(right, outputs):
  theirs = {n: v for n, v in outputs.items() if 'layer' not in n}
  checks = parity.compare(theirs, outputs, Right(right), MASK)
  assert checks['layer_0'].source == checks['sequence_output'].source
  with pytest.raises(errors.ParityError, match='no parity .tokens/layer_0 is '):
    parity.compare(theirs, outputs | {'tokens/layer_0': outputs['tokens/layer_0'] + np.float32(1e-4)}, Right(right), MASK)


def test_a_source_that_is_further_off_than_rounding_and_the_export_is_refused(right, outputs):
  # As one is that computes almost an ALBERT: less than the absolute limit, and many times what the export is off.
  theirs = {name: value * np.float32(1 + 1e-4) for name, value in outputs.items()}
  with pytest.raises(errors.ParityError, match='tokens/pooled_output of the source is '):
    parity.compare(theirs, outputs, Right(right), MASK)


@pytest.mark.parametrize('times, passes', [(3.9, True), (4.1, False)])
def test_a_single_value_may_be_four_times_as_far_off_as_the_largest_of_the_source(times, passes):
  rng = np.random.default_rng(3)
  expected = rng.standard_normal(100_000)
  theirs = expected + 1e-5 * rng.choice([-1, 1], 100_000)
  ours = theirs.copy()
  ours[7] = expected[7] + times * 1e-5
  check = parity.verdict(theirs, expected, ours, expected)
  assert check.export.rms < check.allowed.rms and check.passes is passes


class _Weights:
  """Stands for `reference.Gradient`."""

  def __init__(self, values):
    self._values = values

  def pieces(self, name, shape):
    yield from np.array_split(self._values[name], 3)


@pytest.mark.parametrize('name, off, passes', [
    ('pooler.kernel', 50, True), ('pooler.kernel', 80, False), ('pooler.bias', 50, True), ('pooler.bias', 80, False), ('mlm.norm.beta', 80, False)])
@pytest.mark.parametrize('sign', [1, -1])
def test_a_derivative_may_be_64_units_off_or_twice_what_the_source_is(source, name, off, passes, sign):
  rows = [r for r in weight_map.rows(source.config, source.parts) if r.name in ('pooler.kernel', 'pooler.bias', 'mlm.norm.beta')]
  rng = np.random.default_rng(4)
  right = {r.name: rng.choice([-1.0, 1.0], weight_map.shape(r.shape, source.config)) for r in rows}
  right['pooler.bias'] *= 1e-9  # whose derivatives cancel out: measured at its kernel's scale
  ours = right | {name: right[name] + sign * off * 2.0**-23}
  arguments = rows, source.config, lambda row: right[row.name], lambda row: ours[row.name], _Weights(right)
  if passes:
    assert list(parity.compare_gradient(*arguments)) == [r.name for r in rows]
  else:
    with pytest.raises(errors.ParityError, match=f'no parity of the gradient .that by {name} is [^;]*$'):
      parity.compare_gradient(*arguments)


def test_every_wrong_derivative_is_named_and_none_is_left_out(source):
  rows = weight_map.rows(source.config, source.parts)
  rng = np.random.default_rng(5)
  right = {r.name: rng.standard_normal(weight_map.shape(r.shape, source.config)) for r in rows}
  for wrong in (lambda v: v * 1.001, lambda v: v * 0.999, lambda v: v * np.nan, lambda v: v[:-1]):
    with pytest.raises(errors.ParityError) as caught:
      parity.compare_gradient(rows, source.config, lambda row: right[row.name], lambda row, w=wrong: w(right[row.name]), _Weights(right))
    assert all(f'that by {r.name} ' in str(caught.value) for r in rows)


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


@pytest.mark.parametrize('wrong', [None, *WRONG])
def test_weights_in_the_wrong_place_fail(source, examination, monkeypatch, tmp_path, wrong):
  from export import encoder
  rows = {r.name: r for r in weight_map.rows(source.config, source.parts)}
  read = source.tensor
  if wrong:
    monkeypatch.setattr(source, 'tensor', lambda row: WRONG[wrong](read, row, rows))
  albert = albert_lib.build(source, source.parts)
  (tmp_path / 'sp.model').write_bytes(source.sp_model)
  saved_model.write(*encoder.exportable(albert, str(tmp_path / 'sp.model')), tmp_path / 'model')
  monkeypatch.undo()
  if wrong is None:
    assert len(examination.certify(tmp_path / 'model', 'dict').outputs) == 4 + 3
  else:
    with pytest.raises(errors.ParityError, match='from the reference, more than'):
      examination.certify(tmp_path / 'model', 'dict')


def test_export_without_parity_publishes_nothing(module, release, monkeypatch):
  transform = weight_map.Transform.apply
  monkeypatch.setattr(weight_map.Transform, 'apply',
                      lambda self, value, shape: transform(self, value.T if value.shape == (16, 16) else value, shape))
  with pytest.raises(errors.ParityError, match='no parity '):
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
  assert 'mlm_logits' in release(own_module, sop=False)[1].pieces[1].certificate.outputs


@pytest.mark.parametrize('signature', source_graph.SIGNATURES)
def test_every_signature_is_compared(own_module, release, signature):
  from tensorflow.core.protobuf import saved_model_pb2
  path = own_module / 'saved_model.pb'
  saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
  graph = saved.meta_graphs[1]
  output = graph.signature_def[signature].outputs['pooled_output']
  tanh = next(n for n in graph.graph_def.node if n.name == output.name.split(':')[0])
  output.name = tanh.input[0] + ':0'
  path.write_bytes(saved.SerializeToString())
  with pytest.raises(errors.ParityError, match=rf'no parity \({signature}/pooled_output of the source is ') as caught:
    release(own_module)
  assert not [other for other in source_graph.SIGNATURES if other != signature and f'{other}/' in str(caught.value)]


@pytest.mark.parametrize('where', [0, 4, 11])
def test_distances_of_arrays_in_pieces(where):
  rng = np.random.default_rng(0)
  whole, others = rng.standard_normal(12), [rng.standard_normal(12).astype(np.float32) for _ in range(2)]
  whole[where] = -100.0
  pieces = [whole[start:start + 2].reshape(1, 2) for start in range(0, 12, 2)]
  for found, other in zip(parity._distances(iter(pieces), others), others, strict=True):
    right = parity.distance(other, whole)
    assert (found.rms, found.largest) == pytest.approx((right.rms, right.largest)) and right.largest > 95
  others[1][where] = np.nan
  assert np.isnan([parity._distances(iter(pieces), others)[1].rms, parity._distances(iter(pieces), others)[1].largest]).all()
