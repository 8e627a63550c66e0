"""Unpacks a module archive, taking regular files and directories and nothing else."""

import dataclasses
import os
import pathlib
import shutil
import tarfile
import zlib

from converters import errors


@dataclasses.dataclass(frozen=True)
class Caps:
  """How much an archive may unpack to.

  The largest published module, albert_xxlarge, has 9 files and 0.9 GB of weights that hardly compress.
  """
  files: int = 1000
  total_bytes: int = 8 << 30
  ratio: int = 200  # of unpacked to packed bytes


def unpack(archive: str | os.PathLike[str], directory: pathlib.Path, caps: Caps = Caps()) -> None:
  """Unpacks a .tar.gz into an existing empty directory, with modes of its own and no times or owners.

  Raises:
    ArchiveError: the archive is broken or goes over a cap, or a member is a link, a device, a duplicate or leads out of
      the directory. What was unpacked until then stays in `directory`.
  """
  packed_size = os.path.getsize(archive)
  count, total = 0, 0
  try:
    with tarfile.open(archive, 'r:gz') as tar:
      for member in tar:
        target = directory / _checked_name(member, archive)
        if member.isdir():
          target.mkdir(parents=True, exist_ok=True)
          continue
        count += 1
        total += member.size
        if count > caps.files or total > caps.total_bytes or total > caps.ratio * packed_size + (1 << 20):
          raise errors.ArchiveError(
              f'{count} files of {total} bytes from {packed_size} bytes packed in {archive}: more than any ALBERT module')
        target.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(member)
        assert content is not None, member.name  # only links and special files give None
        with content, open(target, 'xb') as f:
          shutil.copyfileobj(content, f, 1 << 20)
  except (tarfile.TarError, EOFError, zlib.error, FileExistsError, NotADirectoryError, OSError) as e:
    raise errors.ArchiveError(f'{type(e).__name__}: {e} in {archive}: fetch the archive again') from e
  if not count:
    raise errors.ArchiveError(f'no files in {archive}: fetch the archive again')


def _checked_name(member: tarfile.TarInfo, archive: str | os.PathLike[str]) -> pathlib.PurePosixPath:
  name = pathlib.PurePosixPath(member.name)
  if name.is_absolute() or '..' in name.parts or '\\' in member.name or not member.name.isprintable():
    raise errors.ArchiveError(f'member {member.name!r} leads out of {archive}: this is no module archive')
  if not (member.isreg() or member.isdir()) or member.issparse():
    raise errors.ArchiveError(f'member {member.name!r} in {archive} is neither file nor directory: this is no module archive')
  return name
