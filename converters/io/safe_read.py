"""Reads files of which nobody knows what they are: no more than was asked for, and no device or pipe, whatever a link leads to."""

import os
import stat


class TooLarge(ValueError):
  """The file is longer than it may be."""


def read(path: str | os.PathLike[str], most: int) -> bytes:
  """Reads a regular file.

  Args:
    path: the file.
    most: how many bytes it may have.

  Raises:
    OSError: it cannot be read, or is none.
    TooLarge: it is longer.
  """
  # Without waiting, since opening a pipe waits for somebody to write to it.
  handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
  with open(handle, 'rb') as f:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
      raise OSError(0, 'no regular file')
    data = f.read(most + 1)
  if len(data) > most:
    raise TooLarge(f'more than {most} bytes')
  return data
