"""A process that holds a model and answers batches; its parent outlives it, starts it again, and is told why it ended."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import numpy as np

from converters import errors
from converters.io import temp_dirs
from export.corpus import protocol
from export.source import sandbox

JOB = 'job.json'  # in the directory that both processes have
_STDERR = 'stderr'
TRIES = 3

# The system sends a child's end after that of the *thread* that started it (sandbox.die_with_parent), and Beam's
# threads come and go: this one stays.
_starter = futures.ThreadPoolExecutor(1, 'starter')


class Died(Exception):
  """The process has ended, or had to be ended: the line says how."""


class Ended(Exception):
  """No process is wanted any more."""


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How to start a process.

  Attributes:
    module: its Python module.
    job: what it reads first, as JSON.
    threads: of TensorFlow, for one operation.
    apart: whether it is kept apart from this machine.
    limits: of it.
    seconds: the most that one answer may take.
  """

  module: str
  job: Mapping[str, Any]
  threads: int
  apart: bool
  limits: sandbox.Limits
  seconds: float


class Child:
  """Such a process, started when it is needed."""

  def __init__(self, recipe: Recipe):
    self._recipe = recipe
    self._stack = contextlib.ExitStack()
    self._process: subprocess.Popen[bytes] | None = None
    self._ended = threading.Event()
    self.restarts = 0

  def ask(
    self, arrays: Mapping[str, np.ndarray], figures: Mapping[str, int], expected: protocol.Shapes, tries: int = TRIES
  ) -> tuple[protocol.Arrays, dict[str, int]]:
    """Sends a message and waits for the answer; if the process dies of it, once more to a new one, and so on.

    Args:
      arrays, figures: the message.
      expected: what the answer must be.
      tries: how many processes may die of it.

    Raises:
      Died: they did.
      UntrustedGraphError, SourceError: what it is to run is not run, or cannot be.
      Ended: `end` was called.
    """
    for rest in reversed(range(tries)):
      try:
        if self._process is None:
          self._start()
        return self._exchange(arrays, figures, expected)
      except Died:
        if self._ended.is_set():
          raise Ended from None
        self.restarts += 1
        if not rest:
          raise
    raise AssertionError('one of them returns or raises')

  def end(self) -> None:
    """Ends the process, for good."""
    self._ended.set()
    if (process := self._process) is not None:
      process.kill()

  def close(self) -> None:
    """Ends the process, and waits for that; `ask` starts another one."""
    self._process = None
    self._stack.close()

  def _start(self) -> None:
    for rest in reversed(range(TRIES)):
      if self._ended.is_set():
        raise Ended
      try:
        self._process = _starter.submit(self._popen).result()
        self._exchange(None, {}, {})
        return
      except Died as e:
        if self._ended.is_set():
          raise Ended from None
        if not rest:
          # The export has all memory that there is.
          more = (
            f'; if it needs more than {self._recipe.limits.memory >> 30} GiB, raise --max_run_gib'
            if self._recipe.apart
            else ''
          )
          raise errors.SourceError(
            f'no model in {self._recipe.job["model"]} ({e}): see whether python -m export.verify takes it{more}'
          ) from e

  def _popen(self) -> subprocess.Popen[bytes]:
    recipe = self._recipe
    directory = self._stack.enter_context(temp_dirs.directory('albert_corpus_'))
    (directory / JOB).write_text(json.dumps(dict(recipe.job)))
    command = [sys.executable, '-m', recipe.module, str(directory), json.dumps(dataclasses.asdict(recipe.limits))]
    environment = (sandbox.environment() if recipe.apart else dict(os.environ)) | {
      'TF_USE_LEGACY_KERAS': '1',
      'TF_CPP_MIN_LOG_LEVEL': '3',
      'TF_NUM_INTRAOP_THREADS': str(recipe.threads),
      'TF_NUM_INTEROP_THREADS': '1',
      'OMP_NUM_THREADS': str(recipe.threads),
      'TF_FORCE_GPU_ALLOW_GROWTH': 'true',  # several of them share a device
      'PYTHONWARNINGS': 'ignore',
      'PYTHONDONTWRITEBYTECODE': '1',
      'PYTHONUNBUFFERED': '1',  # what it says last is its last line
      'TMPDIR': str(directory),
      'PYTHONPATH': os.pathsep.join(p for p in sys.path if p),
    }
    with open(directory / _STDERR, 'wb') as stderr:
      process = subprocess.Popen(
        sandbox.command(command, directory) if recipe.apart else command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=environment,
      )
    self._directory = directory
    self._stack.callback(_over, process)
    return process

  def _exchange(
    self, arrays: Mapping[str, np.ndarray] | None, figures: Mapping[str, int], expected: protocol.Shapes
  ) -> Any:
    process = self._process
    assert process is not None and process.stdin is not None and process.stdout is not None
    late = threading.Event()

    def stop() -> None:
      late.set()
      process.kill()

    watch = threading.Timer(self._recipe.seconds, stop)
    watch.daemon = True
    watch.start()
    try:
      if arrays is not None:
        protocol.write(process.stdin, arrays, figures)
      answer = protocol.read(process.stdout, expected)
      if answer is not None:
        return answer
      garbled = ''
    except (OSError, ValueError):  # the pipe is broken
      garbled = ''
    except protocol.Garbled as e:
      garbled = f'its answer is garbled: {e}'
      process.kill()
    finally:
      watch.cancel()
    raise self._died(
      process, f'no answer within the {self._recipe.seconds:.0f} s of --max_run_seconds' if late.is_set() else garbled
    )

  def _died(self, process: subprocess.Popen[bytes], why: str) -> Exception:
    status = process.wait()
    lines = (self._directory / _STDERR).read_text(errors='replace').strip().splitlines() or ['it said nothing']
    self.close()
    if status == sandbox.REFUSED and not why:
      return errors.UntrustedGraphError(lines[-1])
    number = sandbox.signal_of(status)
    if not why and 0 < number < 65:
      why = f'ended by signal {number} ({signal.Signals(number).name if number in set(signal.Signals) else "unknown"})'
    return Died(why or errors.without_class_path(lines[-1])[:500])


def _over(process: subprocess.Popen[bytes]) -> None:
  process.kill()
  process.wait()
  for pipe in (process.stdin, process.stdout):
    with contextlib.suppress(OSError):  # what could not be sent
      pipe.close()  # type: ignore[union-attr]


def job(directory: str) -> dict[str, Any]:
  """In the process: what it is to do."""
  return json.loads((pathlib.Path(directory) / JOB).read_text())


def memory() -> int:
  """The largest resident set of the calling process so far, in bytes."""
  # Not getrusage: its figure counts what started the process, too.
  status = pathlib.Path('/proc/self/status').read_text()
  return int(re.search(r'^VmHWM:\s*(\d+) kB$', status, re.MULTILINE)[1]) << 10  # type: ignore[index]
