"""Timing and inputs of all probes. Imports only the standard library and NumPy, since the peers' probes use it too."""

import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np

# Batch size and number of tokens of steady calls.
SHAPES = ((1, 16), (1, 128), (8, 128))
FIRST = (2, 16)  # shape of the first call, of training steps, and of the compared outputs

SECONDS = 8.0  # time for repetitions of a call
# A turn repeats each call in a row: after the first, its own data are in the processor's caches, as for steady calls.
_ROW_SECONDS = 0.5
_LONGEST_ROW = 32
_FEWEST_ROWS, _MOST_ROWS = 3, 16


def name(shape: tuple[int, int]) -> str:
  """Returns a shape's name in the keys of figures."""
  return f'{shape[0]}x{shape[1]}'


def timed(call: Callable[[], Any]) -> float:
  """Returns the seconds of one call."""
  start = time.perf_counter()
  call()
  return time.perf_counter() - start


def steady(call: Callable[[], Any], seconds: float = SECONDS) -> float:
  """Returns the median seconds of a warm call, over the calls that fit in `seconds`: 3 to 496 calls."""
  return steady_in_turns([call], seconds)[0]


def steady_in_turns(calls: Sequence[Callable[[], Any]], seconds: float = SECONDS) -> list[float]:
  """Returns the median seconds of several warm calls, for `seconds` each on average.

  The calls take turns, so that a change of the machine's speed affects all of them. The order changes from turn to
  turn. In a turn each call is repeated in a row, as often as the slowest fits in half a second. The first call of a row
  does not count. If the slowest does not fit twice, a row is one call, which counts.
  """
  for call in calls:
    call()  # includes one-time work
  once = [max(timed(call), 1e-9) for call in calls]
  row = min(int(_ROW_SECONDS / max(once)), _LONGEST_ROW)
  skipped = 1 if row > 1 else 0
  row = max(row, 1)
  turns = min(max(int(seconds * len(calls) / (row * sum(once))), _FEWEST_ROWS), _MOST_ROWS)
  samples: list[list[float]] = [[] for _ in calls]
  for turn in range(turns):
    places = range(len(calls))
    for place in reversed(places) if turn % 2 else places:
      samples[place] += [timed(calls[place]) for _ in range(row)][skipped:]
  return [statistics.median(taken) for taken in samples]


def tokens(vocab_size: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns deterministic word ids, mask and type ids, int32 [batch, seq].

  In a batch of more than one row, the last row ends in padding.
  """
  batch, length = shape
  ids = np.random.default_rng(0).integers(1, vocab_size, shape, dtype=np.int32)
  mask = np.ones(shape, np.int32)
  types = np.zeros(shape, np.int32)
  types[:, length // 2 :] = 1
  if batch > 1:
    mask[-1, -length // 4 :] = 0
  return ids * mask, mask, types * mask
