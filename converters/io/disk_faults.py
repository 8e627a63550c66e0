"""Names the faults of a disk, by whichever library an error was raised."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator

from converters import errors

_LITTLE = 1 << 20  # bytes that a full file system may still have
_FAULTS = {os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)}


def cause(e: BaseException) -> str | None:
  """Returns the fault of a disk that an error is about, as 'No space left on device'; None for another error.

  TensorFlow, tarfile and others raise errors of their own, with the operating system's text in the message.
  """
  return next((fault for fault in _FAULTS if fault in str(e)), None)


def _free(place: str) -> int:
  """Returns the free bytes of the file system of a path, or of its nearest parent that exists."""
  path = os.path.abspath(place)
  while not os.path.exists(path):
    path = os.path.dirname(path)
  return shutil.disk_usage(path).free


@contextlib.contextmanager
def named(place: str, option: str) -> Iterator[None]:
  """Converts errors about a full or failing disk while files are written.

  Args:
    place: the directory that is written, for the message.
    option: the option that names it.

  Raises:
    PublishError: the directory cannot be written; an error of this toolchain is raised as it is.
  """
  try:
    yield
  except errors.AlbertHubError:
    raise
  except Exception as e:
    if (fault := cause(e)) is None:
      raise
    temporary = tempfile.gettempdir()
    if fault == os.strerror(errno.ENOSPC) and _free(temporary) < _LITTLE <= _free(place):
      raise errors.PublishError(f'{temporary}: {fault}; free some, or set TMPDIR') from e
    raise errors.PublishError(f'{place}: cannot be written ({fault}); give another option {option}') from e
