"""One release in a process of its own, of which nothing outlives whoever asked for it."""

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

_PATIENCE_SECONDS = 30  # for a process that was asked to end: it takes back what it has begun
_PRELOADED = ['export.__main__', 'export.release.encoder_artifacts', 'export.release.pipeline']

_lock = threading.Lock()
_running = dict[pathlib.Path, context.ForkServerProcess | None]()  # by the directory of each
_emptied = threading.Condition(_lock)
_ended = threading.Event()


class Ended(Exception):
  """The whole job was ended."""


def run(arguments: Sequence[str], catalog: str) -> tuple[int, str]:
  """Does what `python -m export` does, and waits for it.

  The process is as fresh as one can be in which TensorFlow is imported: it is forked from one that has imported it, and
  done nothing
  else. Importing takes a quarter of a small release's processor time.

  Args:
    arguments: of `python -m export`, but for the catalog.
    catalog: its text.

  Returns:
    The exit status, negative for a signal; and what it has written to standard error.

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
  """A temporary directory, which `end_all` sees gone."""
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
  """Ends what runs, lets nothing begin any more, and waits until nothing of it is left."""
  with _lock:
    _ended.set()
    processes = [process for process in _running.values() if process is not None]
    for process in processes:
      process.terminate()
    if not _emptied.wait_for(lambda: not _running, _PATIENCE_SECONDS):
      for process in processes:
        process.kill()


def _release(arguments: Sequence[str], said: str) -> None:
  """In the process."""
  os.setsid()  # a terminal's interrupt is for whoever asked for the release, who passes it on
  threading.Thread(target=_end_with_parent, daemon=True).start()
  # What it leaves in temporary files goes with its directory: a forked process runs nothing at its end.
  os.environ['TMPDIR'] = os.path.dirname(said)
  tempfile.tempdir = None
  for number, path in ((0, os.devnull), (1, os.devnull), (2, said)):
    os.dup2(os.open(path, os.O_RDWR), number)
  sys.argv[1:] = arguments
  cli.run(importlib.import_module('export.__main__').main)


def _end_with_parent() -> None:
  """Ends this process, in an orderly way, once whoever asked for it is gone. (Its parent is the one that it was forked from.)"""
  parent = multiprocessing.parent_process()
  assert parent is not None
  parent.join()
  os.kill(os.getpid(), signal.SIGTERM)
