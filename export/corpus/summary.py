"""Holds the results of a comparison as summaries that can be merged in any order with the same result."""

import dataclasses
import fractions
import heapq
import math
from collections.abc import Iterable
from typing import Any

import boost_histogram as bh
import numpy as np

from converters import interface

_LOW, _HIGH, _PER_DECADE = -12, 2, 20
_QUANTILES = (0.5, 0.9, 0.99, 0.999, 0.9999)
_LONGEST = 300  # maximum characters of a stored text; twice the maximum number of stored ids


@dataclasses.dataclass(frozen=True, order=True)
class Place:
  """Place of a line.

  Attributes:
    path: path of the file.
    offset: offset in the decompressed file, in bytes.
  """

  path: str
  offset: int


@dataclasses.dataclass(frozen=True)
class Worst:
  """A line with a large difference in an output.

  Attributes:
    largest: largest absolute difference; infinite for NaN.
    place: place of the line.
    text: text of the line, shortened by `short`.
  """

  largest: float
  place: Place
  text: str

  @property
  def rank(self) -> tuple[float, Place]:
    """Sort key: largest difference first, then place."""
    return -self.largest, self.place


@dataclasses.dataclass(frozen=True)
class Unlike:
  """A line whose ids or packing differ from the reference.

  Attributes:
    place: place of the line.
    text: text of the line, shortened by `short`.
    right: first ids of the reference.
    actual: first ids of the export.
  """

  place: Place
  text: str
  right: tuple[int, ...]
  actual: tuple[int, ...]


@dataclasses.dataclass(frozen=True, order=True)
class Fault:
  """A line, or the rest of a piece of a file, that was not compared.

  Attributes:
    place: place of the first line.
    why: reason, as a verb phrase about the place.
  """

  place: Place
  why: str


def short(text: str) -> str:
  """Returns a text, truncated to _LONGEST characters."""
  return text if len(text) <= _LONGEST else text[:_LONGEST] + ' …'


def few(ids: Iterable[int]) -> tuple[int, ...]:
  """Returns the first _LONGEST / 2 ids."""
  return tuple(map(int, ids))[: _LONGEST // 2]


@dataclasses.dataclass
class Spread:
  """Statistics of absolute differences.

  Attributes:
    values: number of finite differences.
    squares: sum of their squares; a fraction, so that it does not depend on the order of summation.
    largest: largest difference.
  """

  values: int = 0
  squares: fractions.Fraction = fractions.Fraction(0)
  largest: float = 0.0

  def add(self, other: 'Spread') -> None:
    """Adds the statistics of other differences."""
    self.values += other.values
    self.squares += other.squares
    self.largest = max(self.largest, other.largest)

  @classmethod
  def of(cls, differences: np.ndarray) -> 'Spread':
    """Returns the statistics of finite differences, float64 [values]."""
    if not differences.size:
      return cls()
    return cls(differences.size, fractions.Fraction(float(np.dot(differences, differences))), float(differences.max()))

  @property
  def rms(self) -> float:
    """Root mean square; 0 without values."""
    return math.sqrt(self.squares / self.values) if self.values else 0.0


class Differences:
  """Differences of one output.

  Attributes:
    keep: maximum number of worst lines.
    spread: statistics of the finite differences.
    not_finite: number of infinite or NaN differences.
    histogram: histogram of the absolute differences, on a logarithmic axis.
    worst: lines with the largest differences.
  """

  def __init__(self, keep: int):
    self.keep = keep
    self.spread = Spread()
    self.not_finite = 0
    self.histogram = bh.Histogram(
      bh.axis.Regular(_PER_DECADE * (_HIGH - _LOW), 10.0**_LOW, 10.0**_HIGH, transform=bh.axis.transform.log),
      storage=bh.storage.Int64(),
    )
    self.worst = list[Worst]()

  def fill(self, differences: np.ndarray, worst: Iterable[Worst]) -> None:
    """Adds the differences of some lines.

    Args:
      differences: absolute differences, float64 [values].
      worst: the lines, as candidates for the worst.
    """
    finite = np.isfinite(differences)
    if not finite.all():
      self.not_finite += int(differences.size - finite.sum())
      differences = differences[finite]
    self.spread.add(Spread.of(differences))
    self.histogram.fill(differences)
    self._keep(worst)

  def add(self, other: 'Differences') -> None:
    """Adds the differences of other lines."""
    self.spread.add(other.spread)
    self.not_finite += other.not_finite
    self.histogram += other.histogram
    self._keep(other.worst)

  def _keep(self, worst: Iterable[Worst]) -> None:
    self.worst = heapq.nsmallest(self.keep, [*self.worst, *worst], key=lambda line: line.rank)

  def as_json(self) -> dict[str, Any]:
    """Returns the differences as JSON values."""
    edges = [float(edge) for edge in self.histogram.axes[0].edges]
    counts = [int(count) for count in self.histogram.view(flow=True)]
    return {
      'values': self.spread.values,
      'not_finite': self.not_finite,
      'rms': self.spread.rms,
      'largest': self.spread.largest,
      'quantiles': {str(q): min(_quantile(q, counts, edges), self.spread.largest) for q in _QUANTILES},
      'histogram': {
        'low': edges[0],
        'high': edges[-1],
        'bins': len(edges) - 1,
        'below': counts[0],
        'above': counts[-1],
        'counts': counts[1:-1],
      },
      'worst': [
        {
          **dataclasses.asdict(line.place),
          'largest': line.largest if math.isfinite(line.largest) else None,
          'text': line.text,
        }
        for line in self.worst
      ],
    }


def _quantile(share: float, counts: list[int], edges: list[float]) -> float:
  """Returns the upper edge of the bin that contains a quantile."""
  total, seen = sum(counts), 0
  for count, edge in zip(counts, [*edges, math.inf], strict=True):
    seen += count
    if seen >= share * total:
      return edge
  return math.inf


class Summary:
  """Results of a comparison on some lines.

  Attributes:
    keep: maximum number of listed lines of each kind.
    lines: number of compared lines.
    tokens: number of positions without padding.
    blank: number of lines without tokens.
    cut: number of truncated lines.
    different: number of lines whose ids or packing differ from the reference; `unlike` has the first ones.
    equally_likely: number of lines whose ids differ from the reference but have the same score, which is correct.
    unoriginal: number of lines whose ids by the rule of the preprocessor's version differ from the tokenization that
      the weights were trained with.
    not_compared: number of places that were not compared; `faults` has the first ones.
    outputs: differences by output.
    lengths: numbers of lines and tokens, and spread of `sequence_output`, by padded length of the batch.
    unlike: first lines whose ids or packing differ from the reference.
    faults: first places that were not compared.
    seconds: time of all workers by kind of work, in seconds. Varies between runs, as `memory` and `restarts` do.
    memory: peak resident set size by kind of process, in bytes.
    restarts: number of restarted subprocesses.
  """

  _COUNTS = ('lines', 'tokens', 'blank', 'cut', 'different', 'equally_likely', 'unoriginal', 'not_compared', 'restarts')

  def __init__(self, keep: int = 20):
    """Makes an empty summary that lists at most `keep` lines of each kind."""
    self.keep = keep
    self.lines = self.tokens = self.blank = self.cut = self.different = self.equally_likely = self.unoriginal = (
      self.not_compared
    ) = 0
    self.restarts = 0
    self.outputs = dict[str, Differences]()
    self.lengths = dict[int, tuple[int, int, Spread]]()
    self.unlike = list[Unlike]()
    self.faults = list[Fault]()
    self.seconds = dict[str, float]()
    self.memory = dict[str, int]()

  def output(self, name: str) -> Differences:
    """Returns the differences of an output; adds an empty entry if there is none."""
    return self.outputs.setdefault(name, Differences(self.keep))

  def note(self, unlike: Iterable[Unlike] = (), faults: Iterable[Fault] = ()) -> None:
    """Adds lines to `unlike` and `faults`, which keep the first ones by place."""
    self.unlike = heapq.nsmallest(self.keep, [*self.unlike, *unlike], key=lambda line: line.place)
    self.faults = heapq.nsmallest(self.keep, [*self.faults, *faults])

  def took(self, kind: str, seconds: float) -> None:
    """Adds the time of a kind of work, in seconds."""
    self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds

  def held(self, kind: str, size: int) -> None:
    """Raises the peak memory of a kind of process to `size` bytes, if that is more."""
    self.memory[kind] = max(self.memory.get(kind, 0), size)

  def at_length(self, length: int, lines: int, tokens: int, spread: Spread) -> None:
    """Adds a batch to the figures of its padded length."""
    before = self.lengths.get(length, (0, 0, Spread()))
    spread_here = Spread()
    spread_here.add(before[2])
    spread_here.add(spread)
    self.lengths[length] = before[0] + lines, before[1] + tokens, spread_here

  def add(self, other: 'Summary') -> None:
    """Adds another summary, which is not modified."""
    for name in self._COUNTS:
      setattr(self, name, getattr(self, name) + getattr(other, name))
    for name, differences in other.outputs.items():
      self.output(name).add(differences)
    for length, there in other.lengths.items():
      self.at_length(length, *there)
    self.note(other.unlike, other.faults)
    for kind, seconds in other.seconds.items():
      self.took(kind, seconds)
    for kind, size in other.memory.items():
      self.held(kind, size)

  def as_json(self) -> dict[str, Any]:
    """Returns the summary as JSON values; figures that vary between runs are under `run`."""
    return {
      **{name: getattr(self, name) for name in self._COUNTS if name != 'restarts'},
      'outputs': {name: self.outputs[name].as_json() for name in interface.OUTPUT_NAMES if name in self.outputs},
      'lengths': {
        str(length): {'lines': lines, 'tokens': tokens, 'rms': spread.rms, 'largest': spread.largest}
        for length, (lines, tokens, spread) in sorted(self.lengths.items())
      },
      'unlike': [
        {**dataclasses.asdict(line.place), 'text': line.text, 'right': list(line.right), 'actual': list(line.actual)}
        for line in self.unlike
      ],
      'faults': [{**dataclasses.asdict(fault.place), 'why': fault.why} for fault in self.faults],
      'run': {
        'restarts': self.restarts,
        'seconds': dict(sorted(self.seconds.items())),
        'memory': dict(sorted(self.memory.items())),
      },
    }
