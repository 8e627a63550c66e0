"""Typed errors of this toolchain, one class per kind of fault.

A message has the form `<object>: <problem> (<detail>); <one action>`. The command line prints it after `error: `.
"""

import re


class AlbertHubError(Exception):
  """Base class of all expected errors; the command line prints the message as one line."""


class SourceError(AlbertHubError):
  """A file of the source is missing, unreadable or invalid."""


class ArchiveError(SourceError):
  """The archive of a source is invalid, exceeds a limit, or has a forbidden member."""


class DigestError(SourceError):
  """The SHA-256 of the source differs from the expected one."""


class CheckpointError(SourceError):
  """A checkpoint is damaged: its index is invalid, does not match the data files, or a tensor cannot be read."""


class ConfigError(SourceError):
  """A config file is invalid, or describes a model that AlbertEncoder does not support."""


class VocabularyError(SourceError):
  """The SentencePiece model is invalid, or does not match the weights."""


class MappingError(SourceError):
  """Source tensors and model variables do not match one to one."""


class UntrustedGraphError(SourceError):
  """A graph is invalid, has an operation outside of the allow-list, or hides a graph in an attribute."""


class ParityError(AlbertHubError):
  """Outputs of the exported model differ from the expected ones by more than the tolerance."""


class IntegrityError(AlbertHubError):
  """A published release does not match its record."""


class CompatibilityError(AlbertHubError):
  """A new version breaks compatibility with the version before."""


class GoldenError(AlbertHubError):
  """A golden file is invalid, or a release does not belong to the source that it is compared with."""


class CatalogError(AlbertHubError):
  """The catalog (assets/catalog.yaml) is invalid, or cannot be read or written."""


class PublishError(AlbertHubError):
  """A release tree or an output path cannot be read, written or served."""


class RunError(AlbertHubError):
  """A pipeline failed or was interrupted."""


class PackageError(AlbertHubError):
  """A package that an option needs is missing or cannot be imported."""


class UsageError(AlbertHubError):
  """Flags are invalid or contradictory; raised before any work is done, exit status 2."""


def without_class_path(line: str) -> str:
  """Returns the last line of a traceback without the module path of the exception's class."""
  return re.sub(r'^(?:\w+\.)+(?=\w+: )', '', line)
