"""Runs a model in a subprocess that answers batches, and restarts the subprocess when it ends."""

import contextlib
import dataclasses
import json
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

JOB = 'job.json'  # in the subprocess's directory
_STDERR = 'stderr'
TRIES = 3

# Linux kills a child when the *thread* that started it ends (sandbox.die_with_parent). Beam's threads end early; this
# one lasts as long as the process.
_starter = futures.ThreadPoolExecutor(1, 'starter')


class Died(Exception):
  """The subprocess ended or was killed; the message has the cause."""


class Ended(Exception):
  """`Child.end` was called."""


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Configuration of a subprocess.

  Attributes:
    module: name of its Python module.
    job: parameters of the module, passed as JSON.
    threads: number of TensorFlow threads for one operation.
    apart: whether the subprocess is sandboxed.
    limits: resource limits.
    seconds: timeout of one answer, in seconds.
  """

  module: str
  job: Mapping[str, Any]
  threads: int
  apart: bool
  limits: sandbox.Limits
  seconds: float


class Child:
  """A subprocess that starts with the first `ask`."""

  def __init__(self, recipe: Recipe):
    self._recipe = recipe
    self._stack = contextlib.ExitStack()
    self._process: subprocess.Popen[bytes] | None = None
    self._ended = threading.Event()
    self.restarts = 0

  def ask(
    self, arrays: Mapping[str, np.ndarray], figures: Mapping[str, int], expected: protocol.Shapes, tries: int = TRIES
  ) -> tuple[protocol.Arrays, dict[str, int]]:
    """Sends a message and waits for the answer; retries in a new subprocess if the subprocess ends.

    Args:
      arrays: arrays of the message, by name.
      figures: integers of the message, by name.
      expected: types and shapes of the answer's arrays.
      tries: maximum number of subprocesses.

    Returns:
      The arrays and integers of the answer.

    Raises:
      Died: every subprocess ended.
      UntrustedGraphError: the graph is refused.
      SourceError: the model cannot be loaded.
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
    raise AssertionError('every path returns or raises')

  def end(self) -> None:
    """Kills the subprocess permanently."""
    self._ended.set()
    if (process := self._process) is not None:
      process.kill()

  def close(self) -> None:
    """Kills the subprocess and waits for its end; the next `ask` starts another one."""
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
          # Only the sandboxed subprocess has a memory limit.
          limit = self._recipe.limits.memory >> 30
          more = f', or raise option max_run_gib above {limit}' if self._recipe.apart else ''
          raise errors.SourceError(
            f'{self._recipe.job["model"]}: cannot be loaded ({e}); check it with python -m export.verify{more}'
          ) from e

  def _popen(self) -> subprocess.Popen[bytes]:
    recipe = self._recipe
    directory = self._stack.enter_context(temp_dirs.directory('albert_corpus_'))
    (directory / JOB).write_text(json.dumps(dict(recipe.job)))
    command = [sys.executable, '-m', recipe.module, str(directory), json.dumps(dataclasses.asdict(recipe.limits))]
    environment = sandbox.environment(directory, recipe.apart) | {
      'TF_USE_LEGACY_KERAS': '1',
      'TF_NUM_INTRAOP_THREADS': str(recipe.threads),
      'TF_NUM_INTEROP_THREADS': '1',
      'OMP_NUM_THREADS': str(recipe.threads),
      'TF_FORCE_GPU_ALLOW_GROWTH': 'true',  # subprocesses share a device
      'PYTHONUNBUFFERED': '1',  # so that the last line of standard error is complete
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
    self._stack.callback(_kill, process)
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
      garbled = f'invalid answer: {e}'
      process.kill()
    finally:
      watch.cancel()
    raise self._died(
      process,
      f'no answer within {self._recipe.seconds:.0f} s, the value of option max_run_seconds'
      if late.is_set()
      else garbled,
    )

  def _died(self, process: subprocess.Popen[bytes], why: str) -> Exception:
    status = process.wait()
    lines = (self._directory / _STDERR).read_text(errors='replace').strip().splitlines() or [
      'no output on standard error'
    ]
    self.close()
    if status == sandbox.REFUSED and not why:
      return errors.UntrustedGraphError(lines[-1])
    number = sandbox.signal_of(status)
    if not why and 0 < number < 65:
      why = f'ended by signal {number} ({signal.Signals(number).name if number in set(signal.Signals) else "unknown"})'
    return Died(why or errors.without_class_path(lines[-1])[:500])


def _kill(process: subprocess.Popen[bytes]) -> None:
  process.kill()
  process.wait()
  for pipe in (process.stdin, process.stdout):
    with contextlib.suppress(OSError):  # flushing unsent data fails
      pipe.close()  # type: ignore[union-attr]


def job(directory: str) -> dict[str, Any]:
  """Returns the parameters of this subprocess from its directory."""
  return json.loads((pathlib.Path(directory) / JOB).read_text())


def memory() -> int:
  """Returns the peak resident set size of the calling process, in bytes."""
  # getrusage also counts the process that started this one.
  status = pathlib.Path('/proc/self/status').read_text()
  return int(re.search(r'^VmHWM:\s*(\d+) kB$', status, re.MULTILINE)[1]) << 10  # type: ignore[index]
