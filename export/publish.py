"""The release tree: all of a release appears in it at once, or nothing does.

A release is staged in a directory beside the tree, then renamed into place: for each model the archive, the card and the
record, and the model directory last. A version is published when its directory is there, and is never touched again.
"""

import contextlib
import fcntl
import filecmp
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from converters import errors
from export import package

# What stands beside the directory '2': '2.tar.gz', '2.md', '2.release.json'.
COMPANIONS = ('.tar.gz', '.md', '.release.json')
_STAGING = '.staging-'


def check_free(root: pathlib.Path, release: str) -> None:
  """Raises PublishError when a version, 'tensorflow/albert_en_large/2', is already in the tree."""
  if (root / release).exists():
    raise errors.PublishError(f'{release} exists in {root}: a version is never changed, give the next one with --version')


@contextlib.contextmanager
def staging(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """A new directory in the export root, on the same file system as the tree; gone when the context ends.

  Raises:
    PublishError: the root cannot be written.
  """
  made = [p for p in (root, *root.parents) if not p.exists()]
  try:
    root.mkdir(parents=True, exist_ok=True)
    _sweep(root)
    path = pathlib.Path(tempfile.mkdtemp(prefix=_STAGING, dir=root))
  except OSError as e:
    _remove_empty(made)
    raise errors.PublishError(f'cannot write in {root} ({e.strerror}): give another --export_root') from e
  try:
    with _locked(path):
      yield path
  finally:
    shutil.rmtree(path, ignore_errors=True)
    _remove_empty(made)


def publish(root: pathlib.Path, staged: pathlib.Path, releases: list[str]) -> list[str]:
  """Moves releases from a staging directory into the tree.

  Args:
    root: the export root.
    staged: has, for each release, the directory and its companions at the same relative path.
    releases: e.g. 'tensorflow/albert_en_preprocess/1', 'tensorflow/albert_en_large/2'. The last one is the one that was
      asked for, and must not exist. Another one that exists is kept if it has the same bytes.

  Returns:
    The releases that were moved.

  Raises:
    PublishError: a version exists, or exists with other bytes; nothing was moved.
  """
  with _locked(root):
    check_free(root, releases[-1])
    fresh = [r for r in releases if not (root / r).exists()]
    for kept in (r for r in releases if r not in fresh):
      if not _same(root / kept, staged / kept):
        raise errors.PublishError(
            f'{kept} exists in {root} with other bytes than this export gives it: name another one with --preprocessor')
    for release in fresh:
      package.settle(staged / release)
      for companion in _companions(staged / release):
        os.chmod(companion, 0o644)
        package.sync(companion)
    moved: list[pathlib.Path] = []
    try:
      for release in fresh:
        parent = (root / release).parent
        made = [p for p in (parent, *parent.parents) if not p.exists()]
        parent.mkdir(parents=True, exist_ok=True)
        for directory in made:
          os.chmod(directory, 0o755)
        for path in (*_companions(staged / release), staged / release):
          target = parent / path.name
          path.replace(target)
          moved.append(target)
        package.sync(parent)
    except OSError as e:
      for target in reversed(moved):
        shutil.rmtree(target) if target.is_dir() else target.unlink()
      raise errors.PublishError(f'cannot publish in {root} ({e.strerror}): nothing was published') from e
    return fresh


def _companions(release: pathlib.Path) -> list[pathlib.Path]:
  return [release.with_name(release.name + suffix) for suffix in COMPANIONS]


def _same(published: pathlib.Path, staged: pathlib.Path) -> bool:
  pairs = zip(_companions(published), _companions(staged), strict=True)
  return package.digests(published) == package.digests(staged) and all(
      ours.exists() and filecmp.cmp(ours, theirs, shallow=False) for ours, theirs in pairs)


@contextlib.contextmanager
def _locked(directory: pathlib.Path) -> Iterator[None]:
  handle = os.open(directory, os.O_RDONLY)
  try:
    fcntl.flock(handle, fcntl.LOCK_EX)
    yield
  finally:
    os.close(handle)


def _sweep(root: pathlib.Path) -> None:
  """Removes the staging directories of processes that are gone: those hold no lock any more."""
  for path in root.glob(_STAGING + '*'):
    handle = os.open(path, os.O_RDONLY)
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
      shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
      pass  # another export is at work
    finally:
      os.close(handle)


def _remove_empty(directories: list[pathlib.Path]) -> None:
  for directory in directories:
    with contextlib.suppress(OSError):
      directory.rmdir()
