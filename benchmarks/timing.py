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
# In turns a call comes several times in a row, as steady calls do: with its own data in the processor's caches, and not others'.
_ROW = 0.5
_FEWEST, _MOST = 3, 16
_LONGEST_ROW = 32


def name(shape: tuple[int, int]) -> str:
  return f'{shape[0]}x{shape[1]}'


def timed(call: Callable[[], Any]) -> float:
  """Seconds that a call takes."""
  start = time.perf_counter()
  call()
  return time.perf_counter() - start


def steady(call: Callable[[], Any], seconds: float = SECONDS) -> float:
  """Seconds that a call takes once it is warm: the median of as many as fit in `seconds`, three at least, and some hundreds at most."""
  return steady_in_turns([call], seconds)[0]


def steady_in_turns(calls: Sequence[Callable[[], Any]], seconds: float = SECONDS) -> list[float]:
  """The same of several, for `seconds` each, by turns: what changes the machine's speed meanwhile changes all of them.

  The order changes from turn to turn. A turn is a row of calls of half a second, of which the first does not count; or a single one that takes longer.
  """
  once = [max(timed(call), 1e-9) for call in calls]
  rows = [min(max(int(_ROW / taken), 1), _LONGEST_ROW) for taken in once]
  turns = int(seconds * len(calls) / sum(row * taken for row, taken in zip(rows, once, strict=True)))
  samples: list[list[float]] = [[] for _ in calls]
  for turn in range(min(max(turns, _FEWEST), _MOST)):
    places = range(len(calls))
    for place in reversed(places) if turn % 2 else places:
      row = [timed(calls[place]) for _ in range(rows[place])]
      samples[place] += row[1:] or row
  return [statistics.median(taken) for taken in samples]


def tokens(vocab_size: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Word ids, mask and type ids, int32 [batch, seq], the same everywhere. A batch's last row ends in padding."""
  batch, length = shape
  ids = np.random.default_rng(0).integers(1, vocab_size, shape, dtype=np.int32)
  mask = np.ones(shape, np.int32)
  types = np.zeros(shape, np.int32)
  types[:, length // 2:] = 1
  if batch > 1:
    mask[-1, -length // 4:] = 0
  return ids * mask, mask, types * mask
