"""The release tree: all of a release appears in it at once, or nothing does.

A release is staged in a directory beside the tree, then renamed into place: for each model the archive, the card and the
record, and the model directory last. A version is published when its directory is there, and is never touched again.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator

from converters import errors
from export import package

# What stands beside the directory '2': '2.tar.gz', '2.md', '2.release.json'.
COMPANIONS = ('.tar.gz', '.md', '.release.json')
_STAGING = '.staging-'


def check_free(root: pathlib.Path, release: str) -> None:
  """Raises PublishError when a version, 'tensorflow/albert_en_large/2', is already in the tree.

  Files beside a directory that is not there do not count: a killed export left them, and the next one replaces them.
  """
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
    _make(root)
    with _locked(root):  # so that nobody sweeps a directory before it is locked
      _sweep(root)
      path = pathlib.Path(tempfile.mkdtemp(prefix=_STAGING, dir=root))
      lock = _lock(path)
  except OSError as e:
    _remove_empty(made)
    raise errors.PublishError(f'cannot write in {root} ({e.strerror}): give another --export_root') from e
  try:
    yield path
  finally:
    shutil.rmtree(path, ignore_errors=True)
    os.close(lock)
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
    with _uninterrupted():
      _move(root, staged, fresh)
    return fresh


def _move(root: pathlib.Path, staged: pathlib.Path, releases: list[str]) -> None:
  made: list[pathlib.Path] = []
  moved: list[pathlib.Path] = []
  try:
    for release in releases:
      parent = (root / release).parent
      made = _make(parent) + made
      for path in (*_companions(staged / release), staged / release):
        target = parent / path.name
        path.replace(target)
        moved.append(target)
      package.sync(parent)
  except OSError as e:
    for target in reversed(moved):
      shutil.rmtree(target) if target.is_dir() else target.unlink()
    _remove_empty(made)
    raise errors.PublishError(f'cannot publish in {root} ({e.strerror}): nothing was published') from e


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
  """Drops signals that would end the process half-way: from the first rename on, they come too late."""
  if threading.current_thread() is not threading.main_thread():  # which alone receives them
    yield
    return
  handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
  try:
    yield
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)


def _make(directory: pathlib.Path) -> list[pathlib.Path]:
  """Makes a directory and its parents, readable for a server whatever the umask; returns what it made, innermost first."""
  made = [p for p in (directory, *directory.parents) if not p.exists()]
  directory.mkdir(parents=True, exist_ok=True)
  for path in made:
    os.chmod(path, 0o755)
  return made


def _companions(release: pathlib.Path) -> list[pathlib.Path]:
  return [release.with_name(release.name + suffix) for suffix in COMPANIONS]


def _same(published: pathlib.Path, staged: pathlib.Path) -> bool:
  """Whether two releases hold the same model. What is said about it in card and record belongs to the first export."""
  return package.digests(published) == package.digests(staged)


def _lock(directory: pathlib.Path) -> int:
  """Waits for a directory's lock; closing the handle gives it back, and so does the end of the process."""
  handle = os.open(directory, os.O_RDONLY)
  fcntl.flock(handle, fcntl.LOCK_EX)
  return handle


@contextlib.contextmanager
def _locked(directory: pathlib.Path) -> Iterator[None]:
  handle = _lock(directory)
  try:
    yield
  finally:
    os.close(handle)


def _sweep(root: pathlib.Path) -> None:
  """Removes the staging directories of processes that are gone: those hold no lock any more."""
  for path in root.glob(_STAGING + '*'):
    with contextlib.suppress(OSError):  # BlockingIOError: another export is at work; others: it has just gone
      handle = os.open(path, os.O_RDONLY)
      try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
      finally:
        os.close(handle)


def _remove_empty(directories: list[pathlib.Path]) -> None:
  for directory in directories:
    with contextlib.suppress(OSError):
      directory.rmdir()
