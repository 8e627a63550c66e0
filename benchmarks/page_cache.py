"""What the kernel holds of files in memory."""

import os
import pathlib
from collections.abc import Iterable

_CHUNK = 1 << 24


def settle(directory: pathlib.Path, needed: Iterable[pathlib.Path]) -> None:
  """Holds files in memory that are needed next, and none of the others.

  Hours of releases fill the memory with their files. Who then asks for memory waits until the kernel has given some of them up, at one time, and
  not at another: loading an ALBERT-xxlarge took 0.5 to 1.7 s so.

  Args:
    directory: of files that may have been read or written.
    needed: files, and directories of files, below it.
  """
  os.sync()  # only what is on the disk can be given up
  kept = list(needed)
  for path in sorted(path for path in directory.rglob('*') if path.is_file()):
    with path.open('rb', buffering=0) as file:
      if any(path.is_relative_to(one) for one in kept):
        while file.read(_CHUNK):
          pass
      else:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
