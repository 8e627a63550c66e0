"""Runs one release in a subprocess that exits with its parent."""

import contextlib
import importlib
import multiprocessing
import os
import pathlib
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from collections.abc import Sequence
from multiprocessing import context

from converters import cli
from converters.io import temp_dirs

_TERMINATE_SECONDS = 30  # timeout for the cleanup of a terminated subprocess
_PRELOADED = ['export.__main__', 'export.release.encoder_artifacts', 'export.release.pipeline']

_lock = threading.Lock()
_running = dict[pathlib.Path, context.ForkServerProcess | None]()  # by the directory of the subprocess
_emptied = threading.Condition(_lock)
_ended = threading.Event()


class Ended(Exception):
  """`end_all` was called."""


def run(arguments: Sequence[str], catalog: str) -> tuple[int, str]:
  """Runs `python -m export` in a subprocess, and waits for its end.

  The subprocess is forked from a server that has only imported TensorFlow, since the import takes a quarter of a small
  release's processor time.

  Args:
    arguments: arguments of `python -m export`, without the catalog.
    catalog: text of the catalog.

  Returns:
    The exit status, negative for a signal, and the text on standard error.

  Raises:
    Ended: `end_all` was called.
  """
  with _directory() as directory:
    (directory / 'catalog.yaml').write_text(catalog, encoding='utf-8')
    said = directory / 'stderr'
    said.touch()
    cli.set_environment()
    forking = multiprocessing.get_context('forkserver')
    forking.set_forkserver_preload(_PRELOADED)
    process = forking.Process(
      target=_release, args=([*arguments, f'--catalog={directory / "catalog.yaml"}'], str(said))
    )
    with _lock:
      if _ended.is_set():
        raise Ended
      process.start()
      _running[directory] = process
    process.join()
    if _ended.is_set():
      raise Ended
    assert process.exitcode is not None
    return process.exitcode, said.read_text(errors='replace')


@contextlib.contextmanager
def _directory() -> Iterator[pathlib.Path]:
  """Makes a temporary directory; `end_all` waits for its removal."""
  try:
    with temp_dirs.directory('albert_fleet_') as directory:
      with _lock:
        _running[directory] = None
      yield directory
  finally:
    with _lock:
      del _running[directory]
      _emptied.notify_all()


def end_all() -> None:
  """Terminates all subprocesses, prevents new ones, and waits until their directories are removed."""
  with _lock:
    _ended.set()
    processes = [process for process in _running.values() if process is not None]
    for process in processes:
      process.terminate()
    if not _emptied.wait_for(lambda: not _running, _TERMINATE_SECONDS):
      for process in processes:
        process.kill()


def _release(arguments: Sequence[str], said: str) -> None:
  """Runs the release; called in the subprocess."""
  os.setsid()  # a terminal's interrupt goes to the parent only, which calls end_all
  threading.Thread(target=_end_with_parent, daemon=True).start()
  # Temporary files go to the subprocess's directory, which the parent removes: a forked process runs no exit handlers.
  os.environ['TMPDIR'] = os.path.dirname(said)
  tempfile.tempdir = None
  for number, path in ((0, os.devnull), (1, os.devnull), (2, said)):
    os.dup2(os.open(path, os.O_RDWR), number)
  sys.argv[1:] = arguments
  cli.run(importlib.import_module('export.__main__').main)


def _end_with_parent() -> None:
  """Terminates this process when the process that started it ends; its Unix parent is the fork server."""
  parent = multiprocessing.parent_process()
  assert parent is not None
  parent.join()
  os.kill(os.getpid(), signal.SIGTERM)
