"""Distances between what models compute, and the bounds that a right conversion meets.

The verdict compares float64 with float64: the source's graph and the published graph, both widened. What is left are differences of
about 1e-16 that grow with depth, so one fixed bound holds for all weights. Distances are relative to the root mean square of the values.
"""

import collections
import dataclasses
import math
import os
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import numpy as np

from converters import albert_config
from converters import weight_map
from export.reference import albert as reference_albert

# Largest distance of two right float64 computations. benchmarks/results/proof_trials.md has the worst of many kinds of weights.
OUTPUT_BOUND = 1e-9
GRADIENT_BOUND = 1e-8
# A wrong conversion is refused by this factor at least, or the proof shows nothing for these weights.
CONTROL_FACTOR = 1000
# How far the float32 artifact may be from float64, in multiples of the worst of several float32 evaluations of the reference. Each evaluation
# rounds differently: right conversions of tiny models reached 3.3. Float64 decides; this bound detects a wrong kernel or file.
FLOAT32_FACTOR = 8
# Pieces of a derivative, of 4 MB each, that are computed ahead of the comparison.
_AHEAD = 3


@dataclasses.dataclass(frozen=True)
class Distance:
  """How far values are from what they should be.

  Attributes:
    rms: root mean square of the differences.
    largest: largest absolute difference.
  """
  rms: float
  largest: float

  def within(self, other: 'Distance') -> bool:
    """Whether both figures are at most the other's. NaN is within nothing."""
    return self.rms <= other.rms and self.largest <= other.largest

  def over(self, scale: float) -> 'Distance':
    """The distance relative to a scale; infinite over 0, unless it is 0 itself."""
    return Distance(over(self.rms, scale), over(self.largest, scale))

  def times(self, factor: float) -> 'Distance':
    return Distance(self.rms * factor, self.largest * factor)

  def worst(self, other: 'Distance') -> 'Distance':
    """The larger of each figure; NaN if either is."""
    return Distance(larger(self.rms, other.rms), larger(self.largest, other.largest))

  def __str__(self) -> str:
    return f'{self.rms:.1e} (at most {self.largest:.1e})'


@dataclasses.dataclass(frozen=True)
class Float32:
  """How far float32 evaluations of an output are from float64, relative to its root mean square.

  Attributes:
    source: the source's graph; None if it does not show the output.
    export: the published artifact, run as users run it.
    allowed: the most that the artifact may be off.
  """
  source: Distance | None
  export: Distance
  allowed: Distance


@dataclasses.dataclass(frozen=True)
class Output:
  """One output of the published artifact, compared.

  Attributes:
    values: number of values compared in each call that gives it.
    scale: root mean square of the values.
    source: relative distance in float64 to the source's graph, the worst of all calls; None if the graph does not show it.
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


def packed(value: np.ndarray, mask: np.ndarray, output: str) -> np.ndarray:
  """Flattens an output; what is by position, at the positions that are not padding alone.

  Args:
    value: [batch, seq, H] or [batch * seq, H] for `sequence_output` and layers; any other shape for other outputs.
    mask: int [batch, seq], 0 at padding.
    output: name of the output.
  """
  if (output == 'sequence_output' or output.startswith('layer_')) and value.size % mask.size == 0:
    return value.reshape(mask.size, -1)[mask.astype(bool).ravel()].ravel()
  return value.ravel()


def rms(value: np.ndarray) -> float:
  """Root mean square of an array; NaN if it is empty."""
  return distance(value, np.broadcast_to(0.0, value.shape)).rms


def distance(actual: np.ndarray, expected: np.ndarray) -> Distance:
  """Distance between two arrays of the same number of values; NaN for none, or for different numbers."""
  if actual.size != expected.size:
    return Distance(math.nan, math.nan)
  return _Sum.of(actual.reshape(-1), expected.reshape(-1)).distance


def relative(actual: np.ndarray, expected: np.ndarray) -> Distance:
  """Distance between two arrays, over the root mean square of the second."""
  return distance(actual, expected).over(rms(expected))


def gradient_scale(name: str, scales: Mapping[str, float]) -> float:
  """Scale of a derivative's distance: its own root mean square, or that of the terms that cancel in it if it is larger.

  The derivative by a bias sums over positions and may cancel, so it has at least its kernel's scale. The derivatives by the query and
  the key pass through the softmax's derivative w * (d - sum(w * d)). It vanishes where attention is saturated, and its terms have the
  scale of the value's derivative. The derivative by the pooler passes through 1 - p**2, which vanishes where the pooler is saturated:
  `reference_albert.Gradient.terms` has its scale without that factor.

  Args:
    name: canonical name of a weight.
    scales: root mean squares of the derivatives, by canonical name.
  """
  names = [name, f'{name.removesuffix(".bias")}.kernel']
  if name.startswith(('attention.query', 'attention.key')):
    names.append('attention.value.kernel')
  return max((scales[other] for other in names if other in scales), default=math.nan)


def compare_derivative(row: weight_map.Row, config: albert_config.AlbertConfig, expected: reference_albert.Gradient,
                       others: Sequence[np.ndarray]) -> list[Distance]:
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
  found = iter(distances(expected.pieces(row.name, shape), fitting))
  return [next(found), *(next(found) if other.size == size else Distance(math.nan, math.nan) for other in others)]


def over(value: float, scale: float) -> float:
  """A distance relative to a scale; infinite over 0, unless it is 0 itself."""
  return value / scale if scale else math.inf if value else 0.0


def larger(one: float, other: float) -> float:
  """The larger of two; NaN if either is."""
  return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


def distances(pieces: Iterable[np.ndarray], others: Sequence[np.ndarray]) -> list[Distance]:
  """Distances of flat arrays from one that comes in pieces; the next pieces are computed while threads compare."""
  totals, start, waiting = [_Sum() for _ in others], 0, collections.deque[list[futures.Future[_Sum]]]()

  def take() -> None:
    for total, part in zip(totals, waiting.popleft(), strict=True):
      total.add_sum(part.result())

  with futures.ThreadPoolExecutor(os.cpu_count(), 'compare') as pool:
    for piece in pieces:
      stop = start + piece.size
      waiting.append([pool.submit(_Sum.of, piece.reshape(-1), other[start:stop]) for other in others])
      start = stop
      if len(waiting) > _AHEAD:
        take()
    while waiting:
      take()
  return [total.distance for total in totals]


class _Sum:
  """The distance of arrays that come in pieces."""

  def __init__(self) -> None:
    self._count, self._squares, self._largest = 0, 0.0, 0.0

  @classmethod
  def of(cls, actual: np.ndarray, expected: np.ndarray) -> '_Sum':
    """Of two flat arrays of the same size."""
    result = cls()
    if not actual.size:
      return result
    with np.errstate(invalid='ignore'):  # infinity less infinity is a NaN, and fails as one
      difference = np.subtract(actual, expected, dtype=np.float64)
      result._squares = float(np.dot(difference, difference))
    result._count = difference.size
    result._largest = larger(float(difference.max()), -float(difference.min()))
    return result

  def add_sum(self, other: '_Sum') -> None:
    """Adds what another one has."""
    self._count += other._count
    self._squares += other._squares
    self._largest = larger(self._largest, other._largest)

  @property
  def distance(self) -> Distance:
    """NaN if there was nothing."""
    return Distance(math.sqrt(self._squares / self._count), self._largest) if self._count else Distance(math.nan, math.nan)
