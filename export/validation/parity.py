"""Distances between what models compute, and the bounds that a right conversion meets.

The verdict compares float64 with float64: the source's graph and the published graph, both widened. What is left are
differences of about 1e-16 that grow with depth, so one fixed bound holds for all weights. Distances are relative to the
root mean square of the values.
"""

import dataclasses
import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from converters import albert_config
from converters import weight_map
from export.reference import albert as reference_albert
from export.reference import measures

# Largest distance of two right float64 computations. benchmarks/results/proof_trials.md has the worst of many kinds of
# weights.
OUTPUT_BOUND = 1e-9
GRADIENT_BOUND = 1e-8
# A wrong conversion is refused by this factor at least, or the proof shows nothing for these weights.
CONTROL_FACTOR = 1000
# How far the float32 artifact may be from float64, in multiples of the worst of several float32 evaluations of the
# reference. Each evaluation rounds differently: right conversions of tiny models reached 3.3. Float64 decides; this
# bound detects a wrong kernel or file.
FLOAT32_FACTOR = 8


@dataclasses.dataclass(frozen=True)
class Float32:
  """How far float32 evaluations of an output are from float64, relative to its root mean square.

  Attributes:
    source: the source's graph; None if it does not show the output.
    export: the published artifact, run as users run it.
    allowed: the most that the artifact may be off.
  """

  source: measures.Distance | None
  export: measures.Distance
  allowed: measures.Distance


@dataclasses.dataclass(frozen=True)
class Output:
  """One output of the published artifact, compared.

  Attributes:
    values: number of values compared in each call that gives it.
    scale: root mean square of the values.
    source: relative distance in float64 to the source's graph, the worst of all calls; None if the graph does not show
      it.
    reference: relative distance in float64 to the NumPy reference, the worst of all calls.
    float32: how far float32 is from that.
  """

  values: int
  scale: float
  source: float | None
  reference: float
  float32: Float32


@dataclasses.dataclass(frozen=True)
class Derivative:
  """The derivative of the scalar by one weight, compared in float64.

  Attributes:
    values: number of values compared.
    scale: what the distances are relative to: see `gradient_scale`.
    source: relative distance to the source's graph; None without a graph.
    reference: relative distance to the NumPy reference.
  """

  values: int
  scale: float
  source: float | None
  reference: float


def rounded(value: Any) -> Any:
  """Rounds every float in nested dicts to two digits: the form in which figures are recorded, printed and shown."""
  if isinstance(value, Mapping):
    return {key: rounded(inner) for key, inner in value.items()}
  return float(f'{value:.1e}') if isinstance(value, float) else value


def gradient_scale(name: str, scales: Mapping[str, float]) -> float:
  """Scale of a derivative's distance: its own root mean square, or that of the terms that cancel in it if it is larger.

  The derivative by a bias sums over positions and may cancel, so it has at least its kernel's scale. The derivatives by
  the query and
  the key pass through the softmax's derivative w * (d - sum(w * d)). It vanishes where attention is saturated, and its
  terms have the
  scale of the value's derivative. The derivative by the pooler passes through 1 - p**2, which vanishes where the pooler
  is saturated:
  `reference_albert.Gradient.terms` has its scale without that factor.

  Args:
    name: canonical name of a weight.
    scales: root mean squares of the derivatives, by canonical name.
  """
  names = [name, f'{name.removesuffix(".bias")}.kernel']
  if name.startswith(('attention.query', 'attention.key')):
    names.append('attention.value.kernel')
  return max((scales[other] for other in names if other in scales), default=math.nan)


def compare_derivative(
  row: weight_map.Row,
  config: albert_config.AlbertConfig,
  expected: reference_albert.Gradient,
  others: Sequence[np.ndarray],
) -> list[measures.Distance]:
  """Compares derivatives by one weight with the reference's, piece by piece: the largest has hundreds of millions of values.

  Args:
    row: the weight.
    config: gives its shape.
    expected: the reference's derivatives.
    others: float64 derivatives, as many numbers in the same order as the weight's canonical layout.

  Returns:
    The distance of zero, and then of each of the others; NaN for one of another number of values.
  """
  shape = weight_map.shape(row.shape, config)
  size = math.prod(shape)
  fitting = [np.broadcast_to(np.float64(0), size), *(other.reshape(-1) for other in others if other.size == size)]
  found = iter(measures.distances(expected.pieces(row.name, shape), fitting))
  return [
    next(found),
    *(next(found) if other.size == size else measures.Distance(math.nan, math.nan) for other in others),
  ]
