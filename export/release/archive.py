"""Packs a model directory into the archive that a hub host serves, and computes its digests."""

import dataclasses
import hashlib
import io
import pathlib
import re
import struct
import tarfile
from collections.abc import Callable
from typing import Any

from isal import isal_zlib

from converters import errors
from export import record

# The files of a SavedModel (tensorflow.org/hub/hosting); a host refuses an archive with other files.
_DIRECTORIES = ('assets', 'assets.extra', 'variables')
_FILE = re.compile(
  r'saved_model\.pb|fingerprint\.pb|keras_metadata\.pb|assets(\.extra)?/[^/]+|variables/variables\.(index|data-\d{5}-of-\d{5})'
)

_PIECE = 1 << 20  # bytes per read


@dataclasses.dataclass(frozen=True)
class Packed:
  """Digests of an archive and its content.

  Attributes:
    files: digests of the directory's files, by relative path.
    archive: digest of the archive.
  """

  files: dict[str, record.Digest]
  archive: record.Archive


def pack(
  directory: pathlib.Path, archive: pathlib.Path, progress: Callable[[int], None] = lambda count: None
) -> Packed:
  """Writes a .tar.gz whose root is `directory`, with sorted members, fixed modes, and no owners or times.

  The compression level is the fastest: float weights hardly compress, and the slowest level saves 1 % more of the size.
  Every file is read once.

  Args:
    directory: directory of the SavedModel.
    archive: the .tar.gz to create.
    progress: called with the number of tar bytes after each write.

  Raises:
    PublishError: the directory has an entry that hub hosts refuse.
  """
  members = sorted([directory, *directory.rglob('*')])
  for path in members:
    name = path.relative_to(directory).as_posix()
    if path.is_symlink() or not (
      path.is_dir() if path == directory or name in _DIRECTORIES else path.is_file() and _FILE.fullmatch(name)
    ):
      raise errors.PublishError(f'{directory}: {name} is not a file of a SavedModel; remove it')
  files = {}
  with open(archive, 'xb') as raw:
    compressed = _Tee(raw)
    packed = _Gzip(compressed)
    tee = _Tee(packed, progress)
    # Not 'w|': tarfile's stream buffer takes longer than the compression.
    with tarfile.open(fileobj=tee, mode='w', format=tarfile.USTAR_FORMAT, copybufsize=_PIECE) as tar:  # type: ignore[call-overload]
      for path in members:
        name = path.relative_to(directory).as_posix()
        member = _normalized(tar.gettarinfo(path, name))
        if path.is_dir():
          tar.addfile(member)
          continue
        with open(path, 'rb') as content:
          reader = HashingReader(content)
          tar.addfile(member, reader)
        files[name] = record.Digest(member.size, reader.sha256.hexdigest())
    packed.finish()
  return Packed(files, record.Archive(compressed.tell(), compressed.sha256.hexdigest(), tee.sha256.hexdigest()))


def _normalized(member: tarfile.TarInfo) -> tarfile.TarInfo:
  member.uid = member.gid = 0
  member.uname = member.gname = ''
  member.mtime = 0
  member.mode = 0o755 if member.isdir() else 0o644
  return member


class _Tee(io.RawIOBase):
  """Passes writes on to a target, and hashes and counts the bytes."""

  def __init__(self, target: Any, progress: Callable[[int], None] = lambda count: None):
    self._target = target
    self._progress = progress
    self._size = 0
    self.sha256 = hashlib.sha256()

  def tell(self) -> int:
    return self._size

  def write(self, data: Any) -> int:
    self._target.write(data)
    self.sha256.update(data)
    self._size += len(data)
    self._progress(len(data))
    return len(data)


class _Gzip:
  """Compresses writes to a gzip file without name and time.

  Isal's output depends on the pieces that it gets. Its own IGzipFile gathers them in a buffer from Python 3.12 on, and
  in none before.
  """

  _HEADER = b'\x1f\x8b\x08' + bytes(6) + b'\xff'  # deflate, no flags, no time, unknown system

  def __init__(self, target: Any):
    self._target = target
    self._compressor = isal_zlib.compressobj(1, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
    self._crc = self._size = 0
    target.write(self._HEADER)

  def write(self, data: Any) -> None:
    self._crc = isal_zlib.crc32(data, self._crc)
    self._size += len(data)
    self._target.write(self._compressor.compress(data))

  def finish(self) -> None:
    """Writes the end of the file."""
    self._target.write(self._compressor.flush() + struct.pack('<LL', self._crc, self._size & 0xFFFFFFFF))


class HashingReader:
  """Forward-only reader that hashes the bytes it reads."""

  def __init__(self, source: Any):
    self._source = source
    self._position = 0
    self.sha256 = hashlib.sha256()

  def read(self, size: int = _PIECE) -> bytes:
    """Reads up to `size` bytes."""
    data = self._source.read(size)
    self._position += len(data)
    self.sha256.update(data)
    return data

  def tell(self) -> int:
    """Returns the number of bytes read."""
    return self._position

  def seek(self, position: int) -> int:
    """Reads forward to a position.

    Raises:
      OSError: the position is behind the current one.
    """
    if position < self._position:
      raise OSError('a stream cannot seek backward')
    while self._position < position and self.read(min(_PIECE, position - self._position)):
      pass
    return self._position
