"""Names the faults of a disk, by whichever library an error was raised."""

import contextlib
import errno
import os
from collections.abc import Iterator

from converters import errors

_FAULTS = {os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)}


def cause(e: BaseException) -> str | None:
  """Returns the fault of a disk that an error is about, as 'No space left on device'; None for another error.

  TensorFlow, tarfile and others raise errors of their own, with the operating system's text in the message.
  """
  return next((fault for fault in _FAULTS if fault in str(e)), None)


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
    raise errors.PublishError(f'{place}: cannot be written ({fault}); give another option {option}') from e
