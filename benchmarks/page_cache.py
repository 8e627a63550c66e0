"""Control of the kernel's page cache."""

import contextlib
import os
import pathlib
from collections.abc import Iterable

_CHUNK = 1 << 24


def settle(directories: Iterable[pathlib.Path], needed: Iterable[pathlib.Path]) -> None:
  """Loads the files of the next step into the page cache, and advises the kernel to drop all others.

  Hours of releases fill the page cache. A process that then allocates memory sometimes waits for the kernel to drop
  cached files: loading an ALBERT-xxlarge took 0.5 to 1.7 s.

  Args:
    directories: directories of files that may be in the page cache. Missing directories are ignored.
    needed: files and directories of the next step, in `directories`.
  """
  os.sync()  # the kernel drops only files that are on the disk
  needed = list(needed)
  files = [path for directory in directories for path in directory.rglob('*') if path.is_file()]
  kept = {path for path in files if any(path.is_relative_to(one) for one in needed)}
  for path in sorted(files, key=lambda path: (path in kept, path)):  # drops files first, which frees memory
    with contextlib.suppress(OSError), path.open('rb', buffering=0) as file:  # the step that reads it raises the error
      if path in kept:
        while file.read(_CHUNK):
          pass
      else:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
