"""The collection's card: every model of a publisher in a tree, at its newest version, with what goes with what."""

import dataclasses
import json
from typing import Any

from converters import errors
from export import spec
from export.release import model_card
from export.store import publish
from export.store import tree as tree_lib
from export.ui import console as console_lib


@dataclasses.dataclass(frozen=True)
class Encoder:
  """A row of the card: the newest version of an encoder, older ones there are, its sizes, and its preprocessor's path."""

  path: str
  older: list[int]
  layers: int
  hidden_size: int
  parameters: int
  interface: str
  preprocessor: str


@dataclasses.dataclass(frozen=True)
class Text:
  """A row of the card: the newest version of a model from text to vectors, older ones there are, and what it is made of."""

  path: str
  older: list[int]
  encoder: str
  preprocessor: str


@dataclasses.dataclass(frozen=True)
class Preprocessor:
  """A row of the card: the newest version of a preprocessor, and older ones there are."""

  path: str
  older: list[int]


def name(publisher: str, collection: spec.Collection) -> str:
  """Where its card goes in a tree: 'tensorflow/collections/albert/1.md'."""
  return f'{publisher}/collections/{collection.name}/1{publish.CARD}'


def write(tree: tree_lib.Tree, publisher: str, collection: spec.Collection) -> None:
  """Writes the card anew: the same bytes for the same models, in whatever order they were published.

  Raises:
    PublishError: it cannot be written.
    IntegrityError: a record in the tree is none.
  """
  tree.write(name(publisher, collection), lambda: render(tree, publisher, collection))


def renew(tree: tree_lib.Tree, publisher: str, collection: spec.Collection, console: console_lib.Console) -> None:
  """Writes the card after something was published, which is complete whether the card can be written or not: if not, says so."""
  try:
    write(tree, publisher, collection)
  except errors.AlbertHubError as e:
    console.line(f'The card of the collection is as it was: {e}')


def render(tree: tree_lib.Tree, publisher: str, collection: spec.Collection) -> str:
  """The card's text."""
  encoders, texts, preprocessors = [], [], []
  for model in (m for m in tree.models() if m.startswith(f'{publisher}/')):
    *older, newest = tree.versions(model)
    path = f'{model}/{newest}'
    record = read_record(tree, path)
    try:
      if record['kind'] == 'preprocessor':
        preprocessors.append(Preprocessor(path, older))
      elif record['kind'] == 'text':
        texts.append(Text(path, older, record['encoder'], record['preprocessor']))
      else:
        config = record['config']
        encoders.append(
          Encoder(
            path,
            older,
            config['num_hidden_layers'],
            config['hidden_size'],
            record['parameters'],
            record['interface'],
            record['preprocessor'],
          )
        )
    except (KeyError, TypeError, AttributeError) as e:
      raise errors.IntegrityError(
        f'{path}{publish.RECORD} in {tree.root} is no release record ({type(e).__name__}: {e}): check it with '
        'export.verify'
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


def read_record(tree: tree_lib.Tree, release: str) -> dict[str, Any]:
  """The record of a version in a tree.

  Raises:
    IntegrityError: it is missing or no record.
  """
  try:
    with tree.open(release + publish.RECORD) as file:
      record = json.loads(file.read())
    record['kind'], record['release'], record['certificate']
  except FileNotFoundError as e:
    raise errors.IntegrityError(
      f'no record {release}{publish.RECORD} in {tree.root}: restore it, or take the version away'
    ) from e
  except (ValueError, TypeError, KeyError, RecursionError) as e:
    raise errors.IntegrityError(
      f'{release}{publish.RECORD} in {tree.root} is no release record ({type(e).__name__}: {e}): check it with '
      'export.verify'
    ) from e
  return record
