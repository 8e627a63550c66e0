"""The files that a source is made of: read up to a size that none of an ALBERT comes near, and whether one belongs to it."""

import pathlib
import re

from converters import errors
from converters.io import safe_read

_SP_MODEL = 64 << 20  # bytes; a vocabulary of 30,000 pieces has 0.8 MB


def read(path: pathlib.Path, largest: int = _SP_MODEL) -> bytes:
  """Reads a file of a source.

  Args:
    path: the file.
    largest: bytes that it may have.

  Raises:
    SourceError: it cannot be read, or is larger.
  """
  try:
    return safe_read.read(path, largest)
  except safe_read.TooLarge as e:
    raise errors.SourceError(f'more than {largest} bytes in {path}: this is no file of an ALBERT') from e
  except OSError as e:
    raise errors.SourceError(f'cannot read {path} ({e.strerror}): fetch it again') from e


def only(directory: pathlib.Path, pattern: str, what: str) -> pathlib.Path:
  """The one file of a directory whose name matches.

  Args:
    directory: where to look.
    pattern: of the name, as a glob.
    what: what it is, in the plural, for the message.

  Raises:
    SourceError: there is none, or more than one.
  """
  found = sorted(
    path for path in directory.glob(pattern) if not path.name.startswith('.')
  )  # as macOS leaves beside each file
  if len(found) != 1:
    names = ', '.join(path.name for path in found) or 'none'
    raise errors.SourceError(f'{len(found)} {what} ({names}) in {directory}: one is needed')
  return found[0]


def only_directory(directory: pathlib.Path) -> list[pathlib.Path]:
  """The directory in a directory, if there is one and no other."""
  directories = [path for path in directory.iterdir() if path.is_dir() and not path.name.startswith('.')]
  return directories if len(directories) == 1 else []


def any_named(directory: pathlib.Path, *patterns: str) -> bool:
  """Whether a directory has a file whose name matches one of the globs, and begins with no dot."""
  return any(not path.name.startswith('.') for pattern in patterns for path in directory.glob(pattern))


def inside(name: str, allowed: re.Pattern[str]) -> bool:
  """Whether a name in an archive is an allowed one, in the root or in a single directory, as people pack them."""
  return bool(allowed.fullmatch(name) or allowed.fullmatch(name.partition('/')[2]))
