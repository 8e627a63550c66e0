"""The table of compared quantities with their goals, and the arithmetic of ratios."""

import dataclasses
import statistics
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from benchmarks import sizes
from benchmarks import timing

OURS, TF_MODELS, HUGGING_FACE, MACHINE = 'ours', 'tf-models', 'huggingface', 'machine'


@dataclasses.dataclass(frozen=True)
class Spread:
  """Median and range of ratios over rounds. Each ratio is of two figures of the same round.

  Attributes:
    median, low, high: median, smallest and largest ratio.
    rounds: number of ratios.
  """

  median: float
  low: float
  high: float
  rounds: int

  @classmethod
  def of(cls, ratios: Sequence[float]) -> 'Spread':
    """Summarises one or more ratios."""
    return cls(statistics.median(ratios), min(ratios), max(ratios), len(ratios))

  def __str__(self) -> str:
    return (
      number(self.median) if self.rounds == 1 else f'{number(self.median)} ({number(self.low)} to {number(self.high)})'
    )


@dataclasses.dataclass(frozen=True)
class Row:
  """One compared quantity, as a ratio.

  Attributes:
    against: the peer.
    title: name of the quantity in tables.
    ours: path of keys to this tool's figure in a unit of the results.
    theirs: path of keys to the peer's figure.
    goals: largest (or smallest) allowed median, by size; sizes without a goal are missing.
    at_least: whether the goals are smallest allowed values.
    floor: path of keys to the floor, this tool's figure with the unavoidable work alone; empty if not measured.
  """

  against: str
  title: str
  ours: tuple[str, ...]
  theirs: tuple[str, ...]
  goals: Mapping[str, float] = dataclasses.field(default_factory=dict)
  at_least: bool = False
  floor: tuple[str, ...] = ()

  def spread(self, units: Iterable[Mapping[str, Any]]) -> Spread | None:
    """Returns the spread over the rounds that have both figures; None without such a round."""
    ratios = [ratio for unit in units if (ratio := _ratio(unit, self.ours, self.theirs)) is not None]
    return Spread.of(ratios) if ratios else None

  def floor_spread(self, units: Iterable[Mapping[str, Any]]) -> Spread | None:
    """Returns the spread of the floor over the peer's figure; None without a floor.

    Most floors are measured in a separate process, which may by chance be slower. So a floor is at most the better of
    the two tools' figures (at least, for a ceiling).
    """
    ratios = []
    for unit in units:
      floor = _ratio(unit, self.floor, self.theirs) if self.floor else None
      if floor is not None:
        reached = floor, _ratio(unit, self.ours, self.theirs), 1.0 if self.against == TF_MODELS else None
        best = max if self.at_least else min
        ratios.append(best(ratio for ratio in reached if ratio is not None))
    return Spread.of(ratios) if ratios else None

  def outcome(self, size: str, spread: Spread | None) -> str:
    """Returns the outcome of a size's goal as in `outcome`; '' without a goal."""
    return outcome(spread, self.goals[size], self.at_least) if size in self.goals else ''


def outcome(spread: Spread | None, goal: float, at_least: bool) -> str:
  """Returns 'met', 'met by the median' (but not in every round), 'missed' or 'not measured'."""
  if spread is None:
    return 'not measured'
  reaches = (lambda value: value >= goal) if at_least else (lambda value: value <= goal)
  if not reaches(spread.median):
    return 'missed'
  return 'met' if reaches(spread.low) and reaches(spread.high) else 'met by the median'


def _ratio(unit: Mapping[str, Any], ours: Sequence[str], theirs: Sequence[str]) -> float | None:
  one, other = _get(unit, ours), _get(unit, theirs)
  return one / other if one is not None and other else None


def number(value: float) -> str:
  """Formats a non-negative number with three significant digits and without an exponent."""
  if value >= 100:
    return f'{value:.0f}'
  text = f'{value:.3g}'
  return f'{value:.6f}'.rstrip('0') if 'e' in text else text


def signed(value: float) -> str:
  """Formats a number of either sign as `number` does."""
  return f'{"-" if value < 0 else ""}{number(abs(value))}'


def _everywhere(goal: float) -> dict[str, float]:
  return dict.fromkeys(sizes.PUBLISHED, goal)


def _peer(title: str, step: str, figure: str, goals: Mapping[str, float] | None = None, floor: bool = False) -> Row:
  return Row(
    TF_MODELS,
    title,
    (step, OURS, figure),
    (step, TF_MODELS, figure),
    goals or {},
    floor=(step, MACHINE, figure) if floor else (),
  )


def _hugging_face(title: str, step: str, figure: str) -> Row:
  return Row(HUGGING_FACE, title, (step, OURS, figure), (step, HUGGING_FACE, figure))


_SHAPES = {
  f'steady inference, {batch} x {length}': f'steady_{timing.name((batch, length))}' for batch, length in timing.SHAPES
}
_LAST = timing.SHAPES[-1]

ROWS = (
  _peer('wall time of a release', 'release', 'wall', {'large': 0.30, 'xxlarge': 0.25}, floor=True),
  _peer('processor time of a release', 'release', 'cpu'),
  _peer('peak memory of a release, all processes together', 'release', 'together', {'xxlarge': 0.25}, floor=True),
  _peer('peak memory of a release, largest process', 'release', 'peak'),
  _peer('saved_model.pb of the encoder', 'artifact', 'graph', _everywhere(0.10)),
  _peer('all files of the encoder', 'artifact', 'encoder'),
  _peer('all files of the preprocessor', 'artifact', 'preprocessor'),
  _peer('hub.load', 'first', 'load', _everywhere(0.25), floor=True),
  _peer('first call', 'first', 'first_call', _everywhere(0.7), floor=True),
  *(_peer(title, 'steady', figure, _everywhere(1.0), floor=True) for title, figure in _SHAPES.items()),
  _peer('first training step', 'training', 'first_step', _everywhere(0.5)),
  _peer('steady training step', 'training', 'steady_step', _everywhere(1.0)),
  _peer('peak memory of loading and training', 'training', 'peak'),
  _peer('preprocessing, time of a text', 'preprocessor', 'seconds_per_text'),
  _hugging_face('load', 'first', 'load'),
  *(_hugging_face(title, 'steady', figure) for title, figure in _SHAPES.items()),
  Row(
    MACHINE,
    f'inference, {_LAST[0]} x {_LAST[1]}: share of a large matmul\'s GFLOP/s',
    ('steady', OURS, 'inference_flops'),
    ('steady', OURS, 'matmul_flops'),
    _everywhere(0.85),
    at_least=True,
    floor=('steady', MACHINE, 'inference_flops'),
  ),
  Row(
    MACHINE,
    'the same, tf-models\' export',
    ('steady', TF_MODELS, 'inference_flops'),
    ('steady', TF_MODELS, 'matmul_flops'),
  ),
  Row(
    MACHINE,
    'wall time of a release over reading and writing the same bytes',
    ('release', OURS, 'wall'),
    ('disk', OURS, 'seconds'),
  ),
  Row(
    MACHINE,
    'peak memory of a release, all processes together, over 2.5 times the weights and importing TensorFlow',
    ('release', OURS, 'together'),
    ('bound', OURS, 'peak'),
    {'xxlarge': 1.0},
    floor=('release', MACHINE, 'together'),
  ),
)


def _get(unit: Mapping[str, Any], keys: Sequence[str]) -> float | None:
  value: Any = unit
  for key in keys:
    if not isinstance(value, Mapping) or key not in value:
      return None
    value = value[key]
  return value
