"""Unpacks a module archive, taking regular files and directories and nothing else."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import tarfile
import unicodedata
from collections.abc import Callable
from typing import Any

from isal import igzip
from isal import isal_zlib

from converters import errors


@dataclasses.dataclass(frozen=True)
class Caps:
  """How much an archive may unpack to: what goes over is refused with the name of the flag that raises the cap.

  The largest published module, albert_xxlarge, has 9 files and 0.9 GB of weights that hardly compress.
  """

  members: int = 1000
  file_bytes: int = 8 << 30
  total_bytes: int = 8 << 30
  ratio: int = 200  # of unpacked to packed bytes, after the first megabyte


# What is wrong with the name of a file, or None.
Objection = Callable[[str], str | None]

_PIECE = 1 << 20
# The longest name, or set of extended attributes, that is read for a member.
_LONGEST_HEADER = 1 << 16
# What every file system takes.
_LONGEST_NAME, _LONGEST_PATH = 255, 1023


def unpack(
  path: str | os.PathLike[str],
  directory: pathlib.Path,
  caps: Caps = Caps(),
  objection: Objection = lambda name: None,
  handle: str | None = None,
) -> None:
  """Unpacks a .tar.gz into an existing empty directory, with modes of its own and no times or owners.

  Args:
    path: the archive.
    directory: where to.
    caps: how much it may be.
    objection: asked about the name of every file, relative to the archive's root.
    handle: what messages call the archive; by default its path.

  Raises:
    ArchiveError: the archive is broken or goes over a cap, a member is a link, a device, a duplicate or leads out of
      the directory, or
      there is an objection to its name. What was unpacked until then stays in `directory`.
  """
  archive = os.fspath(path) if handle is None else handle
  limit = min(caps.total_bytes, caps.ratio * os.path.getsize(path) + _PIECE)
  flag = '--max_source_bytes' if limit == caps.total_bytes else '--max_source_ratio'
  names = _Names(archive)
  files = 0
  try:
    with contextlib.ExitStack() as stack:
      capped: Any = _Capped(stack.enter_context(igzip.open(path, 'rb')), limit, flag, archive)
      tar = stack.enter_context(tarfile.open(fileobj=capped, mode='r|', bufsize=_PIECE, tarinfo=_Member))
      for count, member in enumerate(tar, start=1):
        if count > caps.members:
          raise over(f'more than {caps.members} members in {archive}', '--max_source_members')
        if member.size < 0:  # as attributes before it may say
          raise errors.ArchiveError(
            f'member {member.name!r} of {member.size} bytes in {archive}: fetch the archive again'
          )
        name = names.add(member)
        target = directory / name
        if member.isdir():
          target.mkdir(parents=True, exist_ok=True)
          continue
        if member.size > caps.file_bytes:
          raise over(
            f'more than {caps.file_bytes} bytes in member {member.name!r} of {archive}', '--max_source_file_bytes'
          )
        if fault := objection(name.as_posix()):
          raise errors.ArchiveError(f'member {member.name!r} in {archive} {fault}')
        files += 1
        target.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(member)
        assert content is not None, member.name  # only links and special files give None
        with content, open(target, 'xb') as f:
          shutil.copyfileobj(content, f, _PIECE)
      while rest := tar.fileobj.read(_PIECE):  # up to the checksum at the end
        if rest.strip(b'\0'):
          raise errors.ArchiveError(f'more after the end of the tar in {archive}: fetch the archive again')
  # What tarfile raises for a header it cannot make sense of is not always its own error; headers of headers end in
  # recursion.
  except (tarfile.TarError, EOFError, isal_zlib.IsalError, OSError, ValueError, OverflowError, RecursionError) as e:  # type: ignore[misc]
    raise errors.ArchiveError(f'{type(e).__name__}: {e} in {archive}: fetch the archive again') from e
  if not files:
    raise errors.ArchiveError(f'no files in {archive}: fetch the archive again')


def over(what: str, flag: str) -> errors.ArchiveError:
  """The error of what is over a cap that a flag raises."""
  return errors.ArchiveError(f'{what}: no ALBERT module is so large, raise {flag} if this one is')


class _Member(tarfile.TarInfo):
  """A member whose header is refused when it is too long: tarfile reads it as a whole, at the size that it claims."""

  @classmethod
  def fromtarfile(cls, tar: tarfile.TarFile) -> '_Member':
    """Reads a header. What is none would pass for the end of the archive."""
    try:
      return super().fromtarfile(tar)
    except tarfile.InvalidHeaderError as e:  # type: ignore[attr-defined]
      raise tarfile.ReadError(str(e)) from e

  def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
    if self.size < 0 or (self.type not in tarfile.REGULAR_TYPES and self.size > _LONGEST_HEADER):
      raise tarfile.ReadError(f'header of {self.size} bytes')
    return super()._proc_member(tar)  # type: ignore[misc]


class _Capped:
  """Reads on, up to a number of bytes."""

  def __init__(self, source: Any, limit: int, flag: str, archive: str):
    self._source = source
    self._limit = limit
    self._flag = flag
    self._left = limit
    self._archive = archive

  def read(self, size: int) -> bytes:
    data = self._source.read(size)
    self._left -= len(data)
    if self._left < 0:
      raise over(f'more than {self._limit} bytes unpacked from {self._archive}', self._flag)
    return data


class _Names:
  """The names in an archive. No two may be the same to some file system: equal, or equal but for case or Unicode form."""

  def __init__(self, archive: str):
    self._archive = archive
    self._members: set[pathlib.PurePosixPath] = set()
    self._spelled: dict[str, pathlib.PurePosixPath] = {}

  def add(self, member: tarfile.TarInfo) -> pathlib.PurePosixPath:
    name = self._checked(member)
    for path in (name, *name.parents):
      folded = unicodedata.normalize('NFKC', path.as_posix()).casefold()
      if (other := self._spelled.setdefault(folded, path)) != path:
        raise errors.ArchiveError(
          f'members {str(other)!r} and {member.name!r} in {self._archive} are one to some file systems: this is no '
          'module archive'
        )
    if name in self._members:
      raise errors.ArchiveError(f'two members {member.name!r} in {self._archive}: this is no module archive')
    self._members.add(name)
    return name

  def _checked(self, member: tarfile.TarInfo) -> pathlib.PurePosixPath:
    name = pathlib.PurePosixPath(member.name)
    if (
      name.is_absolute()
      or (member.isreg() and not name.parts)
      or '..' in name.parts
      or '\\' in member.name
      or not member.name.isprintable()
    ):
      raise errors.ArchiveError(f'member {member.name[:99]!r} leads out of {self._archive}: this is no module archive')
    if not (member.isreg() or member.isdir()) or member.issparse():
      raise errors.ArchiveError(
        f'member {member.name!r} in {self._archive} is neither file nor directory: this is no module archive'
      )
    if len(member.name.encode(errors='replace')) > _LONGEST_PATH or any(
      len(part.encode(errors='replace')) > _LONGEST_NAME for part in name.parts
    ):
      raise errors.ArchiveError(
        f'name of {len(member.name)} characters, {member.name[:40]!r}..., in {self._archive}: this is no module archive'
      )
    return name
