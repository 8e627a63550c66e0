"""Unpacks a module archive, taking regular files and directories and nothing else."""

import dataclasses
import os
import pathlib
import shutil
import tarfile
from typing import Any

from isal import igzip
from isal import isal_zlib

from converters import errors


@dataclasses.dataclass(frozen=True)
class Caps:
  """How much an archive may unpack to.

  The largest published module, albert_xxlarge, has 9 files and 0.9 GB of weights that hardly compress.
  """
  members: int = 1000
  total_bytes: int = 8 << 30
  ratio: int = 200  # of unpacked to packed bytes, after the first megabyte


_PIECE = 1 << 20
# The longest name, or set of extended attributes, that is read for a member.
_LONGEST_HEADER = 1 << 16


def unpack(archive: str | os.PathLike[str], directory: pathlib.Path, caps: Caps = Caps()) -> None:
  """Unpacks a .tar.gz into an existing empty directory, with modes of its own and no times or owners.

  Raises:
    ArchiveError: the archive is broken or goes over a cap, or a member is a link, a device, a duplicate or leads out of
      the directory. What was unpacked until then stays in `directory`.
  """
  limit = min(caps.total_bytes, caps.ratio * os.path.getsize(archive) + _PIECE)
  files = 0
  try:
    with igzip.open(archive, 'rb') as unpacked, tarfile.open(
        fileobj=_Capped(unpacked, limit, archive), mode='r|', bufsize=_PIECE, tarinfo=_Member) as tar:  # type: ignore[call-overload]
      for count, member in enumerate(tar, start=1):
        if count > caps.members:
          raise errors.ArchiveError(f'more than {caps.members} members in {archive}: no ALBERT module has so many')
        target = directory / _checked_name(member, archive)
        if member.isdir():
          target.mkdir(parents=True, exist_ok=True)
          continue
        files += 1
        target.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(member)
        assert content is not None, member.name  # only links and special files give None
        with content, open(target, 'xb') as f:
          shutil.copyfileobj(content, f, _PIECE)
      while rest := tar.fileobj.read(_PIECE):  # up to the checksum at the end
        if rest.strip(b'\0'):
          raise errors.ArchiveError(f'more after the end of the tar in {archive}: fetch the archive again')
  # What tarfile raises for a header it cannot make sense of is not always its own error.
  except (tarfile.TarError, EOFError, isal_zlib.IsalError, OSError, ValueError, OverflowError) as e:  # type: ignore[misc]
    raise errors.ArchiveError(f'{type(e).__name__}: {e} in {archive}: fetch the archive again') from e
  if not files:
    raise errors.ArchiveError(f'no files in {archive}: fetch the archive again')


class _Member(tarfile.TarInfo):
  """A member whose header is refused when it is too long: tarfile reads it as a whole, at the size that it claims."""

  def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
    if self.type not in tarfile.REGULAR_TYPES and self.size > _LONGEST_HEADER:
      raise tarfile.ReadError(f'header of {self.size} bytes')
    return super()._proc_member(tar)  # type: ignore[misc]


class _Capped:
  """Reads on, up to a number of bytes."""

  def __init__(self, source: Any, limit: int, archive: str | os.PathLike[str]):
    self._source = source
    self._limit = limit
    self._left = limit
    self._archive = archive

  def read(self, size: int) -> bytes:
    data = self._source.read(size)
    self._left -= len(data)
    if self._left < 0:
      raise errors.ArchiveError(f'more than {self._limit} bytes unpacked from {self._archive}: no ALBERT module is so large')
    return data


def _checked_name(member: tarfile.TarInfo, archive: str | os.PathLike[str]) -> pathlib.PurePosixPath:
  name = pathlib.PurePosixPath(member.name)
  if name.is_absolute() or '..' in name.parts or '\\' in member.name or not member.name.isprintable():
    raise errors.ArchiveError(f'member {member.name!r} leads out of {archive}: this is no module archive')
  if not (member.isreg() or member.isdir()) or member.issparse():
    raise errors.ArchiveError(f'member {member.name!r} in {archive} is neither file nor directory: this is no module archive')
  return name
