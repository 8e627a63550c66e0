"""Growth of a release's time and memory with the number of parameters, as a least-squares line."""

import dataclasses
import statistics
from collections.abc import Sequence

from benchmarks import figures
from benchmarks import results as results_lib

# Title of each figure after it is divided by a unit. Plots show no bare seconds, which depend on the machine.
QUANTITIES = {
  'wall': 'wall time of a release, over that of importing TensorFlow',
  'together': 'peak memory of a release, all processes together, GB',
}

# The goal: the line explains at least this share of the variance (R²).
STRAIGHT = 0.95


@dataclasses.dataclass(frozen=True)
class Line:
  """A least-squares line through points.

  Attributes:
    slope, intercept: coefficients of the line.
    r_squared: share of the points' variance that the line explains; 1 if all points are on the line.
  """

  slope: float
  intercept: float
  r_squared: float

  @classmethod
  def through(cls, xs: Sequence[float], ys: Sequence[float]) -> 'Line | None':
    """Fits a line; None with fewer than three points, or if all x or all y are equal."""
    if len(xs) < 3 or len(set(xs)) < 2 or len(set(ys)) < 2:
      return None
    slope, intercept = statistics.linear_regression(xs, ys)
    return cls(slope, intercept, statistics.correlation(xs, ys) ** 2)

  def at(self, x: float) -> float:
    """Returns the line's value at `x`."""
    return self.intercept + self.slope * x


@dataclasses.dataclass(frozen=True)
class Growth:
  """One quantity of one contestant, by size.

  Attributes:
    millions: number of parameters of each size, in millions.
    spreads: spread of the quantity at each size.
  """

  millions: tuple[float, ...]
  spreads: tuple[figures.Spread, ...]

  @property
  def line(self) -> Line | None:
    """The line through the medians; None if there is none."""
    return Line.through(self.millions, [spread.median for spread in self.spreads])


def of(results: results_lib.Results, who: str, figure: str) -> Growth:
  """Collects a contestant's figure over the sizes that have it. The contestant `machine` has this tool's floor."""
  unit = results.values['import_tensorflow']['wall'] if figure == 'wall' else 1e9
  points = []
  for size in results.sizes():
    values = [u['release'][who][figure] / unit for u in results.units(size) if who in u.get('release', {})]
    if values:
      points.append((results.values['sizes'][size]['parameters'] / 1e6, figures.Spread.of(values)))
  return Growth(tuple(x for x, _ in points), tuple(spread for _, spread in points))
