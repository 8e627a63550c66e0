"""Digests of files, and files that are on disk for good."""

import dataclasses
import os
import pathlib

from converters.io import digest as digest_lib


@dataclasses.dataclass(frozen=True)
class Digest:
  """Size in bytes and SHA-256, in hex, of a file."""

  size: int
  sha256: str


def of_directory(directory: pathlib.Path) -> dict[str, Digest]:
  """Digests of all files below a directory, by relative path, in sorted order."""
  files = sorted(p for p in directory.rglob('*') if p.is_file())
  return {path.relative_to(directory).as_posix(): of_file(path) for path in files}


def of_file(path: pathlib.Path) -> Digest:
  """The digest of one file."""
  return Digest(path.stat().st_size, digest_lib.of_file(path))


def settle(directory: pathlib.Path) -> None:
  """Fixes the modes of everything below a directory, whatever the umask, and has it all on disk."""
  for path in sorted([directory, *directory.rglob('*')]):
    os.chmod(path, 0o755 if path.is_dir() else 0o644)
    sync(path)


def sync(path: pathlib.Path) -> None:
  """Has a file's content, or a directory's entries, on disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
