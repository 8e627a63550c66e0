"""assets/catalog.yaml: which models there are, where they come from, and what each version of them is."""

import dataclasses
import json
import pathlib
from typing import Any

import jsonschema
import yaml

from converters import errors
from export import assets_dir


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
  """One version of one model.

  Attributes:
    publisher, name, version: 'tensorflow', 'albert_en_large', 2.
    changes: by version, up to this one, what was new in it.
    language, dataset: for the card.
  """
  publisher: str
  name: str
  version: int
  changes: dict[int, list[str]]
  language: str
  dataset: tuple[str, ...] = ()

  @property
  def path(self) -> str:
    """Where it goes below the export root, and on a hub host: 'tensorflow/albert_en_large/2'."""
    return f'{self.publisher}/{self.name}/{self.version}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderRelease(Release):
  """One version of an encoder.

  Attributes:
    interface: 'dict' or 'list', as the catalog explains them.
    preprocessor: its companion.
  """
  interface: str
  preprocessor: Release


class Catalog:
  """The content of a catalog file."""

  def __init__(self, path: pathlib.Path = assets_dir.PATH / 'catalog.yaml'):
    """Reads and checks a catalog.

    Raises:
      CatalogError: it is not YAML, or not what assets/catalog.schema.json says.
    """
    self._path = path
    try:
      self._content: dict[str, Any] = yaml.safe_load(path.read_text(encoding='utf-8'))
      schema = json.loads((assets_dir.PATH / 'catalog.schema.json').read_text(encoding='utf-8'))
      # YAML keys may be numbers, JSON's are strings.
      jsonschema.validate(json.loads(json.dumps(self._content)), schema)
    except (OSError, yaml.YAMLError) as e:
      raise errors.CatalogError(f'cannot read {path} ({e}): mend the catalog'.replace('\n', ' ')) from e
    except jsonschema.ValidationError as e:
      raise errors.CatalogError(f'{e.json_path}: {e.message} in {path}: mend the catalog') from e

  @property
  def publisher(self) -> str:
    return self._content['publisher']

  def source(self, name: str) -> str | None:
    """The handle that a model is exported from when --source says nothing else."""
    return self._content['encoders'].get(name, {}).get('source')

  def newest_version(self, name: str) -> int | None:
    model = self._content['encoders'].get(name)
    return max(model['versions']) if model else None

  def encoder(self, name: str, version: int, *, publisher: str | None = None, interface: str | None = None,
              preprocessor: str | None = None, changes: list[str] | None = None) -> EncoderRelease:
    """What a version of an encoder is: what the arguments say, else the catalog, else a new model's defaults.

    Args:
      name: of the encoder; the catalog may lack it.
      version: at least 1; the catalog may lack it.
      publisher: default: the catalog's.
      interface: 'dict' or 'list'; default: the catalog's, else 'dict'.
      preprocessor: 'NAME/VERSION'; default: the catalog's, else that of the newest encoder version there is.
      changes: what this version changes; default: the catalog's, else "Initial release." for a model that it lacks.

    Raises:
      UsageError: nobody says what is new in this version of a model that has others.
    """
    publisher = publisher or self.publisher
    model = self._content['encoders'].get(name, {'language': 'en', 'versions': {}})
    versions = model['versions']
    entry = versions.get(version, {})
    companion = preprocessor or entry.get('preprocessor') or self._usual_preprocessor(versions)
    companion_name, _, companion_version = companion.partition('/')
    history = {v: e['changes'] for v, e in sorted(versions.items()) if v < version}
    if not changes and versions and version not in versions:
      raise errors.UsageError(f'--version={version}: the catalog has no such version of {name}: say what is new with --change')
    history[version] = changes or entry.get('changes') or ['Initial release.']
    return EncoderRelease(
        publisher=publisher, name=name, version=version, changes=history, language=model['language'],
        dataset=tuple(model.get('dataset', ())), interface=interface or entry.get('interface', 'dict'),
        preprocessor=self._preprocessor(publisher, companion_name, int(companion_version)))

  def _usual_preprocessor(self, versions: dict[int, Any]) -> str:
    versions = versions or self._content['encoders']['albert_en_large']['versions']
    return versions[max(versions)]['preprocessor']

  def _preprocessor(self, publisher: str, name: str, version: int) -> Release:
    model = self._content['preprocessors'].get(name, {'language': 'en', 'versions': {}})
    history = {v: e['changes'] for v, e in sorted(model['versions'].items()) if v <= version}
    history.setdefault(version, ['Initial release.'])
    return Release(publisher=publisher, name=name, version=version, changes=history, language=model['language'])
