"""The proof accepts right conversions of every kind of weights, and refuses every wrong conversion by far."""

import re

import numpy as np
import pytest
from support import shared

from export.demo import tf1_module
from export.demo import weight_values
from export.validation import parity
from trials import summary
from trials import trial
from trials import wrong_conversions


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A module of tiny size whose weights have the statistics of trained ones."""
  return (
    shared.directory(
      tmp_path_factory, 'trained', lambda path: trial.Modules('tiny').write(path / 'module', 'trained', 1)
    )
    / 'module'
  )


@pytest.mark.parametrize('fixture', ['trained', pytest.param('with_dropout', marks=pytest.mark.slow)])
def test_right_conversion_is_accepted(request, fixture, recorded_child):
  found = trial.run(request.getfixturevalue(fixture), 'trained', 1, child=recorded_child)
  assert found.accepted, found.message
  assert max(check['source'] or 0 for check in found.certificate['outputs'].values()) < parity.OUTPUT_BOUND / 100


@pytest.fixture(scope='module')
def with_dropout(tmp_path_factory):
  """A module of tiny size with trained statistics and dropout."""
  return (
    shared.directory(
      tmp_path_factory,
      'trained_with_dropout',
      lambda path: trial.Modules('tiny').write(path / 'module', 'trained', 1, dropout=0.1),
    )
    / 'module'
  )


@pytest.mark.slow
def test_right_conversion_with_every_pooled_unit_saturated_is_accepted(tmp_path, monkeypatch):
  value = weight_values.value
  monkeypatch.setattr(
    weight_values,
    'value',
    lambda regime, name, shape, seed: (
      np.where(value(regime, name, shape, seed) > 0, 12, -12).astype(np.float32)
      if name == 'bert/pooler/dense/bias'
      else value(regime, name, shape, seed)
    ),
  )
  trial.Modules('tiny').write(tmp_path / 'module', 'random', 0)
  found = trial.run(tmp_path / 'module', 'random', 0)
  assert found.accepted, found.message


# Every run has one of each kind: outputs, gradient, both modes, heads, weights.
_QUICK = {
  'erf GELU',
  'layer norm epsilon 1e-7',
  'half the gradient of keys',
  'rounded to bfloat16',
}


@pytest.mark.parametrize(
  'name',
  [
    name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in wrong_conversions.WRONG_CONVERSIONS
  ],
)
def test_wrong_conversion_is_refused_by_far(trained, with_dropout, name, recorded_child):
  found = trial.run(
    with_dropout if name in wrong_conversions.OF_DROPOUT else trained, 'trained', 1, name, recorded_child
  )
  assert found.refused_by == 'ParityError', found
  if found.distance is None:
    assert re.search(r'is missing in the export|the gradient is stopped at', found.message), found.message
  else:
    assert found.distance >= (10 if name.endswith('1e-7') else parity.CONTROL_FACTOR) * parity.OUTPUT_BOUND, (
      found.message
    )


@pytest.mark.parametrize('regime', weight_values.REGIMES)
def test_weights_of_every_regime_are_finite_and_distinct(regime):
  shapes = {
    'bert/encoder/transformer/group_0/inner_group_0/attention_1/self/query/kernel': (64, 64),
    'bert/encoder/transformer/group_0/inner_group_0/LayerNorm/gamma': (64,),
    'bert/pooler/dense/kernel': (64, 64),
  }
  for number, (name, shape) in enumerate(shapes.items()):
    value, again, other = (weight_values.value(regime, name, shape, [seed, number]) for seed in (3, 3, 4))
    assert value.dtype == np.float32 and value.shape == shape and np.isfinite(value).all()
    assert (
      np.array_equal(value, again) and not np.array_equal(value, other) and len(np.unique(value)) > 0.9 * value.size
    )
  with pytest.raises((KeyError, ValueError)):
    weight_values.value('unknown', 'x', (3,), [0, 0])
  assert tf1_module.Spec(values=regime).values == regime


@pytest.mark.parametrize(
  'wrong, refused_by, failed',
  [(None, None, False), (None, 'ParityError', True), ('erf GELU', 'ParityError', False), ('erf GELU', None, True)],
)
def test_unexpected_verdict_fails(wrong, refused_by, failed):
  message = (
    'no parity (a/b is 1.5e-03 from the reference in float64, more than 1e-09; c is nan from x in float64)'
    if refused_by
    else None
  )
  found = trial.Trial('trained', 0, wrong, refused_by, message, None, 1.0)
  assert found.failed == failed
  assert found.distance is None or np.isnan(found.distance) or found.distance == 1.5e-3
  row = next(table for table in summary.tables([found]) if table.title == 'Trials by weights').rows[0]
  assert row == [
    'trained',
    *(
      '1' if (wrong is None, refused_by is None) == key else '0'
      for key in ((True, True), (True, False), (False, False), (False, True))
    ),
  ]
