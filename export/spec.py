"""Types of releases, and the constants of their contracts."""

import dataclasses

# Of the contract of albert_en_preprocess: which versions there are to make. 1 to 3 were published before.
PREPROCESSOR_VERSIONS = (1, 2, 3, 4)
# ... and how many ids it gives for each text, if nothing else is asked for.
SEQ_LENGTH = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
  """One version of one model.

  Attributes:
    publisher, name, version: 'tensorflow', 'albert_en_large', 2.
    changes: by version, up to this one, what was new in it.
    breaking: the versions among them that code written for the one before may not work with.
    language, dataset: for the card.
  """

  publisher: str
  name: str
  version: int
  changes: dict[int, list[str]]
  breaking: frozenset[int] = frozenset()
  language: str
  dataset: tuple[str, ...] = ()

  @property
  def model(self) -> str:
    """Its model, below the export root and on a hub host: 'tensorflow/albert_en_large'."""
    return f'{self.publisher}/{self.name}'

  @property
  def path(self) -> str:
    """Where it goes below the export root, and on a hub host: 'tensorflow/albert_en_large/2'."""
    return f'{self.model}/{self.version}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderRelease(Release):
  """One version of an encoder.

  Attributes:
    interface: 'dict' or 'list', as the catalog explains them.
    preprocessor: its companion.
  """

  interface: str
  preprocessor: Release


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRelease(Release):
  """One version of a model from text to vectors: an encoder and its preprocessor in one.

  Attributes:
    encoder: what it is made of, together with that one's preprocessor.
  """

  encoder: EncoderRelease


@dataclasses.dataclass(frozen=True)
class Collection:
  """What the models of a publisher are published together as: its name, 'albert', one line about it, and its language."""

  name: str
  title: str
  language: str
