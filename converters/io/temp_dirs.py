"""Temporary directories that are removed after use; those of a killed process are removed by the next one."""

import contextlib
import fcntl
import glob
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator

# Suffix of every directory made here, so that a user's directory is never removed.
_MARK = '.scratch'


@contextlib.contextmanager
def directory(prefix: str, parent: str | os.PathLike[str] | None = None) -> Iterator[pathlib.Path]:
  """Makes a directory that is removed when the context ends; also removes those of ended processes.

  A process holds a lock on its directory until the process ends in any way.

  Args:
    prefix: first part of the name.
    parent: directory to make it in; by default the one for temporary files.

  Yields:
    The path of the directory.

  Raises:
    OSError: the directory cannot be made.
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
  """Removes the directories that ended processes left in `parent`."""
  made = re.compile(re.escape(prefix) + f'[a-z0-9_]{{8}}{_MARK}')  # the names that tempfile makes
  for path in (path for path in parent.glob(f'{glob.escape(prefix)}*') if made.fullmatch(path.name)):
    with contextlib.suppress(OSError):  # BlockingIOError: in use. Others: of another user, or just removed.
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
