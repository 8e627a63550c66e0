"""Places the lines of a chart, in pixels; the pages in assets/pages/ draw them as SVG."""

import math
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT = 900, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 885, 12, 252

Ticks = Sequence[tuple[float, Any]]  # coordinates and labels


def log_scale(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
  """Returns a function from a value to its coordinate on a logarithmic axis.

  Args:
    low: decadic logarithm at `first`; values below it, and 0, are placed there.
    high: decadic logarithm at `last`; values above it are placed there.
    first: coordinate of the axis' begin.
    last: coordinate of its end.
  """

  def place(value: float) -> float:
    share = (math.log10(value) - low) / (high - low) if value > 0 else 0.0
    return round(first + (last - first) * min(max(share, 0.0), 1.0), 1)

  return place


def decades(values: Sequence[float], first: float, last: float) -> tuple[Callable[[float], float], Ticks]:
  """Returns the logarithmic scale of whole decades that hold positive values, and ticks at powers of 10."""
  low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
  high = max(high, low + 1)
  place = log_scale(low, high, first, last)
  step = max(1, (high - low) // 12)
  return place, [
    (place(10.0**power), f'1e{power}' if abs(power) > 3 else f'{10.0**power:g}') for power in range(low, high + 1, step)
  ]


def chart(series: Mapping[str, Sequence[tuple[float, float]]], x_ticks: Ticks, y_ticks: Ticks) -> dict[str, Any]:
  """Returns the variables of a chart in a page."""
  return {
    'width': WIDTH,
    'height': HEIGHT,
    'left': LEFT,
    'right': RIGHT,
    'top': TOP,
    'bottom': BOTTOM,
    'series': series,
    'x_ticks': x_ticks,
    'y_ticks': y_ticks,
  }
