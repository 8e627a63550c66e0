"""Measures distances between arrays."""

import collections
import dataclasses
import math
import os
from collections.abc import Iterable
from collections.abc import Sequence
from concurrent import futures

import numpy as np

# Number of pieces of a derivative, 4 MB each, that are computed ahead of the comparison.
_AHEAD = 3


@dataclasses.dataclass(frozen=True)
class Distance:
  """The distance of values from their expected values.

  Attributes:
    rms: root mean square of the differences.
    largest: largest absolute difference.
  """

  rms: float
  largest: float

  def within(self, other: 'Distance') -> bool:
    """Returns whether both figures are at most those of `other`; NaN never is."""
    return self.rms <= other.rms and self.largest <= other.largest

  def over(self, scale: float) -> 'Distance':
    """Returns the distance divided by a scale; see the function `over`."""
    return Distance(over(self.rms, scale), over(self.largest, scale))

  def times(self, factor: float) -> 'Distance':
    """Returns the distance times a factor."""
    return Distance(self.rms * factor, self.largest * factor)

  def worst(self, other: 'Distance') -> 'Distance':
    """Returns the larger of each figure; NaN if either is NaN."""
    return Distance(larger(self.rms, other.rms), larger(self.largest, other.largest))

  def __str__(self) -> str:
    return f'{self.rms:.1e} (at most {self.largest:.1e})'


def packed(value: np.ndarray, mask: np.ndarray, output: str) -> np.ndarray:
  """Flattens an output, and removes padding positions from `sequence_output` and layers.

  Args:
    value: [batch, seq, H] or [batch * seq, H] for `sequence_output` and layers; any other shape for other outputs.
    mask: int [batch, seq], 0 at padding.
    output: name of the output.
  """
  if (output == 'sequence_output' or output.startswith('layer_')) and value.size % mask.size == 0:
    return value.reshape(mask.size, -1)[mask.astype(bool).ravel()].ravel()
  return value.ravel()


def rms(value: np.ndarray) -> float:
  """Returns the root mean square of an array; NaN if it is empty."""
  return distance(value, np.broadcast_to(0.0, value.shape)).rms


def distance(actual: np.ndarray, expected: np.ndarray) -> Distance:
  """Returns the distance between two arrays of the same size; NaN if they are empty or differ in size."""
  if actual.size != expected.size:
    return Distance(math.nan, math.nan)
  return _Sum.of(actual.reshape(-1), expected.reshape(-1)).distance


def relative(actual: np.ndarray, expected: np.ndarray) -> Distance:
  """Returns the distance between two arrays, divided by the root mean square of the second."""
  return distance(actual, expected).over(rms(expected))


def over(value: float, scale: float) -> float:
  """Returns a distance divided by a scale; for scale 0, infinity, or 0 if the distance is 0."""
  return value / scale if scale else math.inf if value else 0.0


def larger(one: float, other: float) -> float:
  """Returns the larger of two numbers; NaN if either is NaN."""
  return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


def distances(pieces: Iterable[np.ndarray], others: Sequence[np.ndarray]) -> list[Distance]:
  """Returns the distances of flat arrays from an array in pieces.

  Threads compare pieces while the next pieces are computed.
  """
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
  """Accumulates the distance of arrays that come in pieces."""

  def __init__(self) -> None:
    self._count, self._squares, self._largest = 0, 0.0, 0.0

  @classmethod
  def of(cls, actual: np.ndarray, expected: np.ndarray) -> '_Sum':
    """Returns the sum for two flat arrays of the same size."""
    result = cls()
    if not actual.size:
      return result
    with np.errstate(invalid='ignore'):  # infinity minus infinity is NaN, which fails every bound
      difference = np.subtract(actual, expected, dtype=np.float64)
      result._squares = float(np.dot(difference, difference))
    result._count = difference.size
    result._largest = larger(float(difference.max()), -float(difference.min()))
    return result

  def add_sum(self, other: '_Sum') -> None:
    """Adds another sum."""
    self._count += other._count
    self._squares += other._squares
    self._largest = larger(self._largest, other._largest)

  @property
  def distance(self) -> Distance:
    """The distance; NaN without values."""
    return (
      Distance(math.sqrt(self._squares / self._count), self._largest) if self._count else Distance(math.nan, math.nan)
    )
