"""Private names of tarfile and tensorflow_hub that the converters use, each with the test that fails without it.

requirements/ pins tensorflow-hub. tarfile comes with Python; `make test` checks a new version of either.
"""

import tarfile
import urllib.request
from collections.abc import Callable
from typing import Any


class Member(tarfile.TarInfo):
  """A member of an archive whose header is checked before its content is read.

  tarfile has no public hook between both. It takes an invalid header for the end of the archive, and reads an extended
  header as a whole, at the size that it claims. Tested by tests/attacks/test_archive.py.
  """

  @classmethod
  def fromtarfile(cls, tar: tarfile.TarFile) -> 'Member':
    """Reads a header.

    Raises:
      ReadError: the header is invalid.
    """
    try:
      return super().fromtarfile(tar)
    except tarfile.InvalidHeaderError as e:  # type: ignore[attr-defined]
      raise tarfile.ReadError(str(e)) from e

  def check_header(self) -> None:
    """Called before the content; raises tarfile.ReadError to refuse the member."""

  def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
    self.check_header()
    return super()._proc_member(tar)  # type: ignore[misc]


def hub_directory(key: str) -> str:
  """Returns a directory in tensorflow_hub's cache.

  Tested by tests/test_source.py, which finds a module that tensorflow_hub has cached.

  Args:
    key: name of the directory; for a handle without more, the SHA-1 in hex of the handle.
  """
  from tensorflow_hub import resolver

  return resolver.create_local_module_dir(resolver.tfhub_cache_dir(use_temp=True), key)


def hub_download(handle: str, download: Callable[[str, str], None], directory: str, lock_seconds: float) -> str:
  """Downloads a handle to a directory of the cache, with tensorflow_hub's lock; keeps one that is there.

  Tested by tests/test_source.py.

  Args:
    handle: for tensorflow_hub's description of the directory.
    download: function that downloads a handle to a directory.
    directory: from `hub_directory`.
    lock_seconds: time without progress until another process's lock is ignored.
  """
  from tensorflow_hub import resolver

  return resolver.atomic_download(handle, download, directory, lock_seconds)


def hub_open(handle: str) -> Any:
  """Opens the archive of a handle as an HTTP response; returns None if the handle is no HTTP address.

  tensorflow_hub has public functions that download a handle, and none that opens it, which limits need. Tested by
  tests/test_source.py.
  """
  from tensorflow_hub import compressed_module_resolver

  http = compressed_module_resolver.HttpCompressedFileResolver()
  if not http.is_http_protocol(handle):
    return None
  return http._call_urlopen(urllib.request.Request(http._append_compressed_format_query(handle)))
