"""Compares a new version with the previous version in the tree, and refuses breaking changes."""

import contextlib
import pathlib
from collections.abc import Iterator

from converters import errors
from export import record as record_lib
from export import spec
from export.release import compatibility
from export.store import tree as tree_lib
from export.validation import previous_version


class Succession:
  """A new version and its predecessor.

  Attributes:
    old: path of the predecessor, 'tensorflow/albert_en_large/2', the newest version below the new one in the tree;
      None for a first version.
    short: `old` without the publisher.
    breaking: the breaking differences found so far.
  """

  def __init__(self, new: spec.Release, old: int | None, path: pathlib.Path | None, allowed: bool):
    self._new, self._path, self._allowed = new, path, allowed
    self.old = f'{new.model}/{old}' if old is not None else None
    self.short = f'{new.name}/{old}'
    self.breaking: list[str] = []

  def compare_interfaces(self, staged: pathlib.Path) -> None:
    """Compares the interfaces of both versions from their files, without running them.

    Args:
      staged: directory of the new version.

    Raises:
      CompatibilityError: there are breaking differences, and they are not allowed.
    """
    if self._path is not None:
      self._found(
        compatibility.breaking_differences(compatibility.describe(self._path), compatibility.describe(staged))
      )

  def compare_outputs(self, staged: pathlib.Path, record: record_lib.Record) -> None:
    """Compares the outputs of both versions.

    Args:
      staged: directory of the new version.
      record: record of the new version.

    Raises:
      CompatibilityError: the outputs differ, and breaking changes are not allowed.
      IntegrityError: the record of the predecessor is incomplete.
    """
    if self._path is None:
      return
    old = record_lib.read(self._path)
    if isinstance(old, record_lib.Preprocessor) and isinstance(record, record_lib.Preprocessor):
      self._found(previous_version.preprocessor_differences(self._path, staged))
    elif isinstance(old, record_lib.Encoder) and isinstance(record, record_lib.Encoder):
      self._found(previous_version.encoder_differences(self._path, old, staged, record))
    elif isinstance(old, record_lib.Text) and isinstance(record, record_lib.Text):
      try:
        self._found(previous_version.text_differences(self._path, old, staged, record))
      except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise errors.IntegrityError(
          f'record of {self.old}: incomplete or invalid ({type(e).__name__}: {e}); check it with export.verify'
        ) from e
    else:
      self._found([f'it is of kind {record.kind} instead of {old.kind}'])

  def _found(self, differences: list[str]) -> None:
    self.breaking += differences
    if differences and not self._allowed:
      raise errors.CompatibilityError(
        f'{self._new.path}: breaks users of {self.old} ({"; ".join(differences)}); give option breaking=True if this '
        'is intended, which the card will state'
      )


@contextlib.contextmanager
def of(tree: tree_lib.Tree, release: spec.Release, allowed: bool) -> Iterator[Succession]:
  """Opens the predecessor of a new version.

  Args:
    tree: the release tree.
    release: the new version.
    allowed: whether breaking differences are allowed.
  """
  old = tree_lib.predecessor(tree, release)
  if old is None:
    yield Succession(release, None, None, allowed)
    return
  with tree.local(f'{release.model}/{old}') as path:
    yield Succession(release, old, path, allowed)
