"""Records time and memory of steps, by process and thread.

The format is trace events, the JSON that chrome://tracing and ui.perfetto.dev display.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import resource
import threading
import time
from collections.abc import Iterator
from typing import Any

from converters.io import safe_read

_LARGEST = 1 << 20  # maximum bytes of a file of spans
_RSS_UNIT = 1024  # bytes; the unit of ru_maxrss on Linux


@dataclasses.dataclass(frozen=True)
class Span:
  """Time and memory of one step.

  Attributes:
    name: name of the step.
    process: process id.
    thread: name of the thread.
    start: start in seconds of the system's monotonic clock, which all processes share.
    seconds: wall time, in seconds.
    thread_seconds: processor time of the step's thread, in seconds.
    process_seconds: processor time of all threads of the process during the step, in seconds.
    peak_bytes: peak memory of the process up to the end of the step, in bytes.
  """

  name: str
  process: int
  thread: str
  start: float
  seconds: float
  thread_seconds: float
  process_seconds: float
  peak_bytes: int


class Profile:
  """The spans recorded so far."""

  def __init__(self) -> None:
    self.spans: list[Span] = []

  @contextlib.contextmanager
  def span(self, name: str) -> Iterator[None]:
    """Records the body as a span, also if it raises."""
    start, thread, process = time.monotonic(), time.thread_time(), time.process_time()
    try:
      yield
    finally:
      self.spans.append(
        Span(
          name,
          os.getpid(),
          threading.current_thread().name,
          start,
          time.monotonic() - start,
          time.thread_time() - thread,
          time.process_time() - process,
          resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT,
        )
      )

  def save(self, path: pathlib.Path) -> None:
    """Writes the spans to a file, for `load` in another process."""
    path.write_text(json.dumps([dataclasses.asdict(span) for span in self.spans]), encoding='utf-8')

  def load(self, path: pathlib.Path) -> None:
    """Adds the spans that an untrusted process saved; ignores a missing or invalid file."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
      spans = [Span(**span) for span in json.loads(safe_read.read(path, _LARGEST))]
      kinds = {field.name: field.type for field in dataclasses.fields(Span)}
      if all(
        type(value) is kinds[name] and (kinds[name] is not float or math.isfinite(value))
        for span in spans
        for name, value in dataclasses.asdict(span).items()
      ):
        self.spans += spans

  def events(self) -> list[dict[str, Any]]:
    """Returns the spans as trace events: times in microseconds since the first start, one track for each thread."""
    first = min((span.start for span in self.spans), default=0.0)
    processes = list(dict.fromkeys(span.process for span in self.spans))
    threads = list(dict.fromkeys((span.process, span.thread) for span in self.spans))
    names = [
      {
        'name': 'process_name',
        'ph': 'M',
        'pid': pid,
        'args': {'name': 'export' if pid == os.getpid() else 'source graph'},
      }
      for pid in processes
    ]
    names += [
      {'name': 'thread_name', 'ph': 'M', 'pid': pid, 'tid': number, 'args': {'name': thread}}
      for number, (pid, thread) in enumerate(threads)
    ]
    return names + [
      {
        'name': span.name,
        'ph': 'X',
        'pid': span.process,
        'tid': threads.index((span.process, span.thread)),
        'ts': round((span.start - first) * 1e6),
        'dur': round(span.seconds * 1e6),
        'args': {
          'thread_seconds': round(span.thread_seconds, 3),
          'process_seconds': round(span.process_seconds, 3),
          'peak_bytes': span.peak_bytes,
        },
      }
      for span in sorted(self.spans, key=lambda span: span.start)
    ]

  def write(self, path: pathlib.Path) -> None:
    """Writes the trace events to a JSON file.

    Raises:
      OSError: the file cannot be written.
    """
    path.write_text(
      json.dumps({'traceEvents': self.events(), 'displayTimeUnit': 'ms'}, indent=1) + '\n', encoding='utf-8'
    )
