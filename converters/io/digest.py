"""Digests of sources: SHA-256 of a file, or of the files of a directory."""

import functools
import hashlib
import os
import pathlib
from collections.abc import Callable

from converters import errors
from converters.io import archive
from converters.io import source_files

# More than any model has. Circular links exceed it.
_MOST_FILES = 10_000


class OfFiles:
  """A source in files, with their digests; see `source.Source`."""

  sp_model: bytes

  def __init__(self, handle: str, path: pathlib.Path, sha256: str | None):
    """Checks that the files are those of a model and have its digest, before any is parsed.

    Args:
      handle: name of the source in messages.
      path: its directory.
      sha256: expected digest, in any form that `bare` takes; None for no check.

    Raises:
      SourceError: a file cannot be read, or is a Git LFS pointer or a web page.
      DigestError: the digests differ.
    """
    self.handle = handle
    self.path = path
    for file in (*path.glob('*'), *path.glob('*/*')):  # no format has files deeper
      if self._counts(file.relative_to(path).as_posix()):
        check_start(file)
    if sha256 is not None:
      check(handle, bare(self.digest), sha256)

  def belongs(self, name: str) -> bool:
    """Returns whether a file, by its path relative to `path`, is part of the source."""
    raise NotImplementedError

  def _counts(self, name: str) -> bool:
    return not source_files.hidden(name) and self.belongs(name)

  @functools.cached_property
  def digest(self) -> str:
    """'sha256:...' over the names and contents of the source's files."""
    return 'sha256:' + of_tree(self.path, self._counts)

  @functools.cached_property
  def sp_model_digest(self) -> str:
    """'sha256:...' of the SentencePiece model."""
    return 'sha256:' + hashlib.sha256(self.sp_model).hexdigest()


def check_start(file: pathlib.Path) -> None:
  """Refuses a file that was not downloaded: a Git LFS pointer, or a web page in its place.

  Raises:
    SourceError: it is one.
  """
  if not file.is_file():  # opening a pipe would wait for a writer
    return
  try:
    with open(file, 'rb') as f:
      head = f.read(1024)
  except OSError:
    return  # its reader says why
  if head.startswith(archive.LFS_POINTER):
    raise errors.SourceError(f'{file}: this is a Git LFS pointer, not the file; run `git lfs pull` there')
  if archive.is_web_page(head):
    raise errors.SourceError(f'{file}: this is a web page, not the file; download it again')


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
    raise errors.DigestError(
      f'{handle}: SHA-256 is {found}, but option source_sha256 is {wanted}; fetch the source again'
    )
