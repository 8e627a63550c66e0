"""Defines the figures of a certificate, and the bounds that a correct conversion meets.

The verdict compares the source's graph and the published graph, both widened to float64. Their rounding differences are
about 1e-16 and grow with depth, so one fixed bound holds for all weights. Distances are relative to the root mean
square of the values.
"""

import dataclasses
import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from converters import albert_config
from converters import weight_map
from converters.reference import albert as reference_albert
from converters.reference import measures

# Bound of the relative distance of two correct float64 computations. benchmarks/results/proof_trials.md has the largest
# distance seen for many kinds of weights.
OUTPUT_BOUND = 1e-9
GRADIENT_BOUND = 1e-8
# Bound of the padding-free call for a text whose mask is all zero. The plain call adds -1e9 to all its attention
# scores, which leaves float64 scores with an absolute precision of 1e-7.
ALL_MASKED_BOUND = 1e-5
# Factor by which every negative control must exceed the bound; else the proof is void for these weights.
CONTROL_FACTOR = 1000


@dataclasses.dataclass(frozen=True)
class Float32:
  """Distances of float32 evaluations of an output from float64, relative to its root mean square.

  Attributes:
    source: distance of the source's graph; None if it lacks the output.
    export: distance of the published artifact, run as users run it.
    allowed: tolerance of `export`.
  """

  source: measures.Distance | None
  export: measures.Distance
  allowed: measures.Distance


@dataclasses.dataclass(frozen=True)
class Output:
  """The comparison of one output of the published artifact.

  Attributes:
    values: number of compared values in each call that returns the output.
    scale: root mean square of the values.
    source: relative distance (rms) in float64 to the source's graph, the largest of all calls; None if the graph lacks
      the output.
    reference: relative distance (rms) in float64 to the NumPy reference, the largest of all calls.
    float32: distances of float32 evaluations from float64.
  """

  values: int
  scale: float
  source: float | None
  reference: float
  float32: Float32


@dataclasses.dataclass(frozen=True)
class Derivative:
  """The comparison of the scalar's derivative with respect to one weight, in float64.

  Attributes:
    values: number of compared values.
    scale: scale of the relative distances; see `gradient_scale`.
    source: relative distance (rms) to the source's graph; None without a graph.
    reference: relative distance (rms) to the NumPy reference.
  """

  values: int
  scale: float
  source: float | None
  reference: float


def rounded(value: Any) -> Any:
  """Rounds every float in nested dicts to two digits, the form of records, console and reports."""
  if isinstance(value, Mapping):
    return {key: rounded(inner) for key, inner in value.items()}
  return float(f'{value:.1e}') if isinstance(value, float) else value


def gradient_scale(name: str, scales: Mapping[str, float]) -> float:
  """Returns the scale of a derivative's distance: the larger of its rms and the rms of the terms that cancel in it.

  The derivative by a bias sums over positions and may cancel, so its scale is at least its kernel's. The derivatives by
  query and key contain the softmax's derivative w * (d - sum(w * d)). It vanishes where attention is saturated, and its
  terms have the scale of the value's derivative. The derivative by the pooler contains 1 - p**2, which vanishes where
  the pooler is saturated; `reference_albert.Gradient.terms` has its scale without that factor.

  Args:
    name: canonical name of a weight.
    scales: root mean squares of the derivatives, by canonical name.
  """
  names = [name, f'{name.removesuffix(".bias")}.kernel']
  prefix, attention, part = name.partition('attention.')
  if attention and part.startswith(('query', 'key')):
    names.append(f'{prefix}attention.value.kernel')
  return max((scales[other] for other in names if other in scales), default=math.nan)


def compare_derivative(
  row: weight_map.Row,
  config: albert_config.AlbertConfig,
  expected: reference_albert.Gradient,
  others: Sequence[np.ndarray],
) -> list[measures.Distance]:
  """Compares derivatives by one weight with the reference's derivative.

  The comparison goes piece by piece, because the largest derivative has hundreds of millions of values.

  Args:
    row: the weight.
    config: config of the model, which gives the weight's shape.
    expected: derivatives of the reference.
    others: float64 derivatives in the order of the weight's canonical layout.

  Returns:
    The distance of the reference from zero, then from each of `others`; NaN for one with another number of values.
  """
  shape = weight_map.shape(row.shape, config)
  size = math.prod(shape)
  fitting = [np.broadcast_to(np.float64(0), size), *(other.reshape(-1) for other in others if other.size == size)]
  found = iter(measures.distances(expected.pieces(row.name, shape), fitting))
  return [
    next(found),
    *(next(found) if other.size == size else measures.Distance(math.nan, math.nan) for other in others),
  ]
