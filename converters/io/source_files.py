"""Finds and reads the files of a source, up to a size limit."""

import pathlib
import re

from converters import errors
from converters.io import safe_read

_SP_MODEL = 64 << 20  # bytes; a vocabulary of 30,000 pieces has 0.8 MB


def read(path: pathlib.Path, largest: int = _SP_MODEL) -> bytes:
  """Reads a file of a source.

  Args:
    path: the file.
    largest: size limit in bytes.

  Raises:
    SourceError: the file cannot be read, or is larger.
  """
  try:
    return safe_read.read(path, largest)
  except safe_read.TooLarge as e:
    raise errors.SourceError(f'{path}: more than {largest} bytes; fetch it again') from e
  except OSError as e:
    raise errors.SourceError(f'{path}: cannot be read ({e.strerror}); fetch it again') from e


def only(directory: pathlib.Path, pattern: str, what: str) -> pathlib.Path:
  """Returns the only file of a directory whose name matches.

  Args:
    directory: the directory.
    pattern: glob of the name.
    what: the kind of file, in the plural, for the message.

  Raises:
    SourceError: there is none, or more than one.
  """
  # macOS adds a hidden file to each file.
  found = sorted(path for path in directory.glob(pattern) if not path.name.startswith('.'))
  if len(found) != 1:
    names = ', '.join(path.name for path in found) or 'none'
    raise errors.SourceError(f'{directory}: {len(found)} {what} ({names}), not 1; keep one there')
  return found[0]


def only_directory(directory: pathlib.Path) -> list[pathlib.Path]:
  """Returns a list of the only subdirectory; empty if there are none or several."""
  directories = [path for path in directory.iterdir() if path.is_dir() and not path.name.startswith('.')]
  return directories if len(directories) == 1 else []


def any_named(directory: pathlib.Path, *patterns: str) -> bool:
  """Returns whether a directory has a file that matches one of the globs and is not hidden."""
  return any(not path.name.startswith('.') for pattern in patterns for path in directory.glob(pattern))


def inside(name: str, allowed: re.Pattern[str]) -> bool:
  """Returns whether a name in an archive is an allowed one, in the root or in one directory."""
  return bool(allowed.fullmatch(name) or allowed.fullmatch(name.partition('/')[2]))
