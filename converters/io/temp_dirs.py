"""Temporary directories that are gone after use, also when the process that made them was killed: then the next one removes them."""

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator

# At the end of the name of every directory made here: what a user calls something is not swept.
_MARK = '.scratch'


@contextlib.contextmanager
def directory(prefix: str, parent: str | os.PathLike[str] | None = None) -> Iterator[pathlib.Path]:
  """A new directory, gone when the context ends. Removes those of the same prefix whose processes are gone.

  A process holds a lock on its directory for as long as it runs, however it ends.

  Args:
    prefix: of the name.
    parent: where; by default where temporary files go.

  Raises:
    OSError: it cannot be made.
  """
  place = pathlib.Path(tempfile.gettempdir() if parent is None else parent)
  sweep(prefix, place)
  path, lock = _make(prefix, place)
  try:
    yield path
  finally:
    shutil.rmtree(path, ignore_errors=True)
    os.close(lock)


def sweep(prefix: str, parent: pathlib.Path) -> None:
  """Removes the directories of processes that are gone."""
  made = re.compile(re.escape(prefix) + f'[a-z0-9_]{{8}}{_MARK}')  # as tempfile names them; nobody else has a reason to
  for path in (path for path in parent.glob(prefix + '*') if made.fullmatch(path.name)):
    with contextlib.suppress(OSError):  # BlockingIOError: it is in use; others: it is somebody else's, or has just gone
      lock = _lock(path)
      try:
        if os.fstat(lock).st_uid == os.getuid():
          shutil.rmtree(path, ignore_errors=True)
      finally:
        os.close(lock)


def _make(prefix: str, parent: pathlib.Path) -> tuple[pathlib.Path, int]:
  while True:
    path = pathlib.Path(tempfile.mkdtemp(_MARK, prefix, parent))
    # Another process may sweep it before it is locked.
    with contextlib.suppress(FileNotFoundError, BlockingIOError):
      lock = _lock(path)
      if path.exists():
        return path, lock
      os.close(lock)


def _lock(path: pathlib.Path) -> int:
  handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
  try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    os.close(handle)
    raise
  return handle
