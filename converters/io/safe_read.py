"""Reads untrusted files: regular files only, up to a size limit."""

import os
import stat


class TooLarge(ValueError):
  """The file exceeds the size limit."""


def read(path: str | os.PathLike[str], most: int) -> bytes:
  """Reads a regular file.

  Args:
    path: the file.
    most: size limit in bytes.

  Raises:
    OSError: the file cannot be read, or is a device, a pipe or a directory.
    TooLarge: the file is larger.
  """
  # Non-blocking, since opening a pipe waits for a writer.
  handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
  with open(handle, 'rb') as f:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
      raise OSError(0, 'not a regular file')
    data = f.read(most + 1)
  if len(data) > most:
    raise TooLarge(f'more than {most} bytes')
  return data
