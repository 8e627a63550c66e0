"""What is found in some lines, as a value that can be put together with what is found in others, in any order, with the same result."""

import dataclasses
import fractions
import heapq
import math
from collections.abc import Iterable
from typing import Any

import boost_histogram as bh
import numpy as np

_LOW, _HIGH, _PER_DECADE = -12, 2, 20
_ORDER = ('pooled_output', 'sequence_output', 'mlm_logits', 'sop_log_probs')
_QUANTILES = (0.5, 0.9, 0.99, 0.999, 0.9999)
_LONGEST = 300  # characters of a text that is kept, and half as many ids


@dataclasses.dataclass(frozen=True, order=True)
class Place:
  """Of a line: its file, and the bytes before it there."""

  path: str
  offset: int


@dataclasses.dataclass(frozen=True)
class Worst:
  """A line in which an output differs a lot.

  Attributes:
    largest: the largest difference in it; infinite for what is no number.
    place, text: the line, as far as it is kept.
  """

  largest: float
  place: Place
  text: str

  @property
  def rank(self) -> tuple[float, Place]:
    return -self.largest, self.place


@dataclasses.dataclass(frozen=True)
class Unlike:
  """A line whose ids, or whose packing, are not those of the rule."""

  place: Place
  text: str
  right: tuple[int, ...]
  actual: tuple[int, ...]


@dataclasses.dataclass(frozen=True, order=True)
class Fault:
  """What could not be compared: a line and those that were to be compared with it, or the rest of a piece of a file."""

  place: Place
  why: str


def short(text: str) -> str:
  """A text as far as it is kept."""
  return text if len(text) <= _LONGEST else text[:_LONGEST] + ' …'


def few(ids: Iterable[int]) -> tuple[int, ...]:
  """Ids as far as they are kept."""
  return tuple(map(int, ids))[: _LONGEST // 2]


@dataclasses.dataclass
class Spread:
  """How far numbers are apart.

  Attributes:
    values: how many were compared, without those that are no numbers.
    squares: the sum of their squares. A fraction, so that it does not depend on the order of summing.
    largest: of all.
  """

  values: int = 0
  squares: fractions.Fraction = fractions.Fraction(0)
  largest: float = 0.0

  def add(self, other: 'Spread') -> None:
    self.values += other.values
    self.squares += other.squares
    self.largest = max(self.largest, other.largest)

  @classmethod
  def of(cls, differences: np.ndarray) -> 'Spread':
    """Of finite numbers, float64."""
    if not differences.size:
      return cls()
    return cls(differences.size, fractions.Fraction(float(np.dot(differences, differences))), float(differences.max()))

  @property
  def rms(self) -> float:
    """Root mean square; 0 of nothing."""
    return math.sqrt(self.squares / self.values) if self.values else 0.0


class Differences:
  """Of one output.

  Attributes:
    spread: of all that are numbers.
    not_finite: how many are none.
    histogram: of the absolute differences, on a logarithmic axis.
    worst: the lines with the largest differences.
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
    """Adds absolute differences, float64 [values], of lines of which these are candidates for the worst."""
    finite = np.isfinite(differences)
    if not finite.all():
      self.not_finite += int(differences.size - finite.sum())
      differences = differences[finite]
    self.spread.add(Spread.of(differences))
    self.histogram.fill(differences)
    self._keep(worst)

  def add(self, other: 'Differences') -> None:
    self.spread.add(other.spread)
    self.not_finite += other.not_finite
    self.histogram += other.histogram
    self._keep(other.worst)

  def _keep(self, worst: Iterable[Worst]) -> None:
    self.worst = heapq.nsmallest(self.keep, [*self.worst, *worst], key=lambda line: line.rank)

  def as_json(self) -> dict[str, Any]:
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
  """What so many of the differences are not larger than: the upper end of a bin."""
  total, seen = sum(counts), 0
  for count, edge in zip(counts, [*edges, math.inf], strict=True):
    seen += count
    if seen >= share * total:
      return edge
  return math.inf


class Summary:
  """Of some lines.

  Attributes:
    lines: how many were compared; `blank` of them hold no token, `cut` more tokens than fit.
    tokens: positions that are not padding.
    different: lines whose ids or packing are not those of the rule; `unlike` are the first of them.
    equally_likely: lines whose ids are others of the same score: both are right.
    unoriginal: lines for which the rule of the preprocessor's version gives other ids than the weights were trained
      with.
    not_compared: places from which on something was not; `faults` are the first of them.
    outputs: the differences by output.
    lengths: by how many positions the batch had, the number of lines and tokens, and the spread of `sequence_output`.
    seconds: spent by all workers in each kind of work. This and what follows is another thing in every run.
    memory: the largest resident set of each kind of process, in bytes.
    restarts: processes that were started again.
  """

  _COUNTS = ('lines', 'tokens', 'blank', 'cut', 'different', 'equally_likely', 'unoriginal', 'not_compared', 'restarts')

  def __init__(self, keep: int = 20):
    """`keep` is how many lines are kept of each kind."""
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
    """The differences of an output."""
    return self.outputs.setdefault(name, Differences(self.keep))

  def note(self, unlike: Iterable[Unlike] = (), faults: Iterable[Fault] = ()) -> None:
    """Keeps the first ones."""
    self.unlike = heapq.nsmallest(self.keep, [*self.unlike, *unlike], key=lambda line: line.place)
    self.faults = heapq.nsmallest(self.keep, [*self.faults, *faults])

  def took(self, kind: str, seconds: float) -> None:
    self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds

  def held(self, kind: str, size: int) -> None:
    self.memory[kind] = max(self.memory.get(kind, 0), size)

  def at_length(self, length: int, lines: int, tokens: int, spread: Spread) -> None:
    before = self.lengths.get(length, (0, 0, Spread()))
    spread_here = Spread()
    spread_here.add(before[2])
    spread_here.add(spread)
    self.lengths[length] = before[0] + lines, before[1] + tokens, spread_here

  def add(self, other: 'Summary') -> None:
    """Adds another one, which stays as it is."""
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
    """All of it; what is another thing in every run is below `run`."""
    return {
      **{name: getattr(self, name) for name in self._COUNTS if name != 'restarts'},
      'outputs': {name: self.outputs[name].as_json() for name in _ORDER if name in self.outputs},
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
