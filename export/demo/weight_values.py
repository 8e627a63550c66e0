"""Weights for demo modules: plain random ones, and ones with the statistics of trained transformers.

Weights of trained models have heavy tails, layer norm gains far above one, and attention that is nearly one-hot. A few
hidden dimensions have values in the hundreds. Each of these costs float32 digits. Each regime has one of these
statistics, and the regime `trained` has all of them, moderately.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Regime:
  """Statistics of the weights of a module.

  Attributes:
    heavy_tails: whether kernels and tables have Student's t distribution with three degrees of freedom, and not the
      normal distribution.
    gain: largest layer norm gain of the outlier dimensions; 0 for none.
    attention: factor of the query kernel and of the key kernel. Attention logits grow with its square.
    massive: largest hidden value of the outlier dimensions; 0 for none.
    residual: factor of the kernels that end a residual branch.
    pooler: factor of the pooler kernel.
  """

  heavy_tails: bool = False
  gain: float = 0.0
  attention: float = 1.0
  massive: float = 0.0
  residual: float = 1.0
  pooler: float = 1.0


REGIMES = {
  'random': Regime(),
  'heavy_tails': Regime(heavy_tails=True),
  'outliers': Regime(gain=50.0),
  'saturated_attention': Regime(attention=5.0),
  'massive_activations': Regime(massive=250.0),
  'growing_residuals': Regime(residual=16.0),
  'saturated_pooler': Regime(pooler=24.0),
  'trained': Regime(heavy_tails=True, gain=10.0, attention=3.0, massive=60.0, residual=3.0, pooler=4.0),
}

_QUERY_AND_KEY = ('/self/query/kernel', '/self/key/kernel')
_PROJECTION = 'bert/encoder/embedding_hidden_mapping_in/kernel'
_POOLER = 'bert/pooler/dense/kernel'
# Kernels that read outliers with small weights, as in trained models: of regimes with gains, and with massive values.
_GAIN_READERS = (*_QUERY_AND_KEY, _PROJECTION, _POOLER)
_MASSIVE_READERS = (*_QUERY_AND_KEY, '/self/value/kernel', _POOLER, 'cls/predictions/transform/dense/kernel')
_BRANCH_ENDS = ('/attention_1/output/dense/kernel', '/ffn_1/intermediate/output/dense/kernel')
# The terms that set the massive values of the first layer's input and of each layer's output. The attention branch
# cancels the massive values, so that layer norms do not scale everything else down.
_MASSIVE_TERMS = ('bert/encoder/embedding_hidden_mapping_in/bias', '/LayerNorm_1/beta')
_MASSIVE_CANCEL = '/attention_1/output/dense/bias'


def value(regime: str, name: str, shape: tuple[int, ...], seed: Sequence[int]) -> np.ndarray:
  """Draws a weight.

  Args:
    regime: key of `REGIMES`.
    name: TF1 variable name.
    shape: shape of the variable.
    seed: seed of the module and number of the variable. The outlier dimensions depend on the first number alone.

  Returns:
    float32 values, the same for the same arguments.
  """
  statistics = REGIMES[regime]
  result = _unit_values(statistics, shape, seed)
  if name.endswith('/gamma'):
    result = 1 + np.float32(0.2) * result
  elif len(shape) == 1:
    result = np.float32(0.1) * result
  elif name.endswith('/kernel'):
    result = result * np.float32(1.2 / math.sqrt(shape[0]))
  else:
    result = result * np.float32(0.1)

  if name.endswith(_QUERY_AND_KEY):
    result *= np.float32(statistics.attention)
  elif name.endswith(_BRANCH_ENDS):
    result *= np.float32(statistics.residual)
  elif name == _POOLER:
    result *= np.float32(statistics.pooler)

  outliers = _outliers(shape[0], seed[0])
  if statistics.gain and name.endswith('/gamma'):
    gains = np.random.default_rng([*seed, 1])
    result[outliers] = gains.uniform(statistics.gain / 5, statistics.gain, len(outliers))
  if statistics.gain and name.endswith(_GAIN_READERS):
    result[outliers] /= np.float32(statistics.gain)
  if statistics.massive:
    levels = statistics.massive * np.random.default_rng([seed[0], shape[0], 2]).uniform(0.5, 1, len(outliers))
    if name.endswith(_MASSIVE_TERMS):
      result[outliers] += levels.astype(np.float32)
    elif name.endswith(_MASSIVE_CANCEL):
      result[outliers] -= levels.astype(np.float32)
    elif name.endswith(_MASSIVE_READERS):
      result[outliers] /= np.float32(statistics.massive / 4)
  return result


def _unit_values(statistics: Regime, shape: tuple[int, ...], seed: Sequence[int]) -> np.ndarray:
  """Draws float32 values with mean 0 and variance 1."""
  generator = np.random.default_rng(seed)
  if statistics.heavy_tails and len(shape) > 1:
    return (generator.standard_t(3, shape) / math.sqrt(3)).astype(np.float32)
  return generator.standard_normal(shape, dtype=np.float32)


def _outliers(width: int, seed: int) -> np.ndarray:
  """Chooses the outlier dimensions of a width: one, and one more for every 256."""
  return np.random.default_rng([seed, width, 3]).choice(width, 1 + width // 256, replace=False)
