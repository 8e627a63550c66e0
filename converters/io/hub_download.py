"""Resolves a hub handle with tensorflow_hub's protocol and cache, and unpacks the archive under limits."""

import contextlib
import errno
import hashlib
import pathlib
import shutil
import socket
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from converters import _private
from converters import errors
from converters.io import archive
from converters.io import digest
from converters.io import temp_dirs

_PIECE = 1 << 20
_SILENCE_SECONDS = 60  # without a byte from the host, until the download fails
_LOCK_SECONDS = 60  # without progress, until the lock of another process's download is ignored


def resolve(handle: str, caps: archive.Caps, belongs: archive.Belongs, sha256: str | None) -> tuple[pathlib.Path, bool]:
  """Returns the directory of a handle's archive in tensorflow_hub's cache, and whether it was downloaded by this call.

  Args:
    handle: the address of a module on a host, or of a .tar.gz that tf.io.gfile reads.
    caps: limits of the download and of the archive.
    belongs: whether a file in the archive is unpacked, by its name.
    sha256: the archive's expected digest, or None. Each digest has its own place in the cache.

  Raises:
    SourceError: the download fails, or the archive is invalid or has another digest.
  """
  directory = _directory(handle, sha256)
  fresh = []

  def download(handle: str, target: str) -> None:
    fresh.append(handle)
    with temp_dirs.directory('albert_download_') as temporary:
      path = temporary / 'module.tar.gz'
      with open(path, 'wb') as f, _open(handle) as response:
        _copy(response, f, caps, handle)
      if sha256 is not None:
        digest.check(handle, digest.of_file(path), sha256)
      archive.unpack(path, pathlib.Path(target), caps, belongs, handle)

  try:
    return pathlib.Path(_private.hub_download(handle, download, directory, _LOCK_SECONDS)), bool(fresh)
  except errors.SourceError:
    raise
  except Exception as e:  # urllib, ssl, TensorFlow and tensorflow_hub each raise their own
    raise errors.SourceError(f'{handle}: {_cause(e)}; check the handle and the connection') from e


def forget(handle: str, sha256: str | None) -> None:
  """Removes a handle's directory from the cache, because it is incomplete or damaged; arguments as of `resolve`."""
  directory = _directory(handle, sha256)
  shutil.rmtree(directory, ignore_errors=True)
  pathlib.Path(f'{directory}.descriptor.txt').unlink(missing_ok=True)


def _directory(handle: str, sha256: str | None) -> str:
  place = handle if sha256 is None else f'{handle} sha256:{digest.bare(sha256)}'
  return _private.hub_directory(hashlib.sha1(place.encode()).hexdigest())


def _cause(e: BaseException) -> str:
  """Returns the reason of a failed download, in plain words for common ones."""
  reason = getattr(e, 'reason', e)
  if isinstance(reason, socket.gaierror):
    return 'host not found, or no connection'
  if isinstance(e, OSError) and e.errno == errno.ENOSPC:
    return 'no space left on the disk of the cache (TFHUB_CACHE_DIR)'
  return f'{type(e).__name__}: {e}'


@contextlib.contextmanager
def _open(handle: str) -> Iterator[Any]:
  before = socket.getdefaulttimeout()
  socket.setdefaulttimeout(_SILENCE_SECONDS)  # tensorflow_hub sets no timeout
  try:
    response = _private.hub_open(handle)
    if response is not None:
      with response:
        yield response
      return
  finally:
    socket.setdefaulttimeout(before)
  with tf.io.gfile.GFile(handle, 'rb') as f:
    yield f


def _copy(source: Any, target: Any, caps: archive.Caps, handle: str) -> None:
  left = caps.total_bytes
  while piece := source.read(_PIECE):
    left -= len(piece)
    if left < 0:
      raise archive.over(f'{handle}: more than {caps.total_bytes} bytes', 'max_source_bytes')
    target.write(piece)
