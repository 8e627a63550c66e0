"""Compares what an exported encoder computes with what its source computes, both held against a float64 reference.

Both get the same batch; every float output of the source is compared, and every layer where the source's graph shows it, at
the positions that are not padding. (At padding the two differ by design: the original adds -10000 to masked scores, Keras
-1e9.) The reference tells whose error is whose, and so how large an error is right: the export's may be twice the source's.
"""

import collections
import dataclasses
import math
import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
from typing import Protocol

import numpy as np

from converters import config as config_lib
from converters import errors
from converters import weight_map
from export.proof import reference

# How much further from the reference than the source the export may be. Both round in float32, in another order.
_RATIO = 2.0
# ... or this many units in the last place of float32 at the output's scale, if the source happens to be closer than rounding
# can promise: for the root mean square at that of the output.
_FLOOR_ULPS = 16
# A derivative has passed through each rounding twice, forwards and backwards, and those of all weights hang together: one
# unlucky rounding is in all of them. Right conversions of small models were seen 36 units off where the source was less than 18.
_GRADIENT_FLOOR_ULPS = 64
# The largest of all differences, which may be one of millions, is more a matter of chance: both count this many times.
_SINGLE = 2
_ULP = 2.0**-23
# Pieces of a derivative, of 4 MB each, that are worked out while others are looked at.
_AHEAD = 3
# A source that is further from the reference than this, at the same scales, does not compute an ALBERT with these weights:
# rounding was measured at 7e-7 after 24 layers of random weights, and outliers in trained ones may cost some digits.
_SOURCE_LIMIT = 1e-3
# ... or than so many times what the export is, or what rounding comes to: the two are of one kind.
_SOURCE_RATIO = 4


@dataclasses.dataclass(frozen=True)
class Distance:
  """How far an output is from the reference: root mean square, and the largest single difference."""
  rms: float
  largest: float

  def within(self, other: 'Distance') -> bool:
    return self.rms <= other.rms and self.largest <= other.largest

  def __str__(self) -> str:
    return f'{self.rms:.2g} (at most {self.largest:.2g})'


@dataclasses.dataclass(frozen=True)
class Check:
  """One output compared.

  Attributes:
    values: how many floats were compared.
    source, export: each one's distance to the reference.
    limit: how far the source may be.
    allowed: how far the export may be.
  """
  values: int
  source: Distance
  export: Distance
  limit: Distance
  allowed: Distance

  @property
  def passes(self) -> bool:
    # A NaN is not within anything.
    return self.values > 0 and self.source.within(self.limit) and self.export.within(self.allowed)


class Reference(Protocol):
  """What outputs should be; `expected.Expected` is one."""

  def of(self, name: str, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """What one should be, for the side that gave these outputs."""


def compare(source: Mapping[str, np.ndarray], export: Mapping[str, np.ndarray], expected: Reference,
            mask: np.ndarray) -> dict[str, Check]:
  """Compares outputs.

  Args:
    source: the outputs of the source's signatures, as `source_run.Run.outputs` gives them: 'tokens/pooled_output' and so
      on, and 'tokens/layer_0' and so on where the graph shows them; mlm_logits may be [batch * P, V], and what is by position
      [batch * seq, H].
    export: the outputs of the exported model and its heads under the same names.
    expected: what both should be.
    mask: int [batch, seq], 0 at padding.

  Returns:
    The checks by output, without the signature: of an output that several of them give, the worst.

  Raises:
    ParityError: an output is missing on one side, the shapes do not agree, or the export is too far off; lists all.
  """
  checks, faults = examine(source, export, expected, mask)
  if faults or not checks:
    raise errors.ParityError(f'no parity ({"; ".join(faults) or "no outputs"}) in the encoder against its source: the source is '
                             'no ALBERT with these weights, or the conversion is at fault')
  return checks


def examine(source: Mapping[str, np.ndarray], export: Mapping[str, np.ndarray], expected: Reference,
            mask: np.ndarray) -> tuple[dict[str, Check], list[str]]:
  """What `compare` finds, and its faults."""
  faults, checks = [], dict[str, list[Check]]()
  for name in dict.fromkeys((*export, *source)):
    output = name.rpartition('/')[2]
    if output.startswith('layer_') and name not in source and 'tokens/sequence_output' in source:
      # A graph that is built otherwise than the authors' does not show its layers: they may be as far off as its last one's.
      theirs, ours = _packed(source['tokens/sequence_output'], mask, output), _packed(export[name], mask, output)
      right = expected.of(name, export)
      check = _check(int(ours.size), distance(theirs, expected.of('tokens/sequence_output', source)), distance(ours, right),
                     _scale(right), _FLOOR_ULPS)
      checks.setdefault(output, []).append(check)
      faults += _faults(name, check)
      continue
    if name not in source or name not in export:
      faults.append(f'{name} is missing in the {"export" if name in source else "source"}')
      continue
    ours, theirs = (_packed(side[name], mask, output) for side in (export, source))
    if theirs.size != ours.size:
      faults.append(f'{name} has shape {list(export[name].shape)}, the source\'s {list(source[name].shape)}')
      continue
    check = verdict(theirs, expected.of(name, source), ours, expected.of(name, export))
    checks.setdefault(output, []).append(check)
    faults += _faults(name, check)
  return {output: max(each, key=lambda c: c.export.rms) for output, each in checks.items()}, faults


def _faults(name: str, check: Check) -> list[str]:
  if not check.source.within(check.limit):
    return [f'{name} of the source is {check.source} from the reference, more than {check.limit}']
  return [] if check.passes else [f'{name} is {check.export} from the reference, more than {check.allowed}']


def _packed(value: np.ndarray, mask: np.ndarray, output: str) -> np.ndarray:
  """What is by position, at the positions that are not padding; everything else flat."""
  if (output == 'sequence_output' or output.startswith('layer_')) and value.size % mask.size == 0:
    return value.reshape(mask.size, -1)[mask.astype(bool).ravel()].ravel()
  return value.ravel()


def compare_gradient(rows: Iterable[weight_map.Row], config: config_lib.AlbertConfig, source: Callable[[weight_map.Row], np.ndarray],
                     export: Callable[[weight_map.Row], np.ndarray], expected: reference.Gradient) -> dict[str, Check]:
  """Compares the derivatives of a scalar by every weight.

  Args:
    rows: the weights, each kernel before its bias.
    config: gives their shapes.
    source, export: give the derivative by a weight, as many numbers in the same order as its canonical layout has.
    expected: what both should be.

  Returns:
    The checks by canonical name.

  Raises:
    ParityError: a derivative is missing, or the export's is too far off; lists all.
  """
  faults, checks = [], {}
  scales: dict[str, Distance] = {}
  for row in rows:
    name, shape = row.name, weight_map.shape(row.shape, config)
    theirs, ours = source(row).reshape(-1), export(row).reshape(-1)
    if not theirs.size == ours.size == math.prod(shape):
      faults.append(f'that by {name} has {ours.size} values, the source\'s {theirs.size}, the weight {math.prod(shape)}')
      continue
    scale, their_distance, our_distance = _distances(expected.pieces(name, shape), (np.broadcast_to(np.float32(0), ours.shape), theirs, ours))
    scales[name], kernel = scale, name.removesuffix('.bias') + '.kernel'
    if kernel in scales:
      # The same derivatives, summed: where they cancel out, as they do for the keys' bias, that of the kernel says what
      # rounding is of.
      scale = Distance(_larger(scale.rms, scales[kernel].rms), _larger(scale.largest, scales[kernel].largest))
    check = checks[name] = _check(ours.size, their_distance, our_distance, scale, _GRADIENT_FLOOR_ULPS)
    faults += _faults(f'that by {name}', check)
  if faults or not checks:
    raise errors.ParityError(f'no parity of the gradient ({"; ".join(faults) or "no weights"}) in the encoder against its source: '
                             'the model would train otherwise, the conversion is at fault')
  return checks


def verdict(theirs: np.ndarray, their_reference: np.ndarray, ours: np.ndarray, our_reference: np.ndarray) -> Check:
  """Checks one output: the source's values, what they should be, the export's values, and what those should be."""
  return _check(int(ours.size), distance(theirs, their_reference), distance(ours, our_reference), _scale(their_reference), _FLOOR_ULPS)


def _scale(expected: np.ndarray) -> Distance:
  return distance(expected, np.broadcast_to(0.0, expected.shape))


def _check(values: int, source: Distance, export: Distance, scale: Distance, floor_ulps: int) -> Check:
  """`scale` is how large the values are: their distance to zero."""
  floor = Distance(floor_ulps * _ULP * scale.rms, floor_ulps * _ULP * scale.largest)
  allowed = Distance(_larger(_RATIO * source.rms, floor.rms), _SINGLE * _larger(_RATIO * source.largest, floor.largest))
  limit = Distance(*(min(_SOURCE_LIMIT * whole, _SOURCE_RATIO * _larger(ours, least)) if ours == ours else _SOURCE_LIMIT * whole
                     for whole, ours, least in ((scale.rms, export.rms, floor.rms), (scale.largest, _SINGLE * export.largest, _SINGLE * floor.largest))))
  return Check(values, source, export, limit, allowed)


def _larger(one: float, other: float) -> float:
  return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


def distance(actual: np.ndarray, expected: np.ndarray) -> Distance:
  """How far two arrays of the same number of values are from each other; NaN if there are none."""
  if actual.size != expected.size:
    return Distance(math.nan, math.nan)
  return _Sum.of(actual.reshape(-1), expected.reshape(-1)).distance


def _distances(pieces: Iterable[np.ndarray], others: Sequence[np.ndarray]) -> list[Distance]:
  """How far other arrays, flat, are from one that comes in pieces: the next are worked out while threads look at some."""
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
    result._largest = _larger(float(difference.max()), -float(difference.min()))
    return result

  def add_sum(self, other: '_Sum') -> None:
    """Adds what another one has."""
    self._count += other._count
    self._squares += other._squares
    self._largest = _larger(self._largest, other._largest)

  @property
  def distance(self) -> Distance:
    """NaN if there was nothing."""
    return Distance(math.sqrt(self._squares / self._count), self._largest) if self._count else Distance(math.nan, math.nan)
