"""Directories that one worker of pytest-xdist makes and all workers read."""

import fcntl
import os
import pathlib
from collections.abc import Callable


def directory(tmp_path_factory, name: str, make: Callable[[pathlib.Path], object]) -> pathlib.Path:
  """Returns a directory of this session. The first worker makes it, and the others wait.

  Args:
    tmp_path_factory: pytest's fixture.
    name: the directory's name, one for each content.
    make: called with the path of an empty directory.
  """
  base = tmp_path_factory.getbasetemp()
  base = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base) / 'shared'
  base.mkdir(exist_ok=True)
  path, done = base / name, base / f'{name}.done'
  with open(base / f'{name}.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not done.exists():
      path.mkdir()
      make(path)
      done.touch()
  return path
