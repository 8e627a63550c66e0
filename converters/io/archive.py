"""Unpacks the archive of a source: only the regular files that belong to it."""

import contextlib
import dataclasses
import errno
import os
import pathlib
import shutil
import tarfile
import unicodedata
from collections.abc import Callable
from typing import Any

from isal import igzip
from isal import isal_zlib

from converters import _private
from converters import errors


@dataclasses.dataclass(frozen=True)
class Caps:
  """Limits of an archive; an error names the option that raises the exceeded limit.

  The largest published module, albert_xxlarge, has 9 files and 0.9 GB of weights that hardly compress.
  """

  members: int = 1000
  file_bytes: int = 8 << 30
  total_bytes: int = 8 << 30
  ratio: int = 200  # of unpacked to packed bytes, after the first megabyte


# Whether a file of that name, relative to the archive's root, belongs to a source.
Belongs = Callable[[str], bool]

_PIECE = 1 << 20
# The longest name, or set of extended attributes, that is read for a member.
_LONGEST_HEADER = 1 << 16
# Limits that every file system supports, in bytes.
_LONGEST_NAME, _LONGEST_PATH = 255, 1023


def unpack(
  path: str | os.PathLike[str],
  directory: pathlib.Path,
  caps: Caps = Caps(),
  belongs: Belongs = lambda name: True,
  handle: str | None = None,
  foreign: Belongs = lambda name: False,
) -> None:
  """Unpacks a .tar.gz or a plain .tar into an existing empty directory, with default modes, times and owners.

  Files that do not belong to a source are skipped, as in a directory.

  Args:
    path: the archive.
    directory: the directory to unpack to.
    caps: limits.
    belongs: whether a file is unpacked, by its name relative to the archive's root.
    handle: name of the archive in messages; by default its path.
    foreign: whether a file that is skipped becomes an empty one, so that messages can name it.

  Raises:
    ArchiveError: the file has another format, or the archive is invalid or exceeds a limit. Also if a member is a link,
      a device, a duplicate or outside of the directory. The files unpacked so far stay in `directory`.
  """
  archive = os.fspath(path) if handle is None else handle
  limit = min(caps.total_bytes, caps.ratio * os.path.getsize(path) + _PIECE)
  option = 'max_source_bytes' if limit == caps.total_bytes else 'max_source_ratio'
  names = _Names(archive)
  files, skipped = 0, list[str]()
  open_it = opener(path, archive)
  try:
    with contextlib.ExitStack() as stack:
      capped: Any = _Capped(stack.enter_context(open_it(path, 'rb')), limit, option, archive)
      tar = stack.enter_context(tarfile.open(fileobj=capped, mode='r|', bufsize=_PIECE, tarinfo=_Member))
      for count, member in enumerate(tar, start=1):
        if count > caps.members:
          raise over(f'{archive}: more than {caps.members} members', 'max_source_members')
        if member.size < 0:  # extended attributes can set it
          raise errors.ArchiveError(
            f'{archive}: member {member.name!r} has a size of {member.size} bytes; fetch the archive again'
          )
        name = names.add(member)
        target = directory / name
        if member.isdir():
          target.mkdir(parents=True, exist_ok=True)
          continue
        if member.size > caps.file_bytes:
          raise over(f'{archive}: more than {caps.file_bytes} bytes in member {member.name!r}', 'max_source_file_bytes')
        if not belongs(name.as_posix()):
          skipped.append(name.as_posix())
          if foreign(name.as_posix()):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
          continue
        files += 1
        target.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(member)
        assert content is not None, member.name  # only links and special files give None
        with content, open(target, 'xb') as f:
          shutil.copyfileobj(content, f, _PIECE)
      while rest := tar.fileobj.read(_PIECE):  # up to the checksum at the end
        if rest.strip(b'\0'):
          raise errors.ArchiveError(f'{archive}: more bytes after the end of the tar; fetch the archive again')
  # tarfile raises more than its own errors for an invalid header; nested headers end in a RecursionError.
  except (  # type: ignore[misc]
    tarfile.TarError,
    EOFError,
    isal_zlib.IsalError,
    OSError,
    ValueError,
    OverflowError,
    RecursionError,
  ) as e:
    if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT):
      raise errors.ArchiveError(
        f'{archive}: no space left to unpack it in {directory}; free some, or set TMPDIR (TFHUB_CACHE_DIR for handles)'
      ) from e
    raise errors.ArchiveError(
      f'{archive}: truncated or invalid archive ({type(e).__name__}: {e}); fetch the archive again'
    ) from e
  if not files and skipped:
    raise errors.ArchiveError(
      f'{archive}: no file of a TF1 Hub module, a checkpoint, a release or a model of Hugging Face (there are '
      f'{", ".join(map(repr, skipped[:5]))}{" and more" if len(skipped) > 5 else ""}); pack the directory of one'
    )
  if not files:
    raise errors.ArchiveError(f'{archive}: no files in the archive; fetch the archive again')


# First bytes of other formats, each with its name and the action that helps.
LFS_POINTER = b'version https://git-lfs'
_OTHER_FORMATS = (
  (b'PK\x03\x04', 'a zip archive', 'unpack it and give its directory'),
  (LFS_POINTER, 'a Git LFS pointer', 'run `git lfs pull` where it was cloned'),
  (b'BZh', 'a bzip2 archive', 'unpack it and give its directory'),
  (b'\xfd7zXZ\0', 'an xz archive', 'unpack it and give its directory'),
  (b'7z\xbc\xaf', 'a 7-Zip archive', 'unpack it and give its directory'),
  (b'Rar!', 'a RAR archive', 'unpack it and give its directory'),
  (b'\x28\xb5\x2f\xfd', 'a Zstandard archive', 'unpack it and give its directory'),
  (b'\x04\x22\x4d\x18', 'an LZ4 archive', 'unpack it and give its directory'),
  (b'\x89HDF', 'an HDF5 file', 'give a model in one of the formats of docs/sources.md'),
)
_TAR_MAGIC, _TAR_MAGIC_OFFSET, _GZIP_MAGIC = b'ustar', 257, b'\x1f\x8b'


def opener(path: str | os.PathLike[str], archive: str) -> Callable[..., Any]:
  """Returns the function that opens a .tar.gz or a plain .tar, by its first bytes.

  Raises:
    ArchiveError: the file has another format, which the message names.
  """
  with open(path, 'rb') as f:
    head = f.read(1024)
  if head[_TAR_MAGIC_OFFSET : _TAR_MAGIC_OFFSET + len(_TAR_MAGIC)] == _TAR_MAGIC:
    return open
  for magic, name, action in _OTHER_FORMATS:
    if head.startswith(magic):
      raise errors.ArchiveError(f'{archive}: this is {name}, not a .tar.gz; {action}')
  if is_web_page(head):
    raise errors.ArchiveError(
      f'{archive}: this is a web page, not an archive; download the model\'s .tar.gz (for a tfhub.dev handle: '
      '"TensorFlow 1" or "TensorFlow 2" at kaggle.com/models/google/albert), and give its path'
    )
  if head and not head.startswith(_GZIP_MAGIC):
    raise errors.ArchiveError(
      f'{archive}: not a .tar.gz or .tar (it begins with {head[:16]!r}); fetch the archive again, or give a model\'s '
      'directory'
    )
  return igzip.open


def is_web_page(head: bytes) -> bool:
  """Returns whether the first bytes of a file are those of HTML or XML."""
  text = head.removeprefix(b'\xef\xbb\xbf').lstrip().lower()
  return text.startswith((b'<!doctype', b'<html', b'<?xml', b'<head', b'<!--', b'<body'))


def over(what: str, option: str) -> errors.ArchiveError:
  """Returns the error for an exceeded limit, which `option` raises."""
  return errors.ArchiveError(f'{what} (no published ALBERT is so large); raise option {option} if this one is')


class _Member(_private.Member):
  """A member with a limit on its header."""

  def check_header(self) -> None:
    """Refuses an extended header that is too large."""
    if self.size < 0 or (self.type not in tarfile.REGULAR_TYPES and self.size > _LONGEST_HEADER):
      raise tarfile.ReadError(f'header of {self.size} bytes')


class _Capped:
  """Reads a stream, up to a limit in bytes."""

  def __init__(self, source: Any, limit: int, option: str, archive: str):
    self._source = source
    self._limit = limit
    self._option = option
    self._left = limit
    self._archive = archive

  def read(self, size: int) -> bytes:
    data = self._source.read(size)
    self._left -= len(data)
    if self._left < 0:
      raise over(f'{self._archive}: more than {self._limit} bytes unpacked', self._option)
    return data


class _Names:
  """The names in an archive: unique, also if case and Unicode form are ignored, as some file systems do."""

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
          f'{self._archive}: members {str(other)!r} and {member.name!r} are the same on some file systems; '
          'give another archive'
        )
    if name in self._members:
      raise errors.ArchiveError(f'{self._archive}: member {member.name!r} occurs twice; give another archive')
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
      raise errors.ArchiveError(
        f'{self._archive}: member {member.name[:99]!r} has an invalid path; give another archive'
      )
    if member.issym() or member.islnk():
      raise errors.ArchiveError(
        f'{self._archive}: member {member.name!r} is a link, not a regular file or directory; pack what it points to, '
        'as `tar --dereference` does'
      )
    if not (member.isreg() or member.isdir()) or member.issparse():
      raise errors.ArchiveError(
        f'{self._archive}: member {member.name!r} is not a regular file or directory; give another archive'
      )
    if len(member.name.encode(errors='replace')) > _LONGEST_PATH or any(
      len(part.encode(errors='replace')) > _LONGEST_NAME for part in name.parts
    ):
      raise errors.ArchiveError(
        f'{self._archive}: name of {len(member.name)} characters is too long ({member.name[:40]!r}...); give another '
        'archive'
      )
    return name
