"""One release in a process of its own, of which nothing outlives whoever asked for it."""

import importlib
import multiprocessing
import os
import pathlib
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from multiprocessing import context

from converters import command_line
from export.proof import isolation

_PATIENCE_SECONDS = 30  # for a process that was asked to end: it takes back what it has begun
_PRELOADED = ['export.__main__', 'export.release']

_running = set[context.ForkServerProcess]()
_lock = threading.Lock()
_ended = threading.Event()


class Ended(Exception):
  """The whole job was ended."""


def run(arguments: Sequence[str]) -> tuple[int, str]:
  """Does what `python -m export` does, and waits for it.

  The process is as fresh as one can be in which TensorFlow is imported: it is forked from one that has imported it, and done nothing
  else. Importing takes a quarter of a small release's processor time.

  Args:
    arguments: of `python -m export`.

  Returns:
    The exit status, negative for a signal; and what it has written to standard error.

  Raises:
    Ended: `end_all` was called.
  """
  with tempfile.TemporaryDirectory(prefix='albert_release_') as directory:
    said = pathlib.Path(directory) / 'stderr'
    said.touch()
    with _lock:
      if _ended.is_set():
        raise Ended
      command_line.set_environment()
      forking = multiprocessing.get_context('forkserver')
      forking.set_forkserver_preload(_PRELOADED)
      process = forking.Process(target=_release, args=(list(arguments), str(said)))
      process.start()
      _running.add(process)
    process.join()
    with _lock:
      _running.discard(process)
    if _ended.is_set():
      raise Ended
    assert process.exitcode is not None
    return process.exitcode, said.read_text(errors='replace')


def end_all() -> None:
  """Ends what runs, and lets nothing begin any more."""
  with _lock:
    _ended.set()
    processes = list(_running)
  for process in processes:
    process.terminate()
  for process in processes:
    process.join(_PATIENCE_SECONDS)
    if process.is_alive():
      process.kill()


def _release(arguments: Sequence[str], said: str) -> None:
  """In the process."""
  os.setsid()  # a terminal's interrupt is for whoever asked for the release, who passes it on
  isolation.die_with_parent(signal.SIGTERM)
  for number, path in ((0, os.devnull), (1, os.devnull), (2, said)):
    os.dup2(os.open(path, os.O_RDWR), number)
  sys.argv[1:] = arguments
  command_line.run(importlib.import_module('export.__main__').main)
