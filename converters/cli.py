"""Start and exit of every command: flags, help, environment, signals, the result and the error message.

Exit status 0: success. 1: an error. 2: invalid or contradictory flags. An error is one `error:` line on standard error.
"""

import importlib.util
import json
import logging as python_logging
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import textwrap
import traceback
import types
import warnings
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NoReturn

from absl import app
from absl import flags
from absl import logging

from converters import errors
from converters import options
from converters.io import disk_faults

# Names and versions in published paths.
NAME = re.compile(r'[a-z0-9][a-z0-9_-]{0,99}')
VERSION = re.compile(r'[1-9][0-9]{0,8}')

_LONGEST_LINE = 20_000  # characters of an error message

Groups = Mapping[str, Sequence[str]]  # titles of --help, each with the names of its flags

_HELP = ('-h', '--help', '-help', '--helpshort', '--helpfull')
_QUIET = flags.DEFINE_bool('quiet', False, 'Print nothing on standard output. Errors are still printed.')
_LONGEST_HELP_LINE = 100  # characters
flags.FLAGS['verbosity'].help = '1 shows the messages of TensorFlow, and the traceback of an error.'

# absl reads it when flags are defined, as the name of the main module: clearer than the path of a file.
if (_spec := sys.modules['__main__'].__spec__) is not None:
  sys.argv[0] = f'python -m {_spec.name.removesuffix(".__main__")}'


# Flags of another library, which `run` passes on.
_others: list[str] = []


def run(
  main: Callable[[], Mapping[str, Any] | None], groups: Groups | None = None, others: bool = False, result: bool = False
) -> NoReturn:
  """Parses the flags, runs `main`, and exits.

  Args:
    main: function that does the work. The docstring of its module is the head of --help.
    groups: flags for --help, the most needed group first.
    others: whether undefined flags belong to another library, which reads them from `others_flags` and checks them.
    result: whether `main` returns a JSON object, which --json prints.
  """
  if result:
    flags.DEFINE_bool(
      'json', False, 'Print one JSON object on standard output, and nothing else there. An error has the key `error`.'
    )

  def parse(argv: list[str]) -> list[str]:
    if set(argv[1:]) & set(_HELP):
      print(help_text(_head(main), groups or {}))
      sys.exit(0)
    return _parse(argv, others)

  set_environment()
  # TensorFlow imports generated code from the temporary directory; its bytecode files would stay there.
  sys.dont_write_bytecode = True
  sys.exit(app.run(lambda argv: _guarded(main), flags_parser=parse))


def _head(main: Callable) -> str:
  """Returns the docstring of the module of `main`, in which the command has the name that it was called by."""
  module, doc = (main.__globals__[name] for name in ('__spec__', '__doc__'))
  return re.sub(rf'python -m {re.escape(module.name.removesuffix(".__main__"))}(?![.\w])', sys.argv[0], doc)


def help_text(head: str, groups: Groups) -> str:
  """Returns the text of --help: a head, then the main module's flags by group; flags without a group come last."""
  own = {flag.name: flag for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])}
  common = [name for name in ('json', 'quiet', 'verbosity') if name in flags.FLAGS]
  grouped = {name for names in groups.values() for name in names}
  rest = [name for name in own if name not in grouped and name not in common]
  parts = [head.strip()]
  for title, names in {**groups, 'Other flags' if groups else 'Flags': rest, 'Output': common}.items():
    if names:
      parts.append('\n'.join([title, *(_help_of_flag(flags.FLAGS[name]) for name in names)]))
  return '\n\n'.join(parts)


def _help_of_flag(flag: flags.Flag) -> str:
  values = getattr(flag.parser, 'enum_values', None) or getattr(flag.parser, 'member_names', None)
  value = '|'.join(values) if values else flag.flag_type().split()[-1].upper()
  # absl adds the values of an enum, and that a flag may be repeated.
  text = re.sub(r'^<[^>]*>: |;\s+repeat this option to specify a list of values$', '', ' '.join(str(flag.help).split()))
  if flag.default is not None and flag.default is not False and 'Default:' not in text:
    text += ' Default: ' + str(flag.default_as_str).strip("'") + '.'
  width = min(_LONGEST_HELP_LINE, shutil.get_terminal_size().columns)
  indent = ' ' * 6
  lines = textwrap.wrap(
    text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
  )
  return '\n'.join([f'  --[no]{flag.name}' if flag.boolean else f'  --{flag.name}={value}', *lines])


def set_environment() -> None:
  """Sets the environment variables that TensorFlow and ONNX Runtime read at import."""
  os.environ['TF_USE_LEGACY_KERAS'] = '1'  # KerasLayer and tf-models are Keras 2
  # With one operation at a time, a derivative is summed and freed as soon as it is computed. This saves a gigabyte
  # for ALBERT-xxlarge and no time is lost: a single operation keeps all processors busy.
  os.environ.setdefault('TF_NUM_INTEROP_THREADS', '1')
  # ONNX Runtime's telemetry writes files to HOME and TMPDIR when it is imported.
  os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')


def others_flags() -> list[str]:
  """Returns the arguments that this toolchain does not define, in their order on the command line."""
  return list(_others)


def _parse(argv: list[str], others: bool) -> list[str]:
  try:
    rest = flags.FLAGS(list(map(_expand_home, argv)), known_only=others)
  except flags.Error as e:
    _fail(2, f'{e}; see --help')
  if others:
    _others[:], rest = rest[1:], rest[:1]
  if len(rest) > 1:
    _fail(2, f'{rest[1]!r}: not a flag; see --help')
  return rest


def _expand_home(word: str) -> str:
  """Expands `~` in '--flag=~/path', which a shell leaves as it is."""
  flag, equals, value = word.partition('=')
  is_home = flag.startswith('-') and (value == '~' or value.startswith('~/'))
  return f'{flag}{equals}{os.path.expanduser(value)}' if is_home else word


def _guarded(main: Callable[[], Mapping[str, Any] | None]) -> int:
  # absl sets an unset verbosity to INFO: only a verbosity that the user gave counts.
  verbose = bool(flags.FLAGS['verbosity'].present) and logging.get_verbosity() >= logging.INFO
  _quieten(verbose)
  # These signals raise KeyboardInterrupt, so that context managers clean up.
  for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, _interrupt)
  if _QUIET.value or _prints_json():
    sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), 'w', encoding='utf-8')
  try:
    result = main()
    if _prints_json():
      print(json.dumps(result), file=sys.__stdout__)
    return 0
  except errors.UsageError as e:
    _fail(2, str(e))
  except errors.AlbertHubError as e:
    if verbose:
      traceback.print_exc()
    _fail(1, str(e))
  except KeyboardInterrupt:
    _fail(1, 'interrupted: nothing was published')
  except Exception as e:  # a bug or an unexpected fault: also one line and status 1
    if verbose:
      traceback.print_exc()
    if (fault := disk_faults.cause(e)) is not None:
      place = getattr(e, 'filename', None) or 'disk'
      _fail(1, f'{place}: {fault}; check the disks of the output and of TMPDIR ({tempfile.gettempdir()})')
    _fail(1, f'{type(e).__name__}: {e}; run again with --verbosity=1 for the traceback')


def _quieten(verbose: bool) -> None:
  if verbose:
    return
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
  warnings.simplefilter('ignore')
  # Some native messages of TensorFlow ignore the log level. File descriptor 2 is discarded; Python keeps a copy.
  sys.stderr = os.fdopen(os.dup(2), 'w', buffering=1, errors='backslashreplace')
  with open(os.devnull, 'wb') as nowhere:
    os.dup2(nowhere.fileno(), 2)
  python_logging.getLogger('tensorflow').setLevel(python_logging.ERROR)
  logging.set_verbosity(logging.ERROR)


def _interrupt(number: int, frame: types.FrameType | None) -> None:
  raise KeyboardInterrupt


def file_path(flag: str, value: str | None) -> pathlib.Path | None:
  """Returns the path of a flag's output file, checked before any work is done; None if the flag is not given.

  Raises:
    UsageError: the file cannot be written.
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
    raise errors.UsageError(f'{flag}={value}: cannot be written; give a file in an existing, writable directory')
  check_not_published(flag, path)
  return path


def check_not_published(flag: str, value: str | os.PathLike[str]) -> None:
  """Checks that an output is not a file of a published version, inside of one, or in the place of a later one.

  Raises:
    UsageError: it is.
  """
  path = pathlib.Path(value).absolute()
  for place in (path, *path.parents):
    version = place.name.partition('.')[0]
    if VERSION.fullmatch(version) and place.with_name(f'{version}.release.json').exists():
      raise errors.UsageError(f'{flag}={value}: belongs to a published version, which never changes; give another path')
  if VERSION.fullmatch(path.name) and any(path.parent.glob('[1-9]*.release.json')):
    raise errors.UsageError(f'{flag}={value}: the place of a version that is not published yet; give another path')


def check_name(flag: str, value: str | None) -> str:
  """Returns a name of a published path.

  Raises:
    UsageError: the name is missing or invalid.
  """
  if not value or not NAME.fullmatch(value):
    raise errors.UsageError(
      f'{flag}={value or ""}: not a valid name; give a name of a-z, 0-9, _ and -, as albert_en_large'
    )
  return value


def check_preprocessor(value: str | None) -> None:
  """Checks the value of --preprocessor; None if the flag is not given.

  Raises:
    UsageError: the value is not NAME/VERSION.
  """
  if value is not None and not re.fullmatch(f'{NAME.pattern}/{VERSION.pattern}', value):
    raise errors.UsageError(f'--preprocessor={value}: not NAME/VERSION; give one as albert_en_preprocess/3')


def check_tf_models() -> None:
  """Checks that tf-models is installed, without importing it.

  setup.cfg says why pip does not install it with this package.

  Raises:
    UsageError: it is not installed.
  """
  if importlib.util.find_spec('official') is None:
    raise errors.UsageError('tf-models-official: not installed; run pip install --no-deps tf-models-official==2.20.0')


def finish() -> None:
  """Ignores signals from now on: the work is done, so an interrupt is not reported as one."""
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)


def _fail(status: int, message: str) -> NoReturn:
  message = options.as_flags(message)
  # A name in a hostile file can contain terminal escapes, or invalid text.
  line = ''.join(c if c.isprintable() else repr(c)[1:-1] for c in ' '.join(message.split()))
  line = line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + ' ...'
  if _prints_json():
    print(json.dumps({'error': line}), file=sys.__stdout__)
  print('error: ' + line, file=sys.stderr)
  sys.exit(status)


def _prints_json() -> bool:
  """Returns whether --json is given and defined."""
  return flags.FLAGS.is_parsed() and 'json' in flags.FLAGS and flags.FLAGS.json
