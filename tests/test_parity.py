"""Distances are correct, and every wrong conversion is refused."""

import math

import numpy as np
import pytest
from support import modules
from support import trees

from converters import build_encoder
from converters import errors
from converters import interface
from converters import weight_map
from converters.reference import measures
from export.model import saved_model
from export.validation import parity

MASK = np.array([[1, 1, 1], [1, 0, 0]])


def test_distance_is_relative_to_the_root_mean_square():
  expected = np.array([3.0, -4.0, 0.0, 5.0])
  assert measures.rms(expected) == pytest.approx(math.sqrt(12.5))
  found = measures.relative(expected + np.array([0, 0, 0, 1e-3]), expected)
  assert found.rms == pytest.approx(5e-4 / math.sqrt(12.5)) and found.largest == pytest.approx(1e-3 / math.sqrt(12.5))
  assert measures.relative(np.zeros(3), np.zeros(3)) == measures.Distance(0, 0)
  assert measures.relative(np.full(3, 1e-100), np.zeros(3)).rms == math.inf


@pytest.mark.parametrize('actual', [np.full(4, np.nan), np.array([1, 2, 3, np.inf]), np.zeros(3), np.zeros(0)])
def test_what_is_no_number_or_of_another_size_is_within_nothing(actual):
  found = measures.relative(actual, np.arange(4.0))
  assert not found.rms <= 1e300 and not found.within(measures.Distance(1e300, 1e300))
  assert math.isnan(measures.larger(math.nan, 1.0)) and math.isnan(measures.larger(1.0, math.nan))


def test_padding_is_left_out_of_what_is_by_position():
  value = np.arange(30.0).reshape(2, 3, 5)
  kept = np.concatenate([value[0].ravel(), value[1, 0]])
  for shaped in (value, value.reshape(6, 5)):
    assert np.array_equal(measures.packed(shaped, MASK, 'sequence_output'), kept) and np.array_equal(
      measures.packed(shaped, MASK, 'layer_7'), kept
    )
  assert measures.packed(value, MASK, 'mlm_logits').size == 30


@pytest.mark.parametrize(
  'rms, largest, within',
  [(1, 2, True), (0, 2, True), (1.1, 2, False), (1, 2.1, False), (np.nan, 0, False), (0, np.nan, False)],
)
def test_both_figures_of_a_distance_are_within_another(rms, largest, within):
  assert measures.Distance(rms, largest).within(measures.Distance(1, 2)) == within


def test_figures_are_rounded_to_two_digits_everywhere():
  assert parity.rounded({'a': {'b': 1.2649e-7, 'c': None}, 'n': 3, 's': 'x'}) == {
    'a': {'b': 1.3e-7, 'c': None},
    'n': 3,
    's': 'x',
  }


@pytest.mark.parametrize(
  'name, scale',
  [
    ('pooler.kernel', 2.0),
    ('pooler.bias', 2.0),
    ('attention.value.bias', 3.0),
    ('attention.query.kernel', 3.0),
    ('attention.key.bias', 3.0),
    ('attention.query.bias', 5.0),
    ('mlm.norm.beta', 0.5),
  ],
)
def test_a_derivative_that_cancels_is_measured_by_its_terms(name, scale):
  scales = {
    'pooler.kernel': 2.0,
    'pooler.bias': 1.0,
    'attention.value.kernel': 3.0,
    'attention.value.bias': 1e-3,
    'attention.query.kernel': 1e-11,
    'attention.query.bias': 5.0,
    'attention.key.bias': 1e-17,
    'attention.key.kernel': 1e-11,
    'mlm.norm.beta': 0.5,
  }
  assert parity.gradient_scale(name, scales) == scale


class _Gradient:
  """Stands for `reference.Gradient`."""

  def __init__(self, value):
    self._value = value

  def pieces(self, name, shape):
    yield from np.array_split(self._value, 3)


def test_derivatives_are_compared_in_pieces(source):
  row = next(r for r in weight_map.rows(source.config, source.parts) if r.name == 'pooler.kernel')
  right = np.random.default_rng(0).standard_normal((16, 16))
  wrong = right.copy()
  wrong[7, 3] += 1e-3
  zero, same, other, short = parity.compare_derivative(row, source.config, _Gradient(right), [right, wrong, right[:-1]])
  assert zero.rms == pytest.approx(measures.rms(right)) and same == measures.Distance(0, 0)
  assert other.rms == pytest.approx(1e-3 / 16) and other.largest == pytest.approx(1e-3) and math.isnan(short.rms)


@pytest.mark.parametrize('where', [0, 4, 11])
def test_distances_of_arrays_in_pieces(where):
  rng = np.random.default_rng(0)
  whole, others = rng.standard_normal(12), [rng.standard_normal(12) for _ in range(2)]
  whole[where] = -100.0
  pieces = [whole[start : start + 2].reshape(1, 2) for start in range(0, 12, 2)]
  for found, other in zip(measures.distances(iter(pieces), others), others, strict=True):
    right = measures.distance(other, whole)
    assert (found.rms, found.largest) == pytest.approx((right.rms, right.largest)) and right.largest > 95
  others[1][where] = np.nan
  assert np.isnan(
    [measures.distances(iter(pieces), others)[1].rms, measures.distances(iter(pieces), others)[1].largest]
  ).all()


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


# Other wrong conversions are negative controls of every proof, or in attacks/test_checkpoint_and_config.py.
_QUICK = {'token types swapped', 'sop classes swapped'}


@pytest.mark.parametrize(
  'wrong', [None, *(name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in WRONG)]
)
def test_weights_in_the_wrong_place_fail(source, examination, monkeypatch, tmp_path, wrong):
  from export.model import encoder

  rows = {r.name: r for r in weight_map.rows(source.config, source.parts)}
  read = source.tensor
  if wrong:
    monkeypatch.setattr(source, 'tensor', lambda row: WRONG[wrong](read, row, rows))
  albert = build_encoder.build(source, source.parts)
  (tmp_path / 'sp.model').write_bytes(source.sp_model)
  saved_model.write(*encoder.exportable(albert, str(tmp_path / 'sp.model')), tmp_path / 'model')
  monkeypatch.undo()
  if wrong is None:
    assert len(examination.certify(tmp_path / 'model', 'dict').outputs) == 4 + 3
  else:
    with pytest.raises(errors.ParityError, match="from the source's graph in float64, more than 1e-09"):
      examination.certify(tmp_path / 'model', 'dict')


def test_export_without_parity_publishes_nothing(module, release, monkeypatch):
  transform = weight_map.Transform.apply
  monkeypatch.setattr(
    weight_map.Transform,
    'apply',
    lambda self, value, shape: transform(self, value.T if value.shape == (16, 16) else value, shape),
  )
  with pytest.raises(errors.ParityError, match='no parity '):
    release(module)
  assert trees.leftovers(release.root) == []


def test_head_without_a_signature_is_refused_or_left_out(own_module, release, prove):
  from tensorflow.core.protobuf import saved_model_pb2

  path = own_module / 'saved_model.pb'
  saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
  for meta_graph in saved.meta_graphs:
    del meta_graph.signature_def['sop']
  path.write_bytes(saved.SerializeToString())
  with pytest.raises(errors.SourceError, match='no signature to compare the sop weights with.*option sop=False'):
    release(own_module)
  assert 'mlm_logits' in prove(own_module, sop=False)[1].outputs


@pytest.mark.parametrize(
  'signature',
  [name if name == 'mlm' else pytest.param(name, marks=pytest.mark.slow) for name in interface.SIGNATURES],
)
def test_every_signature_is_compared(own_module, prove, signature):
  def edit(graph):
    output = graph.signature_def[signature].outputs['pooled_output']
    tanh = next(n for n in graph.graph_def.node if n.name == output.name.split(':')[0])
    output.name = tanh.input[0] + ':0'

  modules.edit_graph(own_module, edit)
  with pytest.raises(
    errors.ParityError, match=rf"{signature}/pooled_output is [^;]* from the source's graph in float64"
  ) as caught:
    prove(own_module)
  assert not [other for other in interface.SIGNATURES if other != signature and f'; {other}/' in str(caught.value)]
