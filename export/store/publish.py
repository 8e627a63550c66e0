"""The release tree: all of a release appears in it at once, or nothing does.

A release is staged in a directory beside the tree, then renamed into place: for each model the archive, the card and
the record, and the model directory last. A version is published when its directory is there, and is never touched
again.
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
from converters.io import temp_dirs
from export.store import digests

# What stands beside the directory '2'; the last two only if it was signed.
ARCHIVE, CARD, RECORD, SIGNATURE, RECORD_SIGNATURE = '.tar.gz', '.md', '.release.json', '.sig', '.release.json.sig'
COMPANIONS = (ARCHIVE, CARD, RECORD, SIGNATURE, RECORD_SIGNATURE)
_STAGING = '.staging-'


def check_new(root: str | pathlib.Path, releases: Sequence[str], versions: Callable[[str], list[int]]) -> None:
  """Checks that releases can be published together, beside the versions there are.

  Args:
    root: the export root, for messages.
    releases: as `publish` takes them.
    versions: gives the published ones of a model.

  Raises:
    As `check_next` does.
  """
  for release in releases[1:] or releases:  # the first of several is shared with others, which may need an older one
    model, _, version = release.rpartition('/')
    published = versions(model)
    if release == releases[-1] or int(version) not in published:
      check_next(root, release, published)


def check_next(root: str | pathlib.Path, release: str, versions: list[int]) -> None:
  """Checks that a version can be published beside those there are.

  Files beside a directory that is not there do not count: a killed export left them, and the next one replaces them.

  Args:
    root: the export root, for the message.
    release: 'tensorflow/albert_en_large/2'.
    versions: the published ones of the model.

  Raises:
    PublishError: it exists.
    UsageError: it is lower than one that is there.
  """
  model, _, version = release.rpartition('/')
  if int(version) in versions:
    raise errors.PublishError(
      f'{release} exists in {root}: a version is never changed, give the next one with --version'
    )
  if versions and int(version) < max(versions):
    raise errors.UsageError(f'--version={version}: {model}/{max(versions)} is in {root} already: give a higher one')


def entries(directory: pathlib.Path, pattern: re.Pattern[str]) -> list[str]:
  """The names of the directories in a directory that match a pattern; none of one that is not there."""
  try:
    return [path.name for path in directory.iterdir() if pattern.fullmatch(path.name) and path.is_dir()]
  except (FileNotFoundError, NotADirectoryError):
    return []


def versions(directory: pathlib.Path) -> list[int]:
  """The published versions of a model, ascending."""
  return sorted(map(int, entries(directory, cli.VERSION)))


@contextlib.contextmanager
def staging(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """A new directory in the export root, on the same file system as the tree; gone when the context ends.

  Raises:
    PublishError: the root cannot be written.
  """
  made = [p for p in (root, *root.parents) if not p.exists()]
  with contextlib.ExitStack() as stack:
    stack.callback(_remove_empty, made)
    try:
      _make(root)
      path = stack.enter_context(temp_dirs.directory(_STAGING, root))
    except OSError as e:
      raise errors.PublishError(f'cannot write in {root} ({e.strerror}): give another --export_root') from e
    yield path


def publish(root: pathlib.Path, staged: pathlib.Path, releases: list[str]) -> list[str]:
  """Moves releases from a staging directory into the tree.

  Args:
    root: the export root.
    staged: has, for each release, the directory and its companions at the same relative path.
    releases: e.g. 'tensorflow/albert_en_preprocess/1', 'tensorflow/albert_en_large/2',
      'tensorflow/albert_en_large_text/2'. The last
      one must not exist. Another one that exists is kept if it has the same bytes. All but the first of several, the
      preprocessor, must
      be newer than what is there.

  Returns:
    The releases that were moved.

  Raises:
    PublishError: a version exists, or exists with other bytes; nothing was moved.
    UsageError: a version is lower than one that is there.
  """
  with _locked(root):
    check_new(root, releases, lambda model: versions(root / model))
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
    raise errors.PublishError(f'cannot publish in {root} ({e.strerror}): nothing was published') from e


def _strays(directory: pathlib.Path) -> list[pathlib.Path]:
  """What an export that was killed half-way left beside the versions of a model: companions of no version."""
  return [
    path
    for suffix in COMPANIONS
    for path in directory.glob(f'*{suffix}')
    if cli.VERSION.fullmatch(version := path.name.removesuffix(suffix)) and not (directory / version).exists()
  ]


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
  """Drops signals that would end the process half-way: from the first rename on, they come too late."""
  if threading.current_thread() is not threading.main_thread():  # which alone receives them
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
  """Makes a directory and its parents, readable for a server whatever the umask; returns what it made, innermost first."""
  made = [p for p in (directory, *directory.parents) if not p.exists()]
  directory.mkdir(parents=True, exist_ok=True)
  for path in made:
    os.chmod(path, 0o755)
  return made


def companions(release: pathlib.Path) -> list[pathlib.Path]:
  """What stands beside a release's directory."""
  return [path for suffix in COMPANIONS if (path := release.with_name(release.name + suffix)).is_file()]


def check_same(release: str, root: str | pathlib.Path, published: pathlib.Path, staged: pathlib.Path) -> None:
  """Checks that a version that is kept holds the same model. What is said about it in card and record belongs to its first export.

  Args:
    release: 'tensorflow/albert_en_preprocess/1'.
    root: the export root, for the message.
    published, staged: the two directories.

  Raises:
    PublishError: it does not.
  """
  if digests.of_directory(published) != digests.of_directory(staged):
    raise errors.PublishError(
      f'{release} exists in {root} with other bytes than this export gives it: name another one with --preprocessor, '
      'or if it is the encoder, give the next one with --version'
    )


def replace(root: pathlib.Path, name: str, text: Callable[[], str]) -> None:
  """Writes a file of the tree that belongs to no release: the old text or the new one is there, never half of it.

  Args:
    root: the export root.
    name: of the file, below it.
    text: makes the content, while nobody publishes.

  Raises:
    PublishError: it cannot be written.
  """
  path = root / name
  temporary = path.with_name(f'.{path.name}.unfinished')  # always the same: what a killed process left is replaced
  with _locked(root):
    content = text()
    try:
      _make(path.parent)
      temporary.write_text(content, encoding='utf-8')
      os.chmod(temporary, 0o644)
      temporary.replace(path)
    except OSError as e:
      with contextlib.suppress(OSError):
        temporary.unlink()
      raise errors.PublishError(f'cannot write {path} ({e.strerror}): give another --export_root') from e


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


def _remove_empty(directories: list[pathlib.Path]) -> None:
  for directory in directories:
    with contextlib.suppress(OSError):
      directory.rmdir()
