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

_SECONDS = 8.0
_FEWEST, _MOST = 2, 500


def name(shape: tuple[int, int]) -> str:
  return f'{shape[0]}x{shape[1]}'


def timed(call: Callable[[], Any]) -> float:
  """Seconds that a call takes."""
  start = time.perf_counter()
  call()
  return time.perf_counter() - start


def steady(call: Callable[[], Any], seconds: float = _SECONDS) -> float:
  """Seconds that a call takes once it is warm: the median of as many as fit in `seconds`, two at least, and 500 at most."""
  return steady_in_turns([call], seconds)[0]


def steady_in_turns(calls: Sequence[Callable[[], Any]], seconds: float = _SECONDS) -> list[float]:
  """The same of several, one after the other over and over: what changes the machine's speed meanwhile changes all of them."""
  count = int(seconds / max(sum(map(timed, calls)), 1e-9))
  samples = [[timed(call) for call in calls] for _ in range(min(max(count, _FEWEST), _MOST))]
  return [statistics.median(column) for column in zip(*samples, strict=True)]


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
