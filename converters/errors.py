"""The faults this toolchain refuses, one class each.

Every message says what is wrong in which file, tensor or flag, and then, behind a colon, what to do: the command line
prints it as it stands.
"""

import re


class AlbertHubError(Exception):
  """Base of every fault that is not a bug: one line for the person who runs the tool."""


class SourceError(AlbertHubError):
  """A file of the source is missing, unreadable or not what the format asks for."""


class ArchiveError(SourceError):
  """An archive that is broken, or that holds something a module archive must not hold."""


class DigestError(SourceError):
  """The source is not the one that was asked for."""


class CheckpointError(SourceError):
  """The index of a checkpoint is broken, or its data files are not those it is of."""


class ConfigError(SourceError):
  """albert_config.json is not one that AlbertEncoder can be built from."""


class VocabularyError(SourceError):
  """The SentencePiece model does not fit the weights."""


class MappingError(SourceError):
  """Source tensors and model variables do not correspond one to one."""


class UntrustedGraphError(SourceError):
  """A graph has an operation that is not on its allow-list, or something that no operation may hide."""


class ParityError(AlbertHubError):
  """The exported model does not compute what its source computes."""


class IntegrityError(AlbertHubError):
  """A published release is not what its record says."""


class CompatibilityError(AlbertHubError):
  """A new version is not what users of the one before it rely on."""


class GoldenError(AlbertHubError):
  """A golden file is broken, or of something else."""


class CatalogError(AlbertHubError):
  """assets/catalog.yaml is broken."""


class PublishError(AlbertHubError):
  """What was made cannot be put where it was asked for."""


class RunError(AlbertHubError):
  """A pipeline did not come to its end."""


class UsageError(AlbertHubError):
  """Flags that cannot be meant: found before any work is done, exit status 2."""


def without_class_path(line: str) -> str:
  """The last line of a traceback, with the name of the exception's class and not where it is defined."""
  return re.sub(r'^(?:\w+\.)+(?=\w+: )', '', line)
