"""Reads and extends assets/catalog.yaml: the models, their sources and their versions."""

import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any
from typing import cast

import jsonschema
import ruamel.yaml
import ruamel.yaml.nodes

from converters import errors
from converters.io import atomic_write
from export import assets_dir
from export import spec

PATH = assets_dir.PATH / 'catalog.yaml'


class Catalog:
  """A parsed catalog file.

  Attributes:
    yaml: text of the file.
  """

  def __init__(self, path: str | os.PathLike[str] = PATH):
    """Reads and checks a catalog.

    Args:
      path: a local file, or a read-only tf.io.gfile path ('gs://bucket/catalog.yaml').

    Raises:
      CatalogError: the file is not YAML, or violates assets/catalog.schema.json. Also if it has a duplicate key, a gap
        in a model's versions, one name for two models, or an unknown preprocessor. The message has file and line.
    """
    self._path = path
    self.yaml = _read(path)
    self._content: dict[str, Any] = _checked(self.yaml, path)

  @property
  def publisher(self) -> str:
    """The publisher of all models."""
    return self._content['publisher']

  @property
  def collection(self) -> spec.Collection:
    """The collection of all models."""
    return spec.Collection(**self._content['collection'])

  @property
  def encoders(self) -> list[str]:
    """Names of all encoders."""
    return list(self._content['encoders'])

  @property
  def preprocessors(self) -> list[str]:
    """All versions of all preprocessors, as 'albert_en_preprocess/3'."""
    return [
      f'{name}/{version}' for name, model in self._content['preprocessors'].items() for version in model['versions']
    ]

  def is_preprocessor(self, name: str) -> bool:
    """Returns whether the catalog has a preprocessor `name`."""
    return name in self._content['preprocessors']

  def source(self, name: str) -> str | None:
    """Returns the default handle to export a model from; None if the catalog has none.

    A preprocessor has the source of the first encoder that names it and has a source.
    """
    if not self.is_preprocessor(name):
      return self._content['encoders'].get(name, {}).get('source')
    return next(
      (
        model['source']
        for model in self._content['encoders'].values()
        if 'source' in model
        and any(entry['preprocessor'].startswith(f'{name}/') for entry in model['versions'].values())
      ),
      None,
    )

  def newest_version(self, name: str) -> int | None:
    """Returns the newest version of a model; None if the catalog lacks the model."""
    model = self._content['encoders'].get(name) or self._content['preprocessors'].get(name)
    return max(model['versions']) if model else None

  def versions(self, name: str) -> list[int]:
    """Returns the versions of an encoder in the catalog, ascending."""
    return list(self._content['encoders'][name]['versions'])

  def entry(self, name: str, version: int) -> dict[str, Any]:
    """Returns the entry of an encoder version: `interface`, `preprocessor`, `changes`, `breaking`."""
    return dict(self._content['encoders'][name]['versions'][version])

  def encoder(
    self,
    name: str,
    version: int,
    *,
    publisher: str | None = None,
    interface: str | None = None,
    preprocessor: str | None = None,
    changes: list[str] | None = None,
    language: str | None = None,
  ) -> spec.EncoderRelease:
    """Returns the release of an encoder version: the arguments, else the catalog, else defaults of a new model.

    Args:
      name: name of the encoder; the catalog may lack it.
      version: version, at least 1; for a model in the catalog, one of its versions or the next one.
      publisher: publisher; default: the catalog's.
      interface: 'dict' or 'list'; default: the catalog's, else 'dict'.
      preprocessor: 'NAME/VERSION'; default: the catalog's, else that of the newest encoder version. A model that the
        catalog lacks shares the preprocessor of the first encoder only if it has the same language.
      changes: changes of this version; default: the catalog's, else "Initial release." for a new model.
      language: BCP 47 tag; default: the catalog's, else the one in a name like 'albert_en_tiny', else None.

    Raises:
      UsageError: the version is neither in the catalog nor the next one, or `changes` is missing for the next one.
    """
    publisher = publisher or self.publisher
    model = self._content['encoders'].get(name, {'versions': {}})
    versions = model['versions']
    if language and model.get('language', language) != language:
      raise errors.UsageError(
        f'option language={language}: the language of {name} is {model["language"]} in the catalog; leave the flag out'
      )
    language = language or model.get('language') or self._language_in_name(name)
    if versions and version not in versions:
      if version != max(versions) + 1:
        raise errors.UsageError(
          f'option version={version}: neither in the catalog nor the next one (the newest version of {name} is '
          f'{max(versions)}); give option version={max(versions) + 1}, or one that is in the catalog'
        )
      if not changes:
        raise errors.UsageError(
          f'option version={version}: not a version of {name} in the catalog; describe it with option change, or add '
          'it with `python -m export.bump`'
        )
    entry = versions.get(version, {})
    companion = preprocessor or entry.get('preprocessor') or self._usual_preprocessor(name, versions, language)
    companion_name, _, companion_version = companion.partition('/')
    history = {v: e['changes'] for v, e in sorted(versions.items()) if v < version}
    history[version] = changes or entry.get('changes') or ['Initial release.']
    return spec.EncoderRelease(
      publisher=publisher,
      name=name,
      version=version,
      changes=history,
      breaking=_breaking(versions, version),
      language=language,
      dataset=tuple(model.get('dataset', ())),
      interface=cast(spec.Interface, interface or entry.get('interface', 'dict')),
      preprocessor=self._preprocessor(publisher, companion_name, int(companion_version), language),
    )

  def preprocessor(
    self, name: str, version: int, *, publisher: str | None = None, changes: list[str] | None = None
  ) -> spec.Release:
    """Returns the release of a preprocessor version.

    Args:
      name: name of a preprocessor in the catalog.
      version: version in the catalog; code defines each version.
      publisher: publisher; default: the catalog's.
      changes: changes of this version; default: the catalog's.

    Raises:
      UsageError: the version is not in the catalog.
    """
    versions = self._content['preprocessors'][name]['versions']
    if version not in versions:
      raise errors.UsageError(
        f'option version={version}: not in the catalog; give a version of {name} ({", ".join(map(str, versions))})'
      )
    release = self._preprocessor(publisher or self.publisher, name, version)
    return dataclasses.replace(release, changes=release.changes | {version: changes}) if changes else release

  def text(self, encoder: spec.EncoderRelease) -> spec.TextRelease:
    """Returns the release of the text model that is published with an encoder, under the encoder's version.

    Its history is that of the encoder and the preprocessor. Versions with the list interface have no text model and are
    left out.

    Raises:
      UsageError: the catalog has another model with the name of the text model.
    """
    name = f'{encoder.name}_text'
    if any(name in self._content[kind] for kind in ('encoders', 'preprocessors')):
      raise errors.UsageError(
        f'option with_text: the catalog has another model {name}; leave the flag out, or give another option model'
      )

    def of(path: str, companion: str) -> list[str]:
      return [f'The encoder `{path}` with the preprocessor `{companion}`.']

    changes, breaking, before = dict[int, list[str]](), set[int](), None
    entries = self._content['encoders'].get(encoder.name, {'versions': {}})['versions']
    for version, entry in sorted(entries.items()):
      if version >= encoder.version or entry['interface'] != 'dict':
        continue
      changes[version] = of(f'{encoder.model}/{version}', f'{encoder.publisher}/{entry["preprocessor"]}')
      if before is not None and (
        entry.get('breaking') or self._other_ids(before['preprocessor'], entry['preprocessor'])
      ):
        breaking.add(version)
      before = entry
    changes[encoder.version] = of(encoder.path, encoder.preprocessor.path)
    if before is not None and (
      encoder.version in encoder.breaking
      or self._other_ids(before['preprocessor'], f'{encoder.preprocessor.name}/{encoder.preprocessor.version}')
    ):
      breaking.add(encoder.version)
    return spec.TextRelease(
      publisher=encoder.publisher,
      name=name,
      version=encoder.version,
      changes=changes,
      breaking=frozenset(breaking),
      language=encoder.language,
      dataset=encoder.dataset,
      encoder=encoder,
    )

  def _other_ids(self, before: str, after: str) -> bool:
    """Returns whether the catalog lists a breaking change between two preprocessor versions."""
    (old, old_version), (new, new_version) = (path.split('/') for path in (before, after))
    versions = self._content['preprocessors'].get(new, {'versions': {}})['versions']
    return old == new and any(int(old_version) < v for v in _breaking(versions, int(new_version)))

  def _usual_preprocessor(self, name: str, versions: Mapping[int, Any], language: str | None) -> str:
    if not versions:
      first = next(iter(self._content['encoders'].values()))
      if language != first['language']:
        return f'{name}_preprocess/{spec.PREPROCESSOR_VERSIONS[-1]}'
      versions = first['versions']
    return versions[max(versions)]['preprocessor']

  def _language_in_name(self, name: str) -> str | None:
    """Returns the language of the first encoder if the name has it as the others do, as 'albert_en_tiny'."""
    language = next(iter(self._content['encoders'].values()))['language']
    return language if language in name.split('_')[1:-1] else None

  def _preprocessor(self, publisher: str, name: str, version: int, language: str | None = None) -> spec.Release:
    model = self._content['preprocessors'].get(name, {'language': language, 'versions': {}})
    history = {v: e['changes'] for v, e in sorted(model['versions'].items()) if v <= version}
    history.setdefault(version, ['Initial release.'])
    return spec.Release(
      publisher=publisher,
      name=name,
      version=version,
      changes=history,
      breaking=_breaking(model['versions'], version),
      language=model['language'],
    )

  def with_version(self, name: str, entry: Mapping[str, Any]) -> tuple[int, str]:
    """Returns the catalog with one more version of an encoder.

    Args:
      name: name of an encoder in the catalog.
      entry: entry of the new version.

    Returns:
      The new version, and the new text of the file: the old text with added lines.

    Raises:
      CatalogError: the layout of the file does not allow to add a version, or the entry is invalid.
    """
    text = self.yaml
    versions, line = _node(ruamel.yaml.YAML(typ='safe', pure=True).compose(text), ('encoders', name, 'versions'))
    version = max(self._content['encoders'][name]['versions']) + 1
    rendered = io.StringIO()
    dump = ruamel.yaml.YAML()
    dump.indent(mapping=2, sequence=4, offset=2)
    dump.width = 1 << 20
    dump.dump({version: dict(entry)}, rendered)
    # A mapping node ends at the next node, whose comments and blank lines are not part of the mapping.
    before = text[: versions.end_mark.index].splitlines(keepends=True)
    while not before[-1].strip() or before[-1].lstrip().startswith('#'):
      del before[-1]
    head = ''.join(before)
    indent = ' ' * versions.start_mark.column
    added = ''.join(indent + line for line in rendered.getvalue().splitlines(keepends=True))
    new = head + ('' if head.endswith('\n') else '\n') + added + text[len(head) :]
    expected = json.loads(json.dumps(self._content))
    expected['encoders'][name]['versions'][str(version)] = json.loads(json.dumps(entry))
    try:
      got = _checked(new, self._path)
    except errors.CatalogError:
      got = {}
    if json.loads(json.dumps(got)) != expected:
      raise errors.CatalogError(
        f'{self._path}:{line}: no version can be added to {name}; write its versions in block style, one below the '
        'other'
      )
    return version, new

  def write(self, text: str) -> None:
    """Replaces the file atomically.

    Args:
      text: new text of the file.

    Raises:
      CatalogError: the file cannot be written; it is unchanged.
    """
    path = pathlib.Path(os.path.realpath(self._path))
    try:
      atomic_write.write(path, text.encode(), path.stat().st_mode & 0o777)
    except OSError as e:
      raise errors.CatalogError(f'{self._path}: cannot be written ({e.strerror}); give another option catalog') from e


def _breaking(versions: Mapping[int, Any], newest: int) -> frozenset[int]:
  return frozenset(v for v, entry in versions.items() if v <= newest and entry.get('breaking'))


def _read(path: str | os.PathLike[str]) -> str:
  if '://' not in os.fspath(path):
    try:
      return pathlib.Path(path).read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as e:
      raise errors.CatalogError(f'{path}: cannot be read ({e}); give a catalog with option catalog') from e
  import tensorflow as tf  # the import takes seconds, and local paths do not need it

  try:
    with tf.io.gfile.GFile(path, 'rb') as file:
      return file.read().decode()
  except (tf.errors.OpError, UnicodeDecodeError) as e:
    raise errors.CatalogError(f'{path}: cannot be read ({e}); give a catalog with option catalog') from e


def _checked(text: str, path: str | os.PathLike[str]) -> dict[str, Any]:
  """Parses and validates a catalog."""
  try:
    parser = ruamel.yaml.YAML(typ='safe', pure=True)
    root = parser.compose(text)
    content = parser.load(text)
    # YAML keys have any type; JSON keys are strings.
    plain = json.loads(json.dumps(content))
  except ruamel.yaml.error.MarkedYAMLError as e:
    mark = e.problem_mark or e.context_mark
    line = f':{mark.line + 1}' if mark else ''
    raise errors.CatalogError(f'{path}{line}: {e.problem or e.context}; correct the catalog') from e
  except (ruamel.yaml.error.YAMLError, ValueError, TypeError, RecursionError) as e:
    raise errors.CatalogError(f'{path}: not a catalog ({str(e) or type(e).__name__}); correct it') from e
  schema = json.loads((assets_dir.PATH / 'catalog.schema.json').read_text(encoding='utf-8'))
  fault = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(plain))
  faults = [(_place(fault), fault.message)] if fault else list(_faults(content))
  for place, message in faults[:1]:
    where = '.'.join(map(str, place)) or 'the file'
    raise errors.CatalogError(f'{path}:{_node(root, place)[1]}: {where}: {message}; correct the catalog')
  return content


def _faults(content: Mapping[str, Any]) -> Iterator[tuple[tuple[Any, ...], str]]:
  """Yields path and message of each fault that the schema cannot express."""
  for kind in ('encoders', 'preprocessors'):
    for name, model in content[kind].items():
      numbers = list(model['versions'])
      for expected, number in enumerate(numbers, start=1):
        if not isinstance(number, int):
          yield (kind, name, 'versions', number), f'version {number!r} is not a number'
        elif number != expected:
          yield (kind, name, 'versions', number), f'version {number} instead of version {expected}'
  for name in content['encoders']:
    if name in content['preprocessors']:
      yield ('preprocessors', name), 'an encoder has the same name'
  for name, model in content['preprocessors'].items():
    for number in model['versions']:
      if number not in spec.PREPROCESSOR_VERSIONS:
        yield (
          ('preprocessors', name, 'versions', number),
          f'the preprocessor contract has versions {", ".join(map(str, spec.PREPROCESSOR_VERSIONS))} only',
        )
  for name, model in content['encoders'].items():
    for number, entry in model['versions'].items():
      companion, _, version = entry['preprocessor'].partition('/')
      if int(version) not in content['preprocessors'].get(companion, {'versions': {}})['versions']:
        yield (
          ('encoders', name, 'versions', number, 'preprocessor'),
          f'the catalog has no preprocessor {entry["preprocessor"]}',
        )


def _place(fault: jsonschema.ValidationError) -> tuple[Any, ...]:
  """Returns the path of a schema fault; for an unexpected key, the path of the key instead of its mapping."""
  key: tuple[Any, ...] = ()
  instance: Any = fault.instance
  if fault.validator == 'additionalProperties' and isinstance(fault.schema, Mapping):
    key = tuple(name for name in instance if name not in fault.schema['properties'])[:1]
  elif 'propertyNames' in fault.absolute_schema_path:
    key = (instance,)
  return (*fault.absolute_path, *key)


def _node(root: Any, place: tuple[Any, ...]) -> tuple[Any, int]:
  """Returns the node at a path, or its closest existing ancestor, and its line, from 1."""
  node, line = root, 1
  for step in place:
    if isinstance(node, ruamel.yaml.nodes.MappingNode):
      found = [(value, key.start_mark.line) for key, value in node.value if key.value == str(step)]
    elif isinstance(node, ruamel.yaml.nodes.SequenceNode):
      found = [(value, value.start_mark.line) for value in node.value[step : step + 1]]
    else:
      found = []
    if not found:
      break
    node, line = found[-1][0], found[-1][1] + 1  # an alias's value is elsewhere in the file
  return node, line
