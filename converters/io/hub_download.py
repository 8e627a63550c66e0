"""Resolves a hub handle as tensorflow_hub does, with its protocol and its cache; what comes is unpacked as any other archive."""

import contextlib
import hashlib
import pathlib
import socket
import urllib.request
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow_hub import compressed_module_resolver
from tensorflow_hub import resolver

from converters import errors
from converters.io import archive
from converters.io import digest
from converters.io import temp_dirs

_PIECE = 1 << 20
_SILENCE_SECONDS = 60  # of a host, until it counts as gone
_LOCK_SECONDS = 60  # without a byte more, until another process that downloads the same counts as dead


def resolve(handle: str, caps: archive.Caps, objection: archive.Objection, sha256: str | None) -> pathlib.Path:
  """Returns the directory in tensorflow_hub's cache that a handle's archive is unpacked in; what is there is not fetched again.

  Args:
    handle: a host's address of a module, or that of a .tar.gz that tf.io.gfile knows.
    caps: how much may come, and how much it may unpack to.
    objection: asked about the names of files.
    sha256: what the archive's digest must be, or None. What was checked has a place of its own in the cache.

  Raises:
    SourceError: nothing comes, or not what was asked for.
  """
  place = handle if sha256 is None else f'{handle} sha256:{digest.bare(sha256)}'
  directory = resolver.create_local_module_dir(
    resolver.tfhub_cache_dir(use_temp=True), hashlib.sha1(place.encode()).hexdigest()
  )

  def download(handle: str, target: str) -> None:
    with temp_dirs.directory('albert_download_') as temporary:
      path = temporary / 'module.tar.gz'
      with open(path, 'wb') as f, _open(handle) as response:
        _copy(response, f, caps, handle)
      if sha256 is not None:
        digest.check(handle, digest.of_file(path), sha256)
      archive.unpack(path, pathlib.Path(target), caps, objection, handle)

  try:
    return pathlib.Path(resolver.atomic_download(handle, download, directory, _LOCK_SECONDS))
  except errors.SourceError:
    raise
  except Exception as e:  # urllib, ssl, TensorFlow and tensorflow_hub each raise their own
    raise errors.SourceError(f'{type(e).__name__}: {e} in {handle}: check the handle and the connection') from e


class _Http(compressed_module_resolver.HttpCompressedFileResolver):
  """Opens instead of downloading."""

  def open(self, handle: str) -> Any:
    return self._call_urlopen(urllib.request.Request(self._append_compressed_format_query(handle)))


@contextlib.contextmanager
def _open(handle: str) -> Iterator[Any]:
  http = _Http()
  if http.is_http_protocol(handle):
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE_SECONDS)  # tensorflow_hub waits for ever
    try:
      with http.open(handle) as response:
        yield response
    finally:
      socket.setdefaulttimeout(before)
  elif handle.endswith(('.tar.gz', '.tgz')):
    with tf.io.gfile.GFile(handle, 'rb') as f:
      yield f
  else:
    raise errors.SourceError(f'{handle} is no archive: give a .tar.gz, or copy the module here first')


def _copy(source: Any, target: Any, caps: archive.Caps, handle: str) -> None:
  left = caps.total_bytes
  while piece := source.read(_PIECE):
    left -= len(piece)
    if left < 0:
      raise archive.over(f'more than {caps.total_bytes} bytes from {handle}', '--max_source_bytes')
    target.write(piece)
