"""Types of releases, and the constants of their contracts."""

import dataclasses
from typing import Literal

# Supported versions of the contract of albert_en_preprocess. Versions 1 to 3 were published before.
PREPROCESSOR_VERSIONS = (1, 2, 3, 4)
# Default number of ids for each text.
SEQ_LENGTH = 128
# Suffixes of the files next to the directory '2'; only signed releases have the last two.
ARCHIVE, CARD, RECORD, SIGNATURE, RECORD_SIGNATURE = '.tar.gz', '.md', '.release.json', '.sig', '.release.json.sig'
COMPANIONS = (ARCHIVE, CARD, RECORD, SIGNATURE, RECORD_SIGNATURE)
# Inputs and outputs of an encoder: dicts of tensors, or lists as in version 1.
Interface = Literal['dict', 'list']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
  """One version of one model.

  Attributes:
    publisher, name, version: 'tensorflow', 'albert_en_large', 2.
    changes: changes by version, up to this version.
    breaking: versions in `changes` that are incompatible with the version before.
    language: BCP 47 tag for the card; None if it is not known.
    dataset: names for the card.
  """

  publisher: str
  name: str
  version: int
  changes: dict[int, list[str]]
  breaking: frozenset[int] = frozenset()
  language: str | None
  dataset: tuple[str, ...] = ()

  @property
  def model(self) -> str:
    """Path of the model below the export root and on a hub host: 'tensorflow/albert_en_large'."""
    return f'{self.publisher}/{self.name}'

  @property
  def path(self) -> str:
    """Path of the release below the export root and on a hub host: 'tensorflow/albert_en_large/2'."""
    return f'{self.model}/{self.version}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderRelease(Release):
  """One version of an encoder.

  Attributes:
    interface: 'dict' or 'list', as the catalog explains them.
    preprocessor: the preprocessor that it is published with.
  """

  interface: Interface
  preprocessor: Release


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRelease(Release):
  """One version of a model from text to vectors: an encoder and its preprocessor in one.

  Attributes:
    encoder: the encoder that it contains, together with the encoder's preprocessor.
  """

  encoder: EncoderRelease


@dataclasses.dataclass(frozen=True)
class Collection:
  """The collection of a publisher's models: its name, a one-line title and its language."""

  name: str
  title: str
  language: str
