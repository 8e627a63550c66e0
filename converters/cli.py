"""How every command of this toolchain starts and ends.

Exit status 0: done. 1: refused or failed, with one `error:` line on standard error. 2: flags that cannot be meant.
"""

import logging as python_logging
import os
import pathlib
import re
import signal
import sys
import traceback
import types
import warnings
from collections.abc import Callable
from typing import NoReturn

from absl import app
from absl import flags
from absl import logging

from converters import errors

# What a publisher or a model may be called.
NAME = re.compile(r'[a-z0-9][a-z0-9_-]{0,99}')
VERSION = re.compile(r'[1-9][0-9]{0,8}')

_LONGEST_LINE = 20_000  # characters of an error

# Read by absl where flags are defined, and printed above them by --help: the file's path says less.
if (_spec := sys.modules['__main__'].__spec__) is not None:
  sys.argv[0] = f'python -m {_spec.name.removesuffix(".__main__")}'


# What `run` was told to leave to somebody else.
_others: list[str] = []


def run(main: Callable[[], None], others: bool = False) -> NoReturn:
  """Parses the flags, runs `main`, and exits.

  Args:
    main: does the work.
    others: whether flags that are not defined here are somebody else's, who gets them from `others_flags`, and checks
      them.
  """
  set_environment()
  # What TensorFlow translates for its own layers it imports from the temporary directory, where the compiled form would
  # stay.
  sys.dont_write_bytecode = True
  sys.exit(app.run(lambda argv: _guarded(main), flags_parser=lambda argv: _parse(argv, others)))


def set_environment() -> None:
  """Sets what TensorFlow reads when it is imported."""
  os.environ['TF_USE_LEGACY_KERAS'] = '1'  # KerasLayer and tf-models are Keras 2
  # One operation at a time: a derivative is then summed, and given back, as soon as it is there.
  # A gigabyte less for ALBERT-xxlarge, in the same time: a single operation keeps all processors busy.
  os.environ.setdefault('TF_NUM_INTEROP_THREADS', '1')


def others_flags() -> list[str]:
  """The words of the command line that are not this toolchain's, in their order."""
  return list(_others)


def _parse(argv: list[str], others: bool) -> list[str]:
  try:
    rest = flags.FLAGS(argv, known_only=others)
  except flags.Error as e:
    _fail(2, f'{e}: see --help')
  if others:
    _others[:], rest = rest[1:], rest[:1]
  if len(rest) > 1:
    _fail(2, f'{rest[1]!r} is no flag: see --help')
  return rest


def _guarded(main: Callable[[], None]) -> int:
  # absl makes an unset verbosity INFO: only one that was asked for counts.
  verbose = bool(flags.FLAGS['verbosity'].present) and logging.get_verbosity() >= logging.INFO
  _quieten(verbose)
  # Whatever ends the process in an orderly way goes through the context managers that clean up.
  for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, _interrupt)
  try:
    main()
    return 0
  except errors.UsageError as e:
    _fail(2, str(e))
  except errors.AlbertHubError as e:
    if verbose:
      traceback.print_exc()
    _fail(1, str(e))
  except KeyboardInterrupt:
    _fail(1, 'interrupted: nothing was published')
  except Exception as e:  # a bug, or a fault nobody foresaw: still one line, and never a pass
    if verbose:
      traceback.print_exc()
    _fail(1, f'{type(e).__name__}: {e}: run again with --verbosity=1 for the traceback')


def _quieten(verbose: bool) -> None:
  if verbose:
    return
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
  warnings.simplefilter('ignore')
  # Some of TensorFlow's native messages heed no level: they go nowhere, and Python keeps standard error for itself.
  sys.stderr = os.fdopen(os.dup(2), 'w', buffering=1, errors='backslashreplace')
  with open(os.devnull, 'wb') as nowhere:
    os.dup2(nowhere.fileno(), 2)
  python_logging.getLogger('tensorflow').setLevel(python_logging.ERROR)
  logging.set_verbosity(logging.ERROR)


def _interrupt(number: int, frame: types.FrameType | None) -> None:
  raise KeyboardInterrupt


def file_path(flag: str, value: str | None) -> pathlib.Path | None:
  """The file that a flag asks to be written; checked before any work is done.

  Raises:
    UsageError: there can be no such file.
  """
  if value is None:
    return None
  path = pathlib.Path(value)
  place = path if path.exists() else path.absolute().parent
  if (
    not value
    or (path.exists() and not path.is_file())
    or not path.absolute().parent.is_dir()
    or not os.access(place, os.W_OK)
  ):
    raise errors.UsageError(f'{flag}={value}: give a file in a directory that exists and can be written to')
  return path


def check_name(flag: str, value: str | None) -> str:
  """Raises UsageError for what cannot be part of a published path."""
  if not value or not NAME.fullmatch(value):
    raise errors.UsageError(f'{flag}={value or ""}: give a name of a-z, 0-9, _ and -, as albert_en_large')
  return value


def check_preprocessor(value: str | None) -> None:
  """Raises UsageError for a --preprocessor that is not NAME/VERSION; None is one that was not given."""
  if value is not None and not re.fullmatch(f'{NAME.pattern}/{VERSION.pattern}', value):
    raise errors.UsageError(f'--preprocessor={value}: give NAME/VERSION, as albert_en_preprocess/3')


def finish() -> None:
  """Says that the work is done: an interrupt from now on comes too late, and is not reported as one."""
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)


def _fail(status: int, message: str) -> NoReturn:
  # Of a hostile file, a name may hold what a terminal obeys, or no text at all.
  line = ''.join(c if c.isprintable() else repr(c)[1:-1] for c in ' '.join(message.split()))
  print('error: ' + (line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + ' ...'), file=sys.stderr)
  sys.exit(status)
