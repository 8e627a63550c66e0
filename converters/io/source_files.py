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
  """Returns the only file of a directory whose name matches; the first of several with the same content.

  Args:
    directory: the directory.
    pattern: glob of the name.
    what: the kind of file, in the plural, for the message.

  Raises:
    SourceError: there is none, or there are different ones.
  """
  found = matching(directory, pattern)
  if len(found) != 1 and len({read(path) for path in found}) != 1:
    names = ', '.join(path.name for path in found) or 'none'
    raise errors.SourceError(f'{directory}: {len(found)} {what} ({names}), not 1; keep one there')
  return found[0]


def matching(directory: pathlib.Path, pattern: str) -> list[pathlib.Path]:
  """Returns the files of a directory whose names match a glob, without hidden ones, sorted by name."""
  return sorted(path for path in directory.glob(pattern) if not hidden(path.name))


def directories(directory: pathlib.Path) -> list[pathlib.Path]:
  """Returns the subdirectories that are not hidden, sorted so that 'checkpoint-900' comes before 'checkpoint-1000'."""
  found = [path for path in directory.iterdir() if path.is_dir() and not hidden(path.name)]
  return sorted(found, key=lambda path: [part.zfill(9) for part in re.split('([0-9]+)', path.name)])


def hidden(name: str) -> bool:
  """Returns whether a file or a directory above it is hidden, or added by macOS ('._x', '.DS_Store', '__MACOSX')."""
  return any(part.startswith('.') or part == '__MACOSX' for part in pathlib.PurePosixPath(name).parts)


def any_named(directory: pathlib.Path, *patterns: str) -> bool:
  """Returns whether a directory has a file that matches one of the globs and is not hidden."""
  return any(matching(directory, pattern) for pattern in patterns)


def inside(name: str, allowed: re.Pattern[str]) -> bool:
  """Returns whether a name in an archive is an allowed one, in the root or in up to three directories."""
  parts = name.split('/')
  return any(allowed.fullmatch('/'.join(parts[depth:])) for depth in range(min(len(parts), 4)))
