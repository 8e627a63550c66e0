"""Matches, reads and writes files through Apache Beam or tf.io.gfile."""

import contextlib
import fnmatch
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any
from typing import BinaryIO

from apache_beam.io import filesystem
from apache_beam.io import filesystems

from converters import errors
from converters.io import atomic_write

_WILD = re.compile(r'[*?\[]')


def matched(pattern: str) -> list[tuple[str, int]]:
  """Returns the files that match a pattern, as sorted pairs of path and size in bytes.

  Local paths are canonical, so that a file has one path for all patterns.

  Raises:
    SourceError: no file matches, or no file system supports the pattern.
  """
  with _convert_errors('matched', pattern):
    if _is_supported_by_beam(pattern):
      (result,) = filesystems.FileSystems.match([_plain(pattern)])
      found = [
        (_canonical(metadata.path), int(metadata.size_in_bytes))
        for metadata in result.metadata_list
        if not os.path.isdir(metadata.path)
      ]
    else:
      found = [(path, _gfile().stat(path).length) for path in _glob(pattern) if not _gfile().isdir(path)]
  if not found:
    raise errors.SourceError(
      f'{pattern}: no file matches; give existing files with option corpus, as \'texts/*.txt.gz\''
    )
  return sorted(found)


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
  """Opens a file for reading and seeking, without decompression."""
  file: Any
  if _is_supported_by_beam(path):
    file = filesystems.FileSystems.open(_plain(path), compression_type=filesystem.CompressionTypes.UNCOMPRESSED)
  else:
    file = _gfile().GFile(path, 'rb')
  with file:
    yield file


def read(path: str) -> bytes:
  """Returns the content of a file."""
  with opened(path) as file:
    return file.read()


def make(directory: str) -> None:
  """Makes a directory, if it does not exist.

  Raises:
    PublishError: the directory cannot be made.
  """
  with _convert_errors('made', directory, errors.PublishError):
    if not _is_supported_by_beam(directory):
      _gfile().makedirs(directory)
    elif not filesystems.FileSystems.exists(_plain(directory)):
      filesystems.FileSystems.mkdirs(_plain(directory))


def write(path: str, content: bytes) -> None:
  """Writes or replaces a file; atomically if the file is local.

  Raises:
    PublishError: the file cannot be written.
  """
  with _convert_errors('written', path, errors.PublishError):
    if '://' not in _plain(path):
      atomic_write.write(pathlib.Path(_plain(path)), content)
    elif _is_supported_by_beam(path):
      with filesystems.FileSystems.create(path, compression_type=filesystem.CompressionTypes.UNCOMPRESSED) as file:
        file.write(content)
    else:
      if _gfile().exists(path):
        _gfile().remove(path)  # ram:// would append
      with _gfile().GFile(path, 'wb') as file:
        file.write(content)


def remove(path: str) -> None:
  """Removes a file, if it exists; ignores errors."""
  with contextlib.suppress(OSError, errors.SourceError), _convert_errors('removed', path):
    if _is_supported_by_beam(path):
      filesystems.FileSystems.delete([_plain(path)])
    else:
      _gfile().remove(path)


def _plain(path: str) -> str:
  return path.removeprefix('file://')


def _canonical(path: str) -> str:
  """Returns a local path as absolute, since workers may have another working directory, and resolves its directory."""
  return path if '://' in path else os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _is_supported_by_beam(path: str) -> bool:
  try:
    filesystems.FileSystems.get_filesystem(_plain(path))
    return True
  except ValueError:  # unknown scheme, or its package is not installed
    return False


def _glob(pattern: str) -> list[str]:
  """Matches a pattern as gfile.glob, which fails on ram:// since it needs a literal first part of the path."""
  directory, _, name = pattern.rpartition('/')
  if _WILD.search(directory):
    return list(_gfile().glob(pattern))
  if not _WILD.search(name):
    return [pattern] if _gfile().exists(pattern) else []
  return [f'{directory}/{found}' for found in _gfile().listdir(directory) if fnmatch.fnmatchcase(found, name)]


def _gfile() -> Any:
  import tensorflow as tf  # imported here, since the import takes seconds

  return tf.io.gfile


@contextlib.contextmanager
def _convert_errors(
  participle: str, path: str, error: type[errors.AlbertHubError] = errors.SourceError
) -> Iterator[None]:
  """Converts errors of file systems to `error`, with a message that `path` cannot be `participle`."""
  try:
    yield
  except errors.AlbertHubError:
    raise
  except Exception as e:  # file systems raise errors of many types
    raise error(
      f'{path}: cannot be {participle} ({" ".join(str(e).split()) or type(e).__name__}); check the path and its '
      'permissions'
    ) from e
