"""Limits, isolates and ends the subprocess that runs the graph of a source."""

import contextlib
import ctypes
import dataclasses
import functools
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from collections.abc import Sequence

from converters import errors

# Environment variables for the subprocess. The others, such as credentials and tokens, are not passed on.
_VARIABLES = frozenset(
  {'HOME', 'LANG', 'LC_ALL', 'LD_LIBRARY_PATH', 'PATH', 'TMPDIR', 'TZ', 'CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS'}
)
_PREFIXES = ('TF_', 'PYTHON')
_PR_SET_PDEATHSIG = 1  # prctl(2)
REFUSED = 3  # exit status if the graph was not run; the last line of standard error is the reason


@dataclasses.dataclass(frozen=True)
class Limits:
  """Resource limits of one process.

  Attributes:
    memory: address space, in bytes.
    cpu_seconds: processor time, in seconds over all threads.
    file_bytes: size of the largest written file, in bytes.
  """

  memory: int
  cpu_seconds: int
  file_bytes: int

  def apply(self) -> None:
    """Sets the limits of this process permanently; existing lower limits stay."""
    for kind, value in (
      (resource.RLIMIT_AS, self.memory),
      (resource.RLIMIT_CPU, self.cpu_seconds),
      (resource.RLIMIT_FSIZE, self.file_bytes),
      (resource.RLIMIT_CORE, 0),
    ):
      _, hard = resource.getrlimit(kind)
      lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
      with contextlib.suppress(ValueError, OSError, OverflowError):
        resource.setrlimit(kind, (lower, lower))


def die_with_parent() -> None:
  """Makes Linux kill this process when its parent ends, since nothing reads its results then."""
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(run: Callable[..., None]) -> None:
  """Runs the subprocess: calls `run` with the command-line arguments, and exits with REFUSED on a SourceError."""
  try:
    run(*sys.argv[1:])
  except errors.SourceError as refusal:
    print(refusal, file=sys.stderr)
    sys.exit(REFUSED)


def signal_of(status: int) -> int:
  """Returns the number of the signal that ended a process, from its exit status; 0 for none.

  The sandbox launchers report a signal as 128 plus its number.
  """
  return -status if status < 0 else max(0, status - 128)


def environment(directory: pathlib.Path, apart: bool = True) -> dict[str, str]:
  """Returns the environment variables for a subprocess that runs Python and TensorFlow.

  Args:
    directory: directory for its temporary files.
    apart: whether variables of this process are left out that the subprocess does not need.
  """
  inherited = {
    name: value for name, value in os.environ.items() if not apart or name in _VARIABLES or name.startswith(_PREFIXES)
  }
  return inherited | {
    'TF_CPP_MIN_LOG_LEVEL': '3',
    'PYTHONWARNINGS': 'ignore',
    'PYTHONDONTWRITEBYTECODE': '1',
    'PYTHONPATH': os.pathsep.join(p for p in sys.path if p),
    'TMPDIR': str(directory),
  }


def command(arguments: Sequence[str], writable: pathlib.Path) -> list[str]:
  """Returns a command line that runs another one in the strongest sandbox of this platform; see `means`.

  Args:
    arguments: command line to run.
    writable: the only writable directory.
  """
  return [*_launchers(writable)[means()], *arguments]


@functools.cache
def means() -> str:
  """Returns the strongest sandbox that works here: 'bubblewrap', 'namespaces' or 'none'.

  'bubblewrap' makes everything but one directory read-only, and hides the network and other processes. 'namespaces'
  hides the network, and the shared memory and message queues of other processes.
  """
  return next(name for name in _launchers(_anywhere()) if works(name))


def _launchers(writable: pathlib.Path) -> dict[str, list[str]]:
  place = str(writable)
  return {
    'bubblewrap': [
      'bwrap',
      '--ro-bind',
      '/',
      '/',
      '--dev-bind',
      '/dev',
      '/dev',
      '--proc',
      '/proc',
      '--bind',
      place,
      place,
      '--unshare-all',
      '--die-with-parent',
      '--',
    ],
    'namespaces': ['unshare', '--user', '--map-current-user', '--net', '--ipc', '--'],
    'none': [],
  }


def _anywhere() -> pathlib.Path:
  return pathlib.Path(tempfile.gettempdir())


def works(name: str) -> bool:
  """Returns whether a sandbox works on this machine; 'none' always does."""
  launcher = _launchers(_anywhere())[name]
  if not launcher:
    return True
  if shutil.which(launcher[0]) is None:
    return False
  try:
    return subprocess.run([*launcher, 'true'], capture_output=True, timeout=10).returncode == 0
  except (OSError, subprocess.SubprocessError):
    return False
