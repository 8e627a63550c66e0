"""What every probe does alike. It is imported in the peers' environments too: the standard library and NumPy only."""

import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np

# Batch and tokens of the calls that are timed over and over.
SHAPES = ((1, 16), (1, 128), (8, 128))
FIRST = (2, 16)  # of the first call, the training steps, and the outputs that are compared

SECONDS = 8.0  # for which a call is repeated
# In turns a call comes several times in a row, as steady calls do: with its own data in the processor's caches, and not
# others'.
_ROW_SECONDS = 0.5
_LONGEST_ROW = 32
_FEWEST_ROWS, _MOST_ROWS = 3, 16


def name(shape: tuple[int, int]) -> str:
  return f'{shape[0]}x{shape[1]}'


def timed(call: Callable[[], Any]) -> float:
  """Seconds that a call takes."""
  start = time.perf_counter()
  call()
  return time.perf_counter() - start


def steady(call: Callable[[], Any], seconds: float = SECONDS) -> float:
  """Seconds that a call takes once it is warm: the median of as many as fit in `seconds`, three at least and 496 at most."""
  return steady_in_turns([call], seconds)[0]


def steady_in_turns(calls: Sequence[Callable[[], Any]], seconds: float = SECONDS) -> list[float]:
  """The same of several, for `seconds` each on the average, by turns: what changes the machine's speed meanwhile changes all of them.

  The order changes from turn to turn. In a turn each is called as often in a row as the slowest fits in half a second,
  and the first call of a row
  does not count. If the slowest does not fit twice, a row is one call, which counts.
  """
  for call in calls:
    call()  # does what is done once
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
  """Word ids, mask and type ids, int32 [batch, seq], the same everywhere. A batch's last row ends in padding."""
  batch, length = shape
  ids = np.random.default_rng(0).integers(1, vocab_size, shape, dtype=np.int32)
  mask = np.ones(shape, np.int32)
  types = np.zeros(shape, np.int32)
  types[:, length // 2 :] = 1
  if batch > 1:
    mask[-1, -length // 4 :] = 0
  return ids * mask, mask, types * mask
