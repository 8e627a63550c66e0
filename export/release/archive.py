"""Packs a model directory into the archive that a hub host serves, and takes digests on the way."""

import dataclasses
import hashlib
import io
import pathlib
import re
import tarfile
from collections.abc import Callable
from typing import Any

from isal import igzip

from converters import errors
from export.store import digests

# What a SavedModel is made of (tensorflow.org/hub/hosting): a host refuses an archive with anything else in it.
_DIRECTORIES = ('assets', 'assets.extra', 'variables')
_FILE = re.compile(
  r'saved_model\.pb|fingerprint\.pb|keras_metadata\.pb|assets(\.extra)?/[^/]+|variables/variables\.(index|data-\d{5}-of-\d{5})'
)

_PIECE = 1 << 20  # bytes that are read at once


@dataclasses.dataclass(frozen=True)
class Packed:
  """What an archive was made of.

  Attributes:
    files: what was in the directory, by relative path.
    archive: the archive itself.
    tar_sha256: SHA-256, in hex, of the tar inside. Unlike the compressed bytes, it does not depend on the compressor.
  """

  files: dict[str, digests.Digest]
  archive: digests.Digest
  tar_sha256: str


def pack(
  directory: pathlib.Path, archive: pathlib.Path, progress: Callable[[int], None] = lambda count: None
) -> Packed:
  """Writes a .tar.gz whose root is `directory`: sorted members, fixed modes, no owners and no times.

  Float weights hardly compress: the fastest level gives up 1 % of the size that the slowest would save. Every file is
  read once.

  Args:
    directory: the model.
    archive: the file to make.
    progress: called with the number of tar bytes after each piece.

  Raises:
    PublishError: there is something in the directory that no hub host takes.
  """
  members = sorted([directory, *directory.rglob('*')])
  for path in members:
    name = path.relative_to(directory).as_posix()
    if path.is_symlink() or not (
      path.is_dir() if path == directory or name in _DIRECTORIES else path.is_file() and _FILE.fullmatch(name)
    ):
      raise errors.PublishError(
        f'{name} in {directory} is nothing that the archive of a model may hold: leave it out of the SavedModel'
      )
  files = {}
  with open(archive, 'xb') as raw:
    compressed = _Tee(raw)
    with igzip.IGzipFile(filename='', fileobj=compressed, mode='wb', compresslevel=1, mtime=0) as packed:
      tee = _Tee(packed, progress)
      # Not 'w|': tarfile's own buffer for streams takes longer than the compressor.
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
          files[name] = digests.Digest(member.size, reader.sha256.hexdigest())
  return Packed(files, digests.Digest(compressed.tell(), compressed.sha256.hexdigest()), tee.sha256.hexdigest())


def _normalized(member: tarfile.TarInfo) -> tarfile.TarInfo:
  member.uid = member.gid = 0
  member.uname = member.gname = ''
  member.mtime = 0
  member.mode = 0o755 if member.isdir() else 0o644
  return member


class _Tee(io.RawIOBase):
  """Hands on what is written, hashed and counted."""

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


class HashingReader:
  """Reads on, and never back, hashed."""

  def __init__(self, source: Any):
    self._source = source
    self._position = 0
    self.sha256 = hashlib.sha256()

  def read(self, size: int = _PIECE) -> bytes:
    data = self._source.read(size)
    self._position += len(data)
    self.sha256.update(data)
    return data

  def tell(self) -> int:
    return self._position

  def seek(self, position: int) -> int:
    """Reads up to a position ahead.

    Raises:
      OSError: it lies behind.
    """
    if position < self._position:
      raise OSError('a stream has no way back')
    while self._position < position and self.read(min(_PIECE, position - self._position)):
      pass
    return self._position
