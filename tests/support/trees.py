"""Reads directory trees, and the records in them."""

import json
import pathlib


def tree_bytes(root: pathlib.Path) -> dict[str, bytes]:
  """Returns the content of all files in a directory tree, by path."""
  return {p: (root / p).read_bytes() for p in leftovers(root) if (root / p).is_file()}


def leftovers(root: pathlib.Path) -> list[str]:
  """Returns the paths in an export root, hidden files included."""
  return sorted(str(p.relative_to(root)) for p in root.rglob('*')) if root.exists() else []


def record(release: pathlib.Path) -> dict:
  """Returns the record of a published version."""
  return json.loads(release.with_name(f'{release.name}.release.json').read_text())
