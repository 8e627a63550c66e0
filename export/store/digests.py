"""Computes digests of files, and syncs files to disk."""

import os
import pathlib

from converters.io import digest as digest_lib
from export import record


def of_directory(directory: pathlib.Path) -> dict[str, record.Digest]:
  """Returns the digests of all files below a directory, by relative path, in sorted order."""
  files = sorted(p for p in directory.rglob('*') if p.is_file())
  return {path.relative_to(directory).as_posix(): of_file(path) for path in files}


def of_file(path: pathlib.Path) -> record.Digest:
  """Returns the digest of a file."""
  return record.Digest(path.stat().st_size, digest_lib.of_file(path))


def settle(directory: pathlib.Path) -> None:
  """Sets the modes of a directory and everything below it, for any umask, and syncs all of it to disk."""
  for path in sorted([directory, *directory.rglob('*')]):
    os.chmod(path, 0o755 if path.is_dir() else 0o644)
    sync(path)


def sync(path: pathlib.Path) -> None:
  """Syncs a file's content or a directory's entries to disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
