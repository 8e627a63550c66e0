"""What a source is known by: SHA-256 of a file, or of all the files of a directory."""

import functools
import hashlib
import os
import pathlib

from converters import errors

# No ALBERT has so many; links that lead in circles do.
_MOST_FILES = 10_000


class OfFiles:
  """What a source that is made of files is known by; see `source.Source`."""

  path: pathlib.Path
  sp_model: bytes

  @functools.cached_property
  def digest(self) -> str:
    return 'sha256:' + of_tree(self.path)

  @functools.cached_property
  def sp_model_digest(self) -> str:
    return 'sha256:' + hashlib.sha256(self.sp_model).hexdigest()


def of_file(path: str | os.PathLike[str]) -> str:
  """SHA-256 of a file, in hex."""
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def of_tree(path: pathlib.Path) -> str:
  """SHA-256, in hex, over '<sha256>  <relative path>' lines of all files below `path`, sorted by path.

  Links are followed, as TensorFlow follows them.

  Raises:
    SourceError: there is something that is neither file nor directory, or too much of it.
  """
  lines: list[str] = []
  for directory, _, names in os.walk(path, followlinks=True):
    for name in names:
      file = pathlib.Path(directory) / name
      if not file.is_file():
        raise errors.SourceError(f'{file} is no file, or a link to none: give a directory with the files of a module')
      lines.append(f'{of_file(file)}  {file.relative_to(path).as_posix()}\n')
    if len(lines) > _MOST_FILES:
      raise errors.SourceError(f'more than {_MOST_FILES} files in {path}: give a directory with the files of a module')
  return hashlib.sha256(''.join(sorted(lines, key=lambda line: line[66:])).encode()).hexdigest()


def bare(sha256: str) -> str:
  """The 64 digits of a digest, however it was written: 'sha256:...' or without, in capitals or not."""
  return sha256.removeprefix('sha256:').lower()


def check(handle: str, found: str, wanted: str) -> None:
  """Raises DigestError when a source is not the one that was asked for; `wanted` may be written in any way."""
  if found != bare(wanted):
    raise errors.DigestError(
      f'{handle} has SHA-256 {found}, not {wanted}: this is not what --source_sha256 asks for, fetch it again'
    )
