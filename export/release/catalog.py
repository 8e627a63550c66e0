"""assets/catalog.yaml: which models there are, where they come from, and what each version of them is."""

import dataclasses
import io
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import jsonschema
import ruamel.yaml
import ruamel.yaml.nodes

from converters import errors
from export import assets_dir
from export import spec

PATH = assets_dir.PATH / 'catalog.yaml'


class Catalog:
  """The content of a catalog file.

  Attributes:
    yaml: the file, as it was read.
  """

  def __init__(self, path: str | os.PathLike[str] = PATH):
    """Reads and checks a catalog.

    Args:
      path: a file, or what tf.io.gfile knows ('gs://bucket/catalog.yaml'). That one can be read only.

    Raises:
      CatalogError: naming file and line: it is not YAML, not what assets/catalog.schema.json says, has a key twice, a
        gap among
        a model's versions, a name for two models, or a preprocessor that it does not hold.
    """
    self._path = path
    self.yaml = _read(path)
    self._content: dict[str, Any] = _checked(self.yaml, path)

  @property
  def publisher(self) -> str:
    return self._content['publisher']

  @property
  def collection(self) -> spec.Collection:
    return spec.Collection(**self._content['collection'])

  @property
  def encoders(self) -> list[str]:
    return list(self._content['encoders'])

  @property
  def preprocessors(self) -> list[str]:
    """All there are, as 'albert_en_preprocess/3'."""
    return [
      f'{name}/{version}' for name, model in self._content['preprocessors'].items() for version in model['versions']
    ]

  def is_preprocessor(self, name: str) -> bool:
    return name in self._content['preprocessors']

  def source(self, name: str) -> str | None:
    """The handle that a model is exported from when --source says nothing else; a preprocessor as the first encoder with one that names it."""
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
    model = self._content['encoders'].get(name) or self._content['preprocessors'].get(name)
    return max(model['versions']) if model else None

  def versions(self, name: str) -> list[int]:
    """Those of an encoder in the catalog, ascending."""
    return list(self._content['encoders'][name]['versions'])

  def entry(self, name: str, version: int) -> dict[str, Any]:
    """What the catalog says of a version of an encoder that it holds: `interface`, `preprocessor`, `changes`, `breaking`."""
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
  ) -> spec.EncoderRelease:
    """What a version of an encoder is: what the arguments say, else the catalog, else a new model's defaults.

    Args:
      name: of the encoder; the catalog may lack it.
      version: at least 1; one in the catalog or the next one, for a model that the catalog holds.
      publisher: default: the catalog's.
      interface: 'dict' or 'list'; default: the catalog's, else 'dict'.
      preprocessor: 'NAME/VERSION'; default: the catalog's, else that of the newest encoder version there is.
      changes: what this version changes; default: the catalog's, else "Initial release." for a model that it lacks.

    Raises:
      UsageError: the version is neither in the catalog nor the next, or nobody says what is new in it.
    """
    publisher = publisher or self.publisher
    model = self._content['encoders'].get(name, {'language': 'en', 'versions': {}})
    versions = model['versions']
    if versions and version not in versions:
      if version != max(versions) + 1:
        raise errors.UsageError(
          f'--version={version}: the newest version of {name} in the catalog is {max(versions)}: give --version={max(versions) + 1} '
          'for the next one, or one that is in the catalog'
        )
      if not changes:
        raise errors.UsageError(
          f'--version={version}: the catalog has no such version of {name}: say what is new with --change, or add it with '
          '`python -m export.bump`'
        )
    entry = versions.get(version, {})
    companion = preprocessor or entry.get('preprocessor') or self._usual_preprocessor(versions)
    companion_name, _, companion_version = companion.partition('/')
    history = {v: e['changes'] for v, e in sorted(versions.items()) if v < version}
    history[version] = changes or entry.get('changes') or ['Initial release.']
    return spec.EncoderRelease(
      publisher=publisher,
      name=name,
      version=version,
      changes=history,
      breaking=_breaking(versions, version),
      language=model['language'],
      dataset=tuple(model.get('dataset', ())),
      interface=interface or entry.get('interface', 'dict'),
      preprocessor=self._preprocessor(publisher, companion_name, int(companion_version)),
    )

  def preprocessor(
    self, name: str, version: int, *, publisher: str | None = None, changes: list[str] | None = None
  ) -> spec.Release:
    """What a version of a preprocessor is: as the companion of an encoder that names it.

    Args:
      name: of a preprocessor in the catalog.
      version: one in the catalog: what a version is, code says.
      publisher: default: the catalog's.
      changes: what this version changes; default: the catalog's.

    Raises:
      UsageError: the catalog has no such version.
    """
    versions = self._content['preprocessors'][name]['versions']
    if version not in versions:
      raise errors.UsageError(
        f'--version={version}: the catalog has versions {", ".join(map(str, versions))} of {name}: give one of them'
      )
    release = self._preprocessor(publisher or self.publisher, name, version)
    return dataclasses.replace(release, changes=release.changes | {version: changes}) if changes else release

  def text(self, encoder: spec.EncoderRelease) -> spec.TextRelease:
    """What the model from text to vectors is that is published together with an encoder, under its version.

    Its history is that of the encoder and the preprocessor: versions with lists are left out, since there is no such
    model of them.

    Raises:
      UsageError: the catalog has another model of its name.
    """
    name = f'{encoder.name}_text'
    if any(name in self._content[kind] for kind in ('encoders', 'preprocessors')):
      raise errors.UsageError(
        f'--with_text publishes {name}, and the catalog has another model of that name: leave it out, or give another --model'
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
    """Whether a preprocessor breaks with an earlier one, as far as the catalog knows."""
    (old, old_version), (new, new_version) = (path.split('/') for path in (before, after))
    versions = self._content['preprocessors'].get(new, {'versions': {}})['versions']
    return old == new and any(int(old_version) < v for v in _breaking(versions, int(new_version)))

  def _usual_preprocessor(self, versions: Mapping[int, Any]) -> str:
    # Of a model that the catalog lacks: as the first one in it.
    versions = versions or next(iter(self._content['encoders'].values()))['versions']
    return versions[max(versions)]['preprocessor']

  def _preprocessor(self, publisher: str, name: str, version: int) -> spec.Release:
    model = self._content['preprocessors'].get(name, {'language': 'en', 'versions': {}})
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
    """The catalog with one more version of an encoder.

    Args:
      name: of an encoder in the catalog.
      entry: what the catalog is to say of it.

    Returns:
      The version, and the file's new text: the old one with the new lines in it.

    Raises:
      CatalogError: the file is written such that a version cannot be added by itself, or the entry does not fit in.
    """
    text = self.yaml
    versions, line = _node(ruamel.yaml.YAML(typ='safe', pure=True).compose(text), ('encoders', name, 'versions'))
    version = max(self._content['encoders'][name]['versions']) + 1
    rendered = io.StringIO()
    dump = ruamel.yaml.YAML()
    dump.indent(mapping=2, sequence=4, offset=2)
    dump.width = 1 << 20
    dump.dump({version: dict(entry)}, rendered)
    # A mapping ends where the next thing begins: comments and blank lines before that are the next thing's.
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
        f'{self._path}:{line}: a version cannot be added to {name} by itself: write its versions out, one '
        'below the other'
      )
    return version, new

  def write(self, text: str) -> None:
    """Replaces the file.

    Raises:
      CatalogError: it cannot be written; it is as it was.
    """
    path = pathlib.Path(os.path.realpath(self._path))
    temporary = None
    try:
      with tempfile.NamedTemporaryFile(
        'w', encoding='utf-8', dir=path.parent, prefix=f'.{path.name}-', delete=False
      ) as file:
        temporary = pathlib.Path(file.name)
        file.write(text)
      os.chmod(temporary, path.stat().st_mode & 0o777)
      temporary.replace(path)
    except BaseException as e:
      if temporary is not None:
        temporary.unlink(missing_ok=True)
      if isinstance(e, OSError):
        raise errors.CatalogError(f'cannot write {self._path} ({e.strerror}): give another --catalog') from e
      raise


def _breaking(versions: Mapping[int, Any], newest: int) -> frozenset[int]:
  return frozenset(v for v, entry in versions.items() if v <= newest and entry.get('breaking'))


def _read(path: str | os.PathLike[str]) -> str:
  if '://' not in os.fspath(path):
    try:
      return pathlib.Path(path).read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as e:
      raise errors.CatalogError(f'cannot read {path} ({e}): give a catalog with --catalog') from e
  import tensorflow as tf  # takes seconds, and only such paths need it

  try:
    with tf.io.gfile.GFile(path, 'rb') as file:
      return file.read().decode()
  except (tf.errors.OpError, UnicodeDecodeError) as e:
    raise errors.CatalogError(f'cannot read {path} ({e}): give a catalog with --catalog') from e


def _checked(text: str, path: str | os.PathLike[str]) -> dict[str, Any]:
  """Parses a catalog and checks everything about it."""
  try:
    parser = ruamel.yaml.YAML(typ='safe', pure=True)
    root = parser.compose(text)
    content = parser.load(text)
    # YAML's keys may be anything, JSON's are strings.
    plain = json.loads(json.dumps(content))
  except ruamel.yaml.error.MarkedYAMLError as e:
    mark = e.problem_mark or e.context_mark
    line = f':{mark.line + 1}' if mark else ''
    raise errors.CatalogError(f'{path}{line}: {e.problem or e.context}: mend the catalog') from e
  except (ruamel.yaml.error.YAMLError, ValueError, TypeError, RecursionError) as e:
    raise errors.CatalogError(f'{path}: this is no catalog ({str(e) or type(e).__name__}): mend it') from e
  schema = json.loads((assets_dir.PATH / 'catalog.schema.json').read_text(encoding='utf-8'))
  fault = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(plain))
  faults = [(_place(fault), fault.message)] if fault else list(_faults(content))
  for place, message in faults[:1]:
    where = '.'.join(map(str, place)) or 'the whole'
    raise errors.CatalogError(f'{path}:{_node(root, place)[1]}: {where}: {message}: mend the catalog')
  return content


def _faults(content: Mapping[str, Any]) -> Iterator[tuple[tuple[Any, ...], str]]:
  """What a schema cannot say: the place of a fault, and what it is."""
  for kind in ('encoders', 'preprocessors'):
    for name, model in content[kind].items():
      numbers = list(model['versions'])
      for expected, number in enumerate(numbers, start=1):
        if not isinstance(number, int):
          yield (kind, name, 'versions', number), f'version {number!r} is no number'
        elif number != expected:
          yield (kind, name, 'versions', number), f'version {number} stands where version {expected} should'
  for name in content['encoders']:
    if name in content['preprocessors']:
      yield ('preprocessors', name), 'there is an encoder of this name'
  for name, model in content['preprocessors'].items():
    for number in model['versions']:
      if number not in spec.PREPROCESSOR_VERSIONS:
        yield (
          ('preprocessors', name, 'versions', number),
          f'there are versions {", ".join(map(str, spec.PREPROCESSOR_VERSIONS))} of the preprocessor\'s contract',
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
  """Where a fault is: of a key that should not be there, at the key, and not at what it is in."""
  key: tuple[Any, ...] = ()
  instance: Any = fault.instance
  if fault.validator == 'additionalProperties' and isinstance(fault.schema, Mapping):
    key = tuple(name for name in instance if name not in fault.schema['properties'])[:1]
  elif 'propertyNames' in fault.absolute_schema_path:
    key = (instance,)
  return (*fault.absolute_path, *key)


def _node(root: Any, place: tuple[Any, ...]) -> tuple[Any, int]:
  """The node of a document at a place, or what is nearest above it (a missing key has none); and its line, from 1."""
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
    node, line = found[-1][0], found[-1][1] + 1  # what an alias stands for is elsewhere: its key is here
  return node, line
