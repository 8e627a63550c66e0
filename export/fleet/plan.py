"""Plans the missing releases of catalogs and their order."""

import dataclasses
import functools
import itertools
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping

from converters import errors
from export import spec
from export.release import catalog as catalog_lib
from export.store import tree as tree_lib


@dataclasses.dataclass(frozen=True)
class Task:
  """One release to make.

  Attributes:
    path: path of the release, as 'tensorflow/albert_en_large/2'; of the text model if its encoder is published.
    arguments: arguments of `python -m export` for this release.
    catalog: index of its catalog.
    after: paths of releases that are tried before: the next lower version, and the preprocessor.
    needs: paths in `after` that must be published before.
    makes: paths of all releases that it publishes, except the preprocessor.
  """

  path: str
  arguments: tuple[str, ...]
  catalog: int = 0
  after: tuple[str, ...] = ()
  needs: tuple[str, ...] = ()
  makes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Plan:
  """Order of the missing releases.

  Attributes:
    levels: tasks by level. A task's dependencies are in earlier levels; tasks of one level are independent.
    left_out: reason by path, for missing versions that are not going to be made.
  """

  levels: tuple[tuple[Task, ...], ...]
  left_out: Mapping[str, str]


def make(catalogs: Iterable[catalog_lib.Catalog], tree: tree_lib.Tree, with_text: bool = False) -> Plan:
  """Plans the releases of catalogs that a tree lacks.

  Args:
    catalogs: catalogs of different models.
    tree: release tree.
    with_text: whether to make a text model for every encoder with the dict interface.

  Returns:
    The plan.

  Raises:
    UsageError: two catalogs have the same release, counting text models.
  """
  tasks, left_out, seen = dict[str, Task](), dict[str, str](), set[str]()
  newest, newest_encoder = dict[str, str](), dict[str, str]()  # path of the last task of each model
  versions = functools.cache(tree.versions)  # one access for each model, since the tree may be remote
  for number, catalog in enumerate(catalogs):
    releases: list[spec.Release] = [
      catalog.preprocessor(model, int(version))
      for model, version in (name.split('/') for name in catalog.preprocessors)
    ]
    releases += [catalog.encoder(model, version) for model in catalog.encoders for version in catalog.versions(model)]
    for release in releases:  # versions of a model are in ascending order
      text = (
        catalog.text(release)
        if with_text and isinstance(release, spec.EncoderRelease) and release.interface == 'dict'
        else None
      )
      paths = [r.path for r in (release, text) if r is not None]
      if twice := seen.intersection(paths):
        raise errors.UsageError(f'{min(twice)}: in two catalogs; give each model and publisher once')
      seen.update(paths)
      if (
        text is not None
        and release.version not in versions(release.model)
        and text.version <= max(versions(text.model), default=0)
      ):
        text = None  # published, or below a published version
      missing = next((r for r in (release, text) if r is not None and r.version not in versions(r.model)), None)
      if missing is None:
        continue
      published = versions(missing.model)
      if not catalog.source(release.name):
        left_out[missing.path] = 'no source in the catalog'
      elif published and missing.version < max(published):
        left_out[missing.path] = f'lower than the published version {max(published)}'
      else:
        # A failed text model of a published encoder does not stop the next encoder.
        below = [newest_encoder[release.model]] if missing is release and release.model in newest_encoder else []
        needs = (*below, *([release.preprocessor.path] if isinstance(release, spec.EncoderRelease) else []))
        before = [newest[release.model]] if release.model in newest else []
        makes = tuple(r.path for r in (release, text) if r is not None)
        tasks[missing.path] = Task(
          missing.path, _arguments(release, text), number, tuple(dict.fromkeys((*before, *needs))), needs, makes
        )
        newest[release.model] = missing.path
        if missing is release:
          newest_encoder[release.model] = missing.path
  for task in tasks.values():  # an encoder's export also makes its preprocessor, even a lower version
    for companion in task.after:
      left_out.pop(companion, None)
  # Dependencies without a task are dropped.
  return Plan(
    tuple(
      _levels(
        {
          path: dataclasses.replace(
            task,
            after=tuple(filter(tasks.__contains__, task.after)),
            needs=tuple(filter(tasks.__contains__, task.needs)),
          )
          for path, task in tasks.items()
        }
      )
    ),
    left_out,
  )


def _arguments(release: spec.Release, text: spec.TextRelease | None) -> tuple[str, ...]:
  """Returns the arguments of `python -m export` for a release and its optional text model."""
  # Breaking changes were reviewed with the catalog.
  breaking = ('--breaking',) if any(r is not None and r.version in r.breaking for r in (release, text)) else ()
  with_text = ('--with_text',) if text is not None else ()
  return (f'--model={release.name}', f'--version={release.version}', *breaking, *with_text)


def _levels(tasks: Mapping[str, Task]) -> Iterator[tuple[Task, ...]]:
  level = dict[str, int]()

  def of(path: str) -> int:
    if path not in level:
      level[path] = max((of(before) + 1 for before in tasks[path].after), default=0)
    return level[path]

  for _, group in itertools.groupby(sorted(tasks, key=of), key=of):
    yield tuple(tasks[path] for path in group)
