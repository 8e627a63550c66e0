"""Files wherever Apache Beam or tf.io.gfile reaches: matched, opened, written."""

import contextlib
import fnmatch
import os
import re
from collections.abc import Iterator
from typing import Any
from typing import BinaryIO

from apache_beam.io import filesystem
from apache_beam.io import filesystems

from converters import errors

_WILD = re.compile(r'[*?\[]')


def matched(pattern: str) -> list[tuple[str, int]]:
  """The files that a pattern is of: path and size in bytes, sorted. A file of this machine has one path, however it is spelled.

  Raises:
    SourceError: there are none, or nobody knows such a place.
  """
  with _told('match', pattern):
    if _is_beams(pattern):
      (result,) = filesystems.FileSystems.match([_plain(pattern)])
      found = [
        (_one_spelling(metadata.path), int(metadata.size_in_bytes))
        for metadata in result.metadata_list
        if not os.path.isdir(metadata.path)
      ]
    else:
      found = [(path, _gfile().stat(path).length) for path in _glob(pattern) if not _gfile().isdir(path)]
  if not found:
    raise errors.SourceError(f'no file matches {pattern}: give what is there with --corpus, as \'texts/*.txt.gz\'')
  return sorted(found)


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
  """A file to read from, and to seek in, as it lies there: nothing is unpacked."""
  file: Any
  if _is_beams(path):
    file = filesystems.FileSystems.open(_plain(path), compression_type=filesystem.CompressionTypes.UNCOMPRESSED)
  else:
    file = _gfile().GFile(path, 'rb')
  with file:
    yield file


def read(path: str) -> bytes:
  """The content of a file."""
  with opened(path) as file:
    return file.read()


def make(directory: str) -> None:
  """Makes a directory, if there is none.

  Raises:
    PublishError: it cannot be made.
  """
  with _told('make', directory, errors.PublishError):
    if not _is_beams(directory):
      _gfile().makedirs(directory)
    elif not filesystems.FileSystems.exists(_plain(directory)):
      filesystems.FileSystems.mkdirs(_plain(directory))


def write(path: str, content: bytes) -> None:
  """Writes a file, in place of one that is there: on this machine with a rename, elsewhere as the place does it.

  Raises:
    PublishError: it cannot be written.
  """
  with _told('write', path, errors.PublishError):
    if '://' not in _plain(path):
      unfinished = f'{_plain(path)}.unfinished'
      try:
        with open(unfinished, 'wb') as file:
          file.write(content)
        os.replace(unfinished, _plain(path))
      finally:
        with contextlib.suppress(FileNotFoundError):
          os.unlink(unfinished)
    elif _is_beams(path):
      with filesystems.FileSystems.create(path, compression_type=filesystem.CompressionTypes.UNCOMPRESSED) as file:
        file.write(content)
    else:
      if _gfile().exists(path):
        _gfile().remove(path)  # ram:// would add to it
      with _gfile().GFile(path, 'wb') as file:
        file.write(content)


def remove(path: str) -> None:
  """Removes a file, if it is there."""
  with contextlib.suppress(OSError, errors.SourceError), _told('remove', path):
    if _is_beams(path):
      filesystems.FileSystems.delete([_plain(path)])
    else:
      _gfile().remove(path)


def _plain(path: str) -> str:
  return path.removeprefix('file://')


def _one_spelling(path: str) -> str:
  """Absolute, for workers with another working directory, and without links to directories on the way."""
  return path if '://' in path else os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _is_beams(path: str) -> bool:
  try:
    filesystems.FileSystems.get_filesystem(_plain(path))
    return True
  except ValueError:  # no scheme that it knows, or whose package is installed
    return False


def _glob(pattern: str) -> list[str]:
  """As gfile.glob, which needs a literal first part of a path that some of its file systems do not have (ram://)."""
  directory, _, name = pattern.rpartition('/')
  if _WILD.search(directory):
    return list(_gfile().glob(pattern))
  if not _WILD.search(name):
    return [pattern] if _gfile().exists(pattern) else []
  return [f'{directory}/{found}' for found in _gfile().listdir(directory) if fnmatch.fnmatchcase(found, name)]


def _gfile() -> Any:
  import tensorflow as tf  # takes seconds, and only such places need it

  return tf.io.gfile


@contextlib.contextmanager
def _told(verb: str, path: str, error: type[errors.AlbertHubError] = errors.SourceError) -> Iterator[None]:
  try:
    yield
  except errors.AlbertHubError:
    raise
  except Exception as e:  # each file system has its own
    raise error(
      f'cannot {verb} {path} ({" ".join(str(e).split()) or type(e).__name__}): check the path, and the rights there'
    ) from e
