"""Lists, reads and publishes releases in a tree, local or at an address that tf.io.gfile supports.

A local tree publishes a release by renaming (export/store/publish.py). A remote tree has no atomic rename: files are
copied, each release's saved_model.pb last, and a version is published once that file exists.
"""

import contextlib
import os
import pathlib
import re
import urllib.parse
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import BinaryIO
from typing import Protocol

from converters import cli
from converters import errors
from converters.io import temp_dirs
from export import spec
from export.store import publish


class Tree(Protocol):
  """A release tree.

  Attributes:
    root: export root, as the user wrote it.
  """

  root: str

  def models(self) -> list[str]:
    """Returns all models, as 'tensorflow/albert_en_large', sorted."""

  def collections(self) -> list[str]:
    """Returns all collections that have a card, as 'tensorflow/collections/albert/1', sorted."""

  def versions(self, model: str) -> list[int]:
    """Returns the published versions of a model in ascending order; an empty list for a missing model."""

  def open(self, name: str) -> BinaryIO:
    """Opens a file, as 'tensorflow/albert_en_large/2.md'.

    Raises:
      FileNotFoundError: the file is missing.
    """

  def size(self, name: str) -> int:
    """Returns the size of a file, or of all files in a directory, in bytes."""

  def beside(self, release: str) -> list[str]:
    """Returns the companion files of a release, as 'tensorflow/albert_en_large/2.md', sorted."""

  def local(self, release: str) -> contextlib.AbstractContextManager[pathlib.Path]:
    """Yields a local directory with a release's content, next to its companion files."""

  def check_writable(self) -> None:
    """Checks that a local tree can be made or written; see `publish.check_writable`."""

  def staging(self) -> contextlib.AbstractContextManager[pathlib.Path]:
    """Makes a staging directory for releases, and removes it at the end."""

  def publish(self, staged: pathlib.Path, releases: Sequence[str], keep_existing: bool = False) -> list[str]:
    """Moves releases from a staging directory into the tree; see `publish.publish`."""

  def write(self, name: str, text: Callable[[], str]) -> None:
    """Writes or replaces a file outside of releases; a local tree is locked meanwhile."""


def at(root: str | os.PathLike[str]) -> Tree:
  """Returns the tree at an export root: a directory, or an address of tf.io.gfile ('gs://bucket/models').

  Raises:
    UsageError: the address has no bucket or path.
  """
  text = os.fspath(root)
  if text.startswith('file://'):
    text = urllib.parse.unquote(urllib.parse.urlsplit(text).path)
  if '://' not in text:
    return _Local(text)
  if not text.partition('://')[2].strip('/'):
    raise errors.UsageError(f'option export_root={text}: no bucket or path; give one, as gs://bucket/models')
  return _Remote(text.rstrip('/'))


@contextlib.contextmanager
def release_at(path: str) -> Iterator[pathlib.Path]:
  """Yields a local directory of a version in any tree, as 'dist/tensorflow/albert_en_large/2' or 'gs://...'."""
  if '://' not in path.removeprefix('file://'):
    yield pathlib.Path(path.removeprefix('file://')).resolve()
    return
  root, model, version = path.rstrip('/').rsplit('/', 2)
  with at(root).local(f'{model}/{version}') as local:
    yield local


def beside(path: str, other: str) -> str:
  """Returns the path of another version in the same tree.

  Args:
    path: path of a version, as in `release_at`.
    other: other version, as 'tensorflow/albert_en_large/2'.
  """
  if '://' not in path.removeprefix('file://'):
    path = os.fspath(pathlib.Path(path.removeprefix('file://')).resolve())
  return f'{path.rstrip("/").rsplit("/", 3)[0]}/{other}'


def holds(tree: Tree, release: str) -> bool:
  """Returns whether a version, as 'tensorflow/albert_en_large/2', is published."""
  model, _, version = release.rpartition('/')
  return int(version) in tree.versions(model)


def predecessor(tree: Tree, release: spec.Release) -> int | None:
  """Returns the newest published version below a release; None if the release itself is published."""
  versions = tree.versions(release.model)
  return max((v for v in versions if v < release.version), default=None) if release.version not in versions else None


class _Local:
  def __init__(self, root: str):
    self.root = root
    self._path = pathlib.Path(root)

  def models(self) -> list[str]:
    found = [
      f'{publisher}/{model}'
      for publisher in publish.entries(self._path, cli.NAME)
      for model in publish.entries(self._path / publisher, cli.NAME)
    ]
    return sorted(name for name in found if self.versions(name))

  def versions(self, model: str) -> list[int]:
    return publish.versions(self._path / model)

  def collections(self) -> list[str]:
    return sorted(
      path.relative_to(self._path).as_posix().removesuffix(spec.CARD)
      for path in self._path.glob(f'*/collections/*/1{spec.CARD}')
    )

  def open(self, name: str) -> BinaryIO:
    return open(self._path / name, 'rb')

  def size(self, name: str) -> int:
    path = self._path / name
    return sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob('*')) if p.is_file())

  def beside(self, release: str) -> list[str]:
    return sorted(f'{release}{suffix}' for suffix in spec.COMPANIONS if (self._path / (release + suffix)).is_file())

  @contextlib.contextmanager
  def local(self, release: str) -> Iterator[pathlib.Path]:
    yield self._path / release

  def check_writable(self) -> None:
    publish.check_writable(self._path)

  def staging(self) -> contextlib.AbstractContextManager[pathlib.Path]:
    return publish.staging(self._path)

  def publish(self, staged: pathlib.Path, releases: Sequence[str], keep_existing: bool = False) -> list[str]:
    return publish.publish(self._path, staged, list(releases), keep_existing)

  def write(self, name: str, text: Callable[[], str]) -> None:
    publish.replace(self._path, name, text)


class _Remote:
  def __init__(self, root: str):
    import tensorflow as tf  # imported here, since the import takes seconds

    self.root = root
    self._gfile = tf.io.gfile
    self._errors = tf.errors.OpError
    self._missing = tf.errors.NotFoundError

  def models(self) -> list[str]:
    found = [f'{publisher}/{model}' for publisher in self._names('') for model in self._names(publisher)]
    return sorted(name for name in found if self.versions(name))

  def versions(self, model: str) -> list[int]:
    names = self._names(model, cli.VERSION)
    with self._convert_errors('read'):
      return sorted(int(name) for name in names if self._gfile.exists(self._at(f'{model}/{name}/saved_model.pb')))

  def collections(self) -> list[str]:
    found = [
      f'{publisher}/collections/{name}/1'
      for publisher in self._names('')
      for name in self._names(f'{publisher}/collections')
    ]
    return sorted(name for name in found if self.beside(name))

  def _names(self, directory: str, pattern: re.Pattern[str] = cli.NAME) -> list[str]:
    with self._convert_errors('read'):
      try:
        names = self._gfile.listdir(self._at(directory))
      except self._missing:
        return []
    return [name.rstrip('/') for name in names if pattern.fullmatch(name.rstrip('/'))]

  def open(self, name: str) -> BinaryIO:
    with self._convert_errors('read'):
      if not self._gfile.exists(self._at(name)) or self._gfile.isdir(self._at(name)):
        raise FileNotFoundError(self._at(name))
    return self._gfile.GFile(self._at(name), 'rb')

  def size(self, name: str) -> int:
    with self._convert_errors('read'):
      paths = [path for _, path in self._files(name)] if self._gfile.isdir(self._at(name)) else [self._at(name)]
      return sum(self._gfile.stat(path).length for path in paths)

  def beside(self, release: str) -> list[str]:
    with self._convert_errors('read'):
      return sorted(
        f'{release}{suffix}' for suffix in spec.COMPANIONS if self._gfile.exists(self._at(release + suffix))
      )

  @contextlib.contextmanager
  def local(self, release: str) -> Iterator[pathlib.Path]:
    with temp_dirs.directory('albert_release_') as temporary:
      target = temporary / release
      target.parent.mkdir(parents=True, exist_ok=True)
      with self._convert_errors('read'):
        for relative, path in self._files(release):
          (target / relative).parent.mkdir(parents=True, exist_ok=True)
          self._gfile.copy(path, os.fspath(target / relative))
        for name in self.beside(release):
          self._gfile.copy(self._at(name), os.fspath(temporary / name))
      yield target

  def check_writable(self) -> None:
    pass  # a host tells only when something is written

  @contextlib.contextmanager
  def staging(self) -> Iterator[pathlib.Path]:
    with temp_dirs.directory('albert_release_') as temporary:
      yield temporary

  def publish(self, staged: pathlib.Path, releases: Sequence[str], keep_existing: bool = False) -> list[str]:
    publish.check_new(self.root, releases, self.versions, keep_existing)
    fresh = [r for r in releases if not holds(self, r)]
    for kept in (r for r in releases if r not in fresh):
      with self.local(kept) as published:
        publish.check_same(kept, self.root, published, staged / kept)
    written: list[str] = []
    try:
      with self._convert_errors('written'):
        for release in fresh:
          for stale in self._all_files(release):  # files of an interrupted copy
            self._gfile.remove(stale)
          inside = sorted(
            (p for p in (staged / release).rglob('*') if p.is_file()), key=lambda p: (p.name == 'saved_model.pb', p)
          )
          for source in (*publish.companions(staged / release), *inside):
            name = source.relative_to(staged).as_posix()
            self._gfile.makedirs(self._at(name).rpartition('/')[0])
            written.append(name)
            self._gfile.copy(os.fspath(source), self._at(name), overwrite=True)
    except BaseException:
      for name in reversed(written):
        with contextlib.suppress(self._errors):
          self._gfile.remove(self._at(name))
      raise
    return fresh

  def write(self, name: str, text: Callable[[], str]) -> None:
    content = text()
    with self._convert_errors('written'):
      self._gfile.makedirs(self._at(name).rpartition('/')[0])
      with self._gfile.GFile(self._at(name), 'w') as file:
        file.write(content)

  def _at(self, name: str) -> str:
    return f'{self.root}/{name}' if name else self.root

  def _files(self, directory: str) -> Iterator[tuple[str, str]]:
    """Yields relative path and full path of the files below a directory."""
    top = self._at(directory)
    for place, _, names in self._gfile.walk(top):
      for name in names:
        path = f'{place.rstrip("/")}/{name}'
        # TensorFlow's ram:// lists the sibling '2.md' of '2' as '.md' in it.
        if self._gfile.exists(path):
          yield path.removeprefix(top).lstrip('/'), path

  def _all_files(self, release: str) -> list[str]:
    """Returns the paths of all files of a release, including its companions."""
    return [*(path for _, path in self._files(release)), *map(self._at, self.beside(release))]

  @contextlib.contextmanager
  def _convert_errors(self, participle: str) -> Iterator[None]:
    """Converts TensorFlow's errors to PublishError, with a message that the root cannot be `participle`."""
    try:
      yield
    except self._errors as e:
      raise errors.PublishError(
        f'{self.root}: cannot be {participle} ({e.message or type(e).__name__}); check option export_root and its '
        'permissions'
      ) from e
