"""How a release's time and memory grow with the number of parameters: a straight line, and how straight it is."""

import dataclasses
import statistics
from collections.abc import Sequence

from benchmarks import figures
from benchmarks import results as results_lib

# Of figure: what it is divided by, so that no plot has bare seconds, and what it is then called.
QUANTITIES = {
  'wall': 'wall time of a release, over that of importing TensorFlow',
  'together': 'peak memory of a release, all processes together, GB',
}

# The goal is a straight line; from this share of the variance on, it is called one.
STRAIGHT = 0.95


@dataclasses.dataclass(frozen=True)
class Line:
  """The straight line closest to some points (least squares).

  Attributes:
    slope, intercept: of it.
    r_squared: the share of the points' variance that it explains: 1 if they are on it.
  """

  slope: float
  intercept: float
  r_squared: float

  @classmethod
  def through(cls, xs: Sequence[float], ys: Sequence[float]) -> 'Line | None':
    """None with fewer than three points, which are always on one, and where there is none."""
    if len(xs) < 3 or len(set(xs)) < 2 or len(set(ys)) < 2:
      return None
    slope, intercept = statistics.linear_regression(xs, ys)
    return cls(slope, intercept, statistics.correlation(xs, ys) ** 2)

  def at(self, x: float) -> float:
    return self.intercept + self.slope * x


@dataclasses.dataclass(frozen=True)
class Growth:
  """One quantity of one contestant.

  Attributes:
    millions: of parameters, one for each size.
    spreads: of the quantity, at each of them.
  """

  millions: tuple[float, ...]
  spreads: tuple[figures.Spread, ...]

  @property
  def line(self) -> Line | None:
    return Line.through(self.millions, [spread.median for spread in self.spreads])


def of(results: results_lib.Results, who: str, figure: str) -> Growth:
  """Of the sizes that have it; the machine's is the floor of this tool's."""
  unit = results.values['import_tensorflow']['wall'] if figure == 'wall' else 1e9
  points = []
  for size in results.sizes():
    values = [u['release'][who][figure] / unit for u in results.units(size) if who in u.get('release', {})]
    if values:
      points.append((results.values['sizes'][size]['parameters'] / 1e6, figures.Spread.of(values)))
  return Growth(tuple(x for x, _ in points), tuple(spread for _, spread in points))
