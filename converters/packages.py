"""Versions of installed packages, for records."""

import importlib.metadata
from collections.abc import Iterable


def versions(names: Iterable[str]) -> dict[str, str]:
  """Returns the versions of packages by name, without those that are not installed.

  The name of TensorFlow's package depends on the platform, so callers give each of its names.
  """
  found = {}
  for name in names:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
