"""The release record: what VERSION.release.json holds, and its one reader.

The file is written next to the release. A record that `read` returns
has all fields, of these types. Whether its statements are true is checked by `export.release.integrity`, and so is the
content of `certificate`, which has one form for each kind.
"""

import dataclasses
import functools
import json
import pathlib
from typing import Annotated
from typing import Any
from typing import Literal

from converters import albert_config
from converters import errors
from converters import tokenization
from converters import weight_map
from export import spec


@dataclasses.dataclass(frozen=True)
class Digest:
  """Size in bytes and SHA-256 in hex of a file."""

  size: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class Archive:
  """Size and SHA-256 of the .tar.gz, and the SHA-256 of the tar inside, which does not depend on the compressor."""

  size: int
  sha256: str
  tar_sha256: str


@dataclasses.dataclass(frozen=True)
class Tokenization:
  """Letter case and accents, as in `tokenization.Tokenization`. Older records have none, which means the default."""

  lower_case: bool = tokenization.DEFAULT.lower_case
  keep_accents: bool = tokenization.DEFAULT.keep_accents
  origin: str = tokenization.DEFAULT.origin

  @property
  def setting(self) -> tokenization.Tokenization:
    """The setting as the converters know it."""
    return tokenization.Tokenization(**dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class Source:
  """The source of a model with weights.

  Attributes:
    handle: the handle; None for a local path, which has no meaning for other users.
    digest: digest of its files.
    format: its format in words.
    lacks: what the source lacks, in words.
    notes: what the reader left out or assumed, in words.
  """

  handle: str | None
  digest: str
  format: str | None = None
  lacks: list[str] = dataclasses.field(default_factory=list)
  notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class SpModel:
  """File name and digest of a SentencePiece model."""

  name: str
  digest: str


@dataclasses.dataclass(frozen=True)
class PreprocessorSource:
  """The source of a preprocessor: its SentencePiece model alone, since encoders of four sizes share it."""

  sp_model: SpModel


@dataclasses.dataclass(frozen=True)
class Weight:
  """One weight; see `build_encoder.Weight`. `checkpoint_key` is its name in the SavedModel's checkpoint."""

  source: str
  target: str
  transform: str
  shape: list[int]
  sha256: str
  checkpoint_key: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithWeights:
  """The fields that records of models with weights have in common; in the file, they follow their own.

  Attributes:
    changes: changes of this version, for the card.
    config: config in the authors' format.
    parameters: number of parameters of the encoder, without heads.
    source, tokenization, certificate: see the classes and the module.
    weights: every weight, in the order of the weight map.
    breaking: breaking differences from the previous version.
    files: digests of the SavedModel's files, by relative path.
    archive, card: digests.
    libraries: versions of the packages that can change the bytes.
  """

  changes: list[str]
  config: dict[str, Any]
  parameters: int
  source: Source
  tokenization: Tokenization = Tokenization()
  certificate: dict[str, Any]
  weights: list[Weight]
  breaking: list[str]
  files: dict[str, Digest]
  archive: Archive
  card: Digest
  libraries: dict[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder(WithWeights):
  """The record of an encoder.

  Attributes:
    release: path below the export root, 'tensorflow/albert_en_large/2'.
    interface: 'dict' or 'list'.
    padding_free: whether it has the padding-free call; older records have no such field.
    heads: heads in the model.
    preprocessor: path of its preprocessor.
  """

  release: str
  kind: Literal['encoder'] = 'encoder'
  interface: spec.Interface
  padding_free: bool = False
  heads: list[Literal['mlm', 'sop']]
  preprocessor: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(WithWeights):
  """The record of a model from text to vectors; as `Encoder`, with the paths of both parts and a length in tokens."""

  release: str
  kind: Literal['text'] = 'text'
  heads: list[Literal['mlm', 'sop']]
  encoder: str
  preprocessor: str
  seq_length: int = spec.SEQ_LENGTH


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessor:
  """The record of a preprocessor; as `Encoder`, without weights. `vocab_size` is the number of pieces."""

  release: str
  kind: Literal['preprocessor'] = 'preprocessor'
  changes: list[str]
  vocab_size: int
  seq_length: int = spec.SEQ_LENGTH
  tokenization: Tokenization = Tokenization()
  source: PreprocessorSource
  certificate: dict[str, Any]
  breaking: list[str]
  files: dict[str, Digest]
  archive: Archive
  card: Digest
  libraries: dict[str, str]


Record = Encoder | Text | Preprocessor

# Values of the fields that are known only after a model is saved, proven and packed.
PENDING: dict[str, Any] = {
  'certificate': {},
  'breaking': [],
  'files': {},
  'archive': Archive(0, '', ''),
  'card': Digest(0, ''),
  'libraries': {},
}


def config(record: Encoder | Text) -> albert_config.AlbertConfig:
  """Returns the config of a model with weights.

  Raises:
    ConfigError: the config is invalid.
  """
  return albert_config.parse(record.config)


def parts(record: Encoder | Text) -> set[weight_map.Part]:
  """Returns the parts of a model with weights."""
  return {weight_map.Part.ENCODER, *map(weight_map.Part, record.heads)}


def version(record: Record) -> int:
  """Returns the version of a release.

  Raises:
    ValueError: the path of the release does not end with a number.
  """
  return int(record.release.rpartition('/')[2])


def text(record: Record) -> str:
  """Returns the content of the file."""
  values = dataclasses.asdict(record)
  own_first = {name: values[name] for name in (*type(record).__annotations__, *values)}
  return json.dumps(own_first, indent=2, ensure_ascii=False) + '\n'


def read(release: pathlib.Path) -> Record:
  """Reads the record of a release, '2.release.json' next to the directory '2'.

  Args:
    release: directory of the release.

  Raises:
    IntegrityError: the record is missing or invalid.
  """
  path = release.with_name(release.name + spec.RECORD)
  try:
    return parse(path.read_bytes(), str(path))
  except OSError as e:
    raise errors.IntegrityError(
      f'{path}: no release record ({e.strerror}); give the directory of a published version'
    ) from e


def parse(content: bytes | str, where: str) -> Record:
  """Reads the content of a record.

  Args:
    content: the file's content.
    where: the file, for messages.

  Raises:
    IntegrityError: it is not a record: not JSON, or a field is missing or of another type.
  """
  import pydantic  # imported here, since most commands read no record

  try:
    return _adapter().validate_json(content, strict=True)
  except pydantic.ValidationError as e:
    first = e.errors(include_url=False, include_input=False)[0]
    place = '.'.join(map(str, first['loc']))[:200]
    detail = (f'{place}: {first["msg"]}' if place else first['msg'])[:300]
    raise errors.IntegrityError(f'{where}: not a release record ({detail}); publish the release again') from e


@functools.cache
def _adapter() -> Any:
  import pydantic

  return pydantic.TypeAdapter(Annotated[Record, pydantic.Field(discriminator='kind')])
