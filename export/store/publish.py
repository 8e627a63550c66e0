"""Publishes releases in a local tree atomically.

A release is staged in a directory of the export root, then renamed into place: for each model the archive, the card and
the record, and the model directory last. A version is published when its directory exists, and is immutable then.
"""

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
import signal
import threading
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

from converters import cli
from converters import errors
from converters.io import atomic_write
from converters.io import disk_faults
from converters.io import temp_dirs
from export import spec
from export.store import digests

_STAGING = '.staging-'


def check_new(
  root: str | pathlib.Path,
  releases: Sequence[str],
  versions: Callable[[str], list[int]],
  keep_existing: bool = False,
) -> None:
  """Checks that releases can be published together, given the published versions.

  Args:
    root: export root, for messages.
    releases: paths of the releases, as in `publish`.
    versions: function from a model to its published versions.
    keep_existing: whether the last release may exist; its bytes are compared later.

  Raises:
    PublishError: the last release exists.
    UsageError: a release other than the preprocessor is lower than a published version.
  """
  for release in releases[1:] or releases:  # the first of several is a preprocessor, and encoders may need an older one
    model, _, version = release.rpartition('/')
    published = versions(model)
    if int(version) not in published or (release == releases[-1] and not keep_existing):
      check_next(root, release, published)


def check_next(root: str | pathlib.Path, release: str, versions: list[int]) -> None:
  """Checks that a version is new and higher than all published versions.

  Files without a version directory are ignored: a killed export left them, and the next one replaces them.

  Args:
    root: export root, for messages.
    release: path of the release, as 'tensorflow/albert_en_large/2'.
    versions: published versions of the model.

  Raises:
    PublishError: the version exists.
    UsageError: the version is lower than a published one.
  """
  model, _, version = release.rpartition('/')
  if int(version) in versions:
    raise errors.PublishError(
      f'{release}: already exists in {root} (a version is never changed); give the next one with option version'
    )
  if versions and int(version) < max(versions):
    raise errors.UsageError(
      f'option version={version}: too low ({model}/{max(versions)} exists in {root}); give a higher one'
    )


def entries(directory: pathlib.Path, pattern: re.Pattern[str]) -> list[str]:
  """Returns the names of subdirectories that match a pattern; an empty list for a missing directory."""
  try:
    return [path.name for path in directory.iterdir() if pattern.fullmatch(path.name) and path.is_dir()]
  except (FileNotFoundError, NotADirectoryError):
    return []


def versions(directory: pathlib.Path) -> list[int]:
  """Returns the published versions of a model in ascending order, from the model's directory."""
  return sorted(map(int, entries(directory, cli.VERSION)))


def check_writable(root: pathlib.Path) -> None:
  """Checks that the export root can be made or written.

  Raises:
    PublishError: it cannot.
  """
  place = next(path for path in (root.absolute(), *root.absolute().parents) if os.path.lexists(path))
  if not place.is_dir():
    raise errors.PublishError(
      f'{root}: cannot be written ({place} is not a directory); give another option export_root'
    )
  if os.statvfs(place).f_flag & os.ST_RDONLY:
    raise errors.PublishError(f'{root}: cannot be written (Read-only file system); give another option export_root')
  if not os.access(place, os.W_OK | os.X_OK):
    raise errors.PublishError(f'{root}: cannot be written (no permission in {place}); give another option export_root')


@contextlib.contextmanager
def staging(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """Makes a staging directory in the export root, on the file system of the tree, and removes it at the end.

  Raises:
    PublishError: the export root cannot be written, or its disk is full before the context ends.
  """
  made = [p for p in (root, *root.parents) if not p.exists()]
  with contextlib.ExitStack() as stack:
    stack.callback(_remove_empty, made)
    try:
      _make(root)
      path = stack.enter_context(temp_dirs.directory(_STAGING, root))
    except OSError as e:
      raise errors.PublishError(f'{root}: cannot be written ({e.strerror}); give another option export_root') from e
    with disk_faults.named(os.fspath(root), 'export_root'):
      yield path


def publish(root: pathlib.Path, staged: pathlib.Path, releases: list[str], keep_existing: bool = False) -> list[str]:
  """Moves releases from a staging directory into the tree.

  Args:
    root: export root.
    staged: staging directory, with directory and companions of each release at the same relative path.
    releases: paths of the releases, as 'tensorflow/albert_en_preprocess/1', 'tensorflow/albert_en_large/2',
      'tensorflow/albert_en_large_text/2'. The last one must not exist. Other existing ones are kept if they have the
      same bytes. If there are several, new ones after the first, the preprocessor, must be above the published
      versions.
    keep_existing: whether the last one, too, is kept if it exists with the same bytes.

  Returns:
    Paths of the releases that were moved.

  Raises:
    PublishError: a version exists, or exists with other bytes, or the tree cannot be written; nothing was moved.
    UsageError: a version is lower than a published one.
  """
  with _locked(root):
    check_new(root, releases, lambda model: versions(root / model), keep_existing)
    fresh = [r for r in releases if not (root / r).exists()]
    for kept in (r for r in releases if r not in fresh):
      check_same(kept, root, root / kept, staged / kept)
    for release in fresh:
      digests.settle(staged / release)
      for companion in companions(staged / release):
        os.chmod(companion, 0o644)
        digests.sync(companion)
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
      for stray in _strays(parent):
        stray.unlink()
      for path in (*companions(staged / release), staged / release):
        target = parent / path.name
        path.replace(target)
        moved.append(target)
      digests.sync(parent)
  except OSError as e:
    for target in reversed(moved):
      shutil.rmtree(target) if target.is_dir() else target.unlink()
    _remove_empty(made)
    raise errors.PublishError(f'{root}: publishing failed ({e.strerror}; nothing was published); run it again') from e


def _strays(directory: pathlib.Path) -> list[pathlib.Path]:
  """Returns the companions without a version directory, which a killed export left."""
  return [
    path
    for suffix in spec.COMPANIONS
    for path in directory.glob(f'*{suffix}')
    if cli.VERSION.fullmatch(version := path.name.removesuffix(suffix)) and not (directory / version).exists()
  ]


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
  """Ignores terminating signals from the first rename on, so that the release is published completely."""
  if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
    yield
    return
  handlers = {
    number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
  }
  try:
    yield
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)


def _make(directory: pathlib.Path) -> list[pathlib.Path]:
  """Makes a directory and its parents with mode 755 for any umask; returns the new ones, innermost first."""
  made = [p for p in (directory, *directory.parents) if not p.exists()]
  directory.mkdir(parents=True, exist_ok=True)
  for path in made:
    os.chmod(path, 0o755)
  return made


def companions(release: pathlib.Path) -> list[pathlib.Path]:
  """Returns the existing companion files of a release's directory."""
  return [path for suffix in spec.COMPANIONS if (path := release.with_name(release.name + suffix)).is_file()]


def check_same(release: str, root: str | pathlib.Path, published: pathlib.Path, staged: pathlib.Path) -> None:
  """Checks that a kept version has the same model files as the staged one.

  Card and record are not compared, since they belong to the first export.

  Args:
    release: path of the release, as 'tensorflow/albert_en_preprocess/1'.
    root: export root, for messages.
    published: directory of the published version.
    staged: directory of the staged version.

  Raises:
    PublishError: the files differ.
  """
  if digests.of_directory(published) != digests.of_directory(staged):
    raise errors.PublishError(
      f'{release}: already exists in {root} with other bytes than this export makes; give another one with '
      'option preprocessor, or if it is the encoder, the next one with option version'
    )


def replace(root: pathlib.Path, name: str, text: Callable[[], str]) -> None:
  """Writes or replaces a file of the tree, outside of releases, atomically.

  Args:
    root: export root.
    name: path of the file below the root.
    text: function that returns the content, called while the tree is locked.

  Raises:
    PublishError: the file cannot be written.
  """
  path = root / name
  with _locked(root):
    content = text()
    try:
      _make(path.parent)
      atomic_write.write(path, content.encode(), 0o644)
    except OSError as e:
      raise errors.PublishError(f'{path}: cannot be written ({e.strerror}); give another option export_root') from e


def _lock(directory: pathlib.Path) -> int:
  """Waits for the lock of a directory; closing the returned handle, or the end of the process, releases it."""
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


def _remove_empty(directories: list[pathlib.Path]) -> None:
  for directory in directories:
    with contextlib.suppress(OSError):
      directory.rmdir()
