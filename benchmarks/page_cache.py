"""What the kernel holds of files in memory."""

import contextlib
import os
import pathlib
from collections.abc import Iterable

_CHUNK = 1 << 24


def settle(directories: Iterable[pathlib.Path], needed: Iterable[pathlib.Path]) -> None:
  """Holds files in memory that are needed next, and none of the others, as far as the kernel does it.

  Hours of releases fill the memory with their files. Who then asks for memory waits until the kernel has given some of
  them up, at one time, and
  not at another: loading an ALBERT-xxlarge took 0.5 to 1.7 s so.

  Args:
    directories: whose files may have been read or written; those that are not there have none.
    needed: files, and directories of files, below them.
  """
  os.sync()  # only what is on the disk can be given up
  needed = list(needed)
  files = [path for directory in directories for path in directory.rglob('*') if path.is_file()]
  kept = {path for path in files if any(path.is_relative_to(one) for one in needed)}
  for path in sorted(files, key=lambda path: (path in kept, path)):  # first there must be memory
    with contextlib.suppress(OSError), path.open('rb', buffering=0) as file:  # whoever needs it will say so
      if path in kept:
        while file.read(_CHUNK):
          pass
      else:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
