"""A version and the one before it in the tree: what users of the old one would miss in the new one."""

import contextlib
import pathlib
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from converters import errors
from export import spec
from export.release import compatibility
from export.release import integrity
from export.store import tree as tree_lib
from export.validation import previous_version


class Succession:
  """A new version, and what it is held against.

  Attributes:
    old: 'tensorflow/albert_en_large/2', the newest version below the new one in the tree; None if there is none.
    short: the same without the publisher.
    breaking: what was found that users of the old one would miss.
  """

  def __init__(self, new: spec.Release, old: int | None, path: pathlib.Path | None, allowed: bool):
    self._new, self._path, self._allowed = new, path, allowed
    self.old = f'{new.model}/{old}' if old is not None else None
    self.short = f'{new.name}/{old}'
    self.breaking: list[str] = []

  def compare_interfaces(self, staged: pathlib.Path) -> None:
    """Compares what both offer, from their files. Nothing is run.

    Args:
      staged: the new version's directory.

    Raises:
      CompatibilityError: something that users rely on is not there, or is another thing, and that was not allowed.
    """
    if self._path is not None:
      self._found(
        compatibility.breaking_differences(compatibility.describe(self._path), compatibility.describe(staged))
      )

  def compare_outputs(self, staged: pathlib.Path, facts: Mapping[str, Any]) -> None:
    """Compares what both compute.

    Args:
      staged: the new version's directory.
      facts: what its record will say.

    Raises:
      CompatibilityError: it differs, and that was not allowed.
    """
    if self._path is None:
      return
    record = integrity.read_record(self._path)
    if record['kind'] != facts['kind']:
      self._found([f'it is of kind {facts["kind"]} instead of {record["kind"]}'])
    elif facts['kind'] == 'preprocessor':
      self._found(previous_version.preprocessor_differences(self._path, staged))
    else:
      differences = (
        previous_version.encoder_differences if facts['kind'] == 'encoder' else previous_version.text_differences
      )
      try:
        self._found(differences(self._path, record, staged, facts))
      except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise errors.IntegrityError(
          f'the record of {self.old} is not one to compare with ({type(e).__name__}: {e}): check it with export.verify'
        ) from e

  def _found(self, differences: list[str]) -> None:
    self.breaking += differences
    if differences and not self._allowed:
      raise errors.CompatibilityError(
        f'{self._new.path} is not what users of {self.old} expect ({"; ".join(differences)}): give '
        '--breaking if that is meant, and its card will say so'
      )


@contextlib.contextmanager
def of(tree: tree_lib.Tree, release: spec.Release, allowed: bool) -> Iterator[Succession]:
  """Opens the version before a new one.

  Args:
    tree: where it is.
    release: the new one.
    allowed: whether it may break what users of the old one rely on.
  """
  old = tree_lib.predecessor(tree, release)
  if old is None:
    yield Succession(release, None, None, allowed)
    return
  with tree.local(f'{release.model}/{old}') as path:
    yield Succession(release, old, path, allowed)
