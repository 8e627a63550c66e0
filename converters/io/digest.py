"""Digests of sources: SHA-256 of a file, or of the files of a directory."""

import functools
import hashlib
import os
import pathlib
from collections.abc import Callable

from converters import errors

# More than any model has. Circular links exceed it.
_MOST_FILES = 10_000


class OfFiles:
  """Computes the digests of a source in files; see `source.Source`."""

  path: pathlib.Path
  sp_model: bytes

  def belongs(self, name: str) -> bool:
    """Returns whether a file, by its path relative to `path`, is part of the source."""
    raise NotImplementedError

  @functools.cached_property
  def digest(self) -> str:
    """'sha256:...' over the names and contents of the source's files."""
    return 'sha256:' + of_tree(self.path, lambda name: not hidden(name) and self.belongs(name))

  @functools.cached_property
  def sp_model_digest(self) -> str:
    """'sha256:...' of the SentencePiece model."""
    return 'sha256:' + hashlib.sha256(self.sp_model).hexdigest()


def hidden(name: str) -> bool:
  """Returns whether a file or a directory above it is hidden, as those that macOS adds ('._x', '.DS_Store')."""
  return any(part.startswith('.') for part in pathlib.PurePosixPath(name).parts)


def of_file(path: str | os.PathLike[str]) -> str:
  """Returns the SHA-256 of a file, in hex."""
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def of_tree(path: pathlib.Path, belongs: Callable[[str], bool] = lambda name: True) -> str:
  """Returns the SHA-256, in hex, over '<sha256>  <relative path>' lines of files below `path`, sorted by path.

  Links are followed, as TensorFlow follows them.

  Args:
    path: the directory.
    belongs: whether a file counts, by its relative path.

  Raises:
    SourceError: an entry is neither file nor directory, or there are too many.
  """
  lines: list[str] = []
  count = 0
  for directory, _, names in os.walk(path, followlinks=True):
    for name in names:
      file = pathlib.Path(directory) / name
      if not belongs(relative := file.relative_to(path).as_posix()):
        continue
      if not file.is_file():
        raise errors.SourceError(f'{file}: not a regular file, or a broken link; give a directory with regular files')
      lines.append(f'{of_file(file)}  {relative}\n')
    count += len(names)
    if count > _MOST_FILES:
      raise errors.SourceError(f'{path}: more than {_MOST_FILES} files; give the directory of a model alone')
  return hashlib.sha256(''.join(sorted(lines, key=lambda line: line[66:])).encode()).hexdigest()


def bare(sha256: str) -> str:
  """Returns the 64 lower-case digits of a digest, with or without 'sha256:', in either case."""
  return sha256.removeprefix('sha256:').lower()


def check(handle: str, found: str, wanted: str) -> None:
  """Checks the digest of a source.

  Args:
    handle: name of the source in the message.
    found: digest of the source, as `bare` returns it.
    wanted: expected digest, in any form that `bare` takes.

  Raises:
    DigestError: the digests differ.
  """
  if found != bare(wanted):
    raise errors.DigestError(f'{handle}: SHA-256 is {found}, but --source_sha256 is {wanted}; fetch the source again')
