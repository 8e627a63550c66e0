"""Writes the card of a collection: the newest version of every model of a publisher, and its companions."""

import dataclasses

from converters import errors
from export import record as record_lib
from export import spec
from export.release import model_card
from export.store import tree as tree_lib
from export.ui import console as console_lib


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Row of the card for an encoder: path of its newest version, older versions, sizes, interface, preprocessor path."""

  path: str
  older: list[int]
  layers: int
  hidden_size: int
  parameters: int
  interface: str
  preprocessor: str
  pooler: bool


@dataclasses.dataclass(frozen=True)
class Text:
  """Row of the card for a text model: the path of its newest version, older versions, and the paths of its parts."""

  path: str
  older: list[int]
  encoder: str
  preprocessor: str


@dataclasses.dataclass(frozen=True)
class Preprocessor:
  """Row of the card for a preprocessor: the path of its newest version, and older versions."""

  path: str
  older: list[int]


def name(publisher: str, collection: spec.Collection) -> str:
  """Returns the path of the card in a tree: 'tensorflow/collections/albert/1.md'."""
  return f'{publisher}/collections/{collection.name}/1{spec.CARD}'


def write(tree: tree_lib.Tree, publisher: str, collection: spec.Collection) -> None:
  """Writes the card; its bytes depend on the models only, not on the order of their publication.

  Args:
    tree: the release tree.
    publisher: publisher whose models are listed.
    collection: title and text of the card.

  Raises:
    PublishError: the card cannot be written.
    IntegrityError: a record in the tree is missing or invalid.
  """
  tree.write(name(publisher, collection), lambda: render(tree, publisher, collection))


def renew(tree: tree_lib.Tree, publisher: str, collection: spec.Collection, console: console_lib.Console) -> None:
  """Writes the card after a publication; prints a failure instead of raising it, since the release is complete."""
  try:
    write(tree, publisher, collection)
  except errors.AlbertHubError as e:
    console.line(f'The card of the collection was not updated: {e}')


def render(tree: tree_lib.Tree, publisher: str, collection: spec.Collection) -> str:
  """Returns the text of the card."""
  encoders, texts, preprocessors = [], [], []
  for model in (m for m in tree.models() if m.startswith(f'{publisher}/')):
    *older, newest = tree.versions(model)
    path = f'{model}/{newest}'
    record = read_record(tree, path)
    try:
      if isinstance(record, record_lib.Preprocessor):
        preprocessors.append(Preprocessor(path, older))
      elif isinstance(record, record_lib.Text):
        texts.append(Text(path, older, record.encoder, record.preprocessor))
      else:
        config = record_lib.config(record)
        encoders.append(
          Encoder(
            path,
            older,
            config.num_hidden_layers,
            config.hidden_size,
            record.parameters,
            record.interface,
            record.preprocessor,
            config.pooler,
          )
        )
    except errors.ConfigError as e:
      raise errors.IntegrityError(
        f'{path}{spec.RECORD} in {tree.root}: not a release record ({e}); publish the release again'
      ) from e
  encoders.sort(key=lambda encoder: (encoder.parameters, encoder.path))
  return model_card.render(
    'collection',
    path=f'{publisher}/{collection.name}/1',
    collection=collection,
    encoders=encoders,
    texts=texts,
    preprocessors=preprocessors,
  )


def read_record(tree: tree_lib.Tree, release: str) -> record_lib.Record:
  """Reads the record of a version in a tree.

  Args:
    tree: the release tree.
    release: path of the version, 'tensorflow/albert_en_large/2'.

  Raises:
    IntegrityError: the record is missing or invalid.
  """
  try:
    with tree.open(release + spec.RECORD) as file:
      return record_lib.parse(file.read(), f'{release}{spec.RECORD} in {tree.root}')
  except FileNotFoundError as e:
    raise errors.IntegrityError(
      f'{release}{spec.RECORD} in {tree.root}: missing; restore it, or remove the version'
    ) from e
