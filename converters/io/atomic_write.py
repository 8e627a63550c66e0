"""Writes files atomically: readers see the old content or the new one."""

import contextlib
import os
import pathlib
from collections.abc import Callable
from collections.abc import Iterator

from converters.io import temp_dirs


def write(path: pathlib.Path, content: bytes, mode: int | None = None) -> None:
  """Writes or replaces a file.

  Args:
    path: path of the file.
    content: its content.
    mode: its permissions; None for those of a new file.

  Raises:
    OSError: the file cannot be written; it is unchanged.
  """
  with prepared(path, content, mode) as put:
    put()


@contextlib.contextmanager
def prepared(path: pathlib.Path, content: bytes, mode: int | None = None) -> Iterator[Callable[[], None]]:
  """Writes a temporary file next to `path`, and removes it at the end, or when the next process writes `path`.

  Args:
    path: path of the file.
    content: its content.
    mode: its permissions; None for those of a new file.

  Yields:
    A function that renames the temporary file to `path`.

  Raises:
    OSError: the file cannot be written.
  """
  with temp_dirs.directory(f'.{path.name[:200]}.', path.parent) as place:
    temporary = place / 'unfinished'
    temporary.write_bytes(content)
    if mode is not None:
      os.chmod(temporary, mode)

    def put() -> None:
      temporary.replace(path)

    yield put
