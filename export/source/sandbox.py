"""What a process that runs somebody else's graph may use of this machine, and how it ends."""

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

# What of the environment such a process needs; the rest (credentials, tokens) is not its business.
_VARIABLES = frozenset(
  {'HOME', 'LANG', 'LC_ALL', 'LD_LIBRARY_PATH', 'PATH', 'TMPDIR', 'TZ', 'CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS'}
)
_PREFIXES = ('TF_', 'PYTHON')
_PR_SET_PDEATHSIG = 1  # prctl(2)
REFUSED = 3  # exit status of one that did not run its graph: the last line on its standard error says why


@dataclasses.dataclass(frozen=True)
class Limits:
  """Of one process.

  Attributes:
    memory: address space in bytes.
    cpu_seconds: over all its threads.
    file_bytes: of the largest file that it writes.
  """

  memory: int
  cpu_seconds: int
  file_bytes: int

  def apply(self) -> None:
    """Limits this process, for good. A limit that is lower already stays."""
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
  """Asks the system (Linux) to kill this process when its parent is gone: its results are useless then."""
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(run: Callable[..., None]) -> None:
  """In such a process: does what it is for, with the words of its command line."""
  try:
    run(*sys.argv[1:])
  except errors.SourceError as refusal:
    print(refusal, file=sys.stderr)
    sys.exit(REFUSED)


def signal_of(status: int) -> int:
  """The number of the signal that has ended a process, from its exit status; 0 for none.

  What runs it apart passes a signal on as 128 and its number.
  """
  return -status if status < 0 else max(0, status - 128)


def environment() -> dict[str, str]:
  """The part of this process' environment that is handed on."""
  return {name: value for name, value in os.environ.items() if name in _VARIABLES or name.startswith(_PREFIXES)}


def command(arguments: Sequence[str], writable: pathlib.Path) -> list[str]:
  """A command line that runs another one apart from this machine, as far as the platform can: see `means`.

  Args:
    arguments: the command line to run.
    writable: the one directory that it writes in.
  """
  return [*_launchers(writable)[means()], *arguments]


@functools.cache
def means() -> str:
  """How processes are kept apart here.

  'bubblewrap': everything but one directory read-only, no network, no sight of other processes. 'namespaces': no
  network, no other
  process' memory or messages. 'none'.
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
  """Whether a result of `means` works on this machine; 'none' always does."""
  launcher = _launchers(_anywhere())[name]
  if not launcher:
    return True
  if shutil.which(launcher[0]) is None:
    return False
  try:
    return subprocess.run([*launcher, 'true'], capture_output=True, timeout=10).returncode == 0
  except (OSError, subprocess.SubprocessError):
    return False
