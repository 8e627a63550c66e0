"""What of a catalog is to be released, and what has to be there before."""

import dataclasses
import functools
import itertools
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping

from converters import errors
from export import catalog as catalog_lib
from export import tree as tree_lib


@dataclasses.dataclass(frozen=True)
class Task:
  """One release to make.

  Attributes:
    path: 'tensorflow/albert_en_large/2'.
    arguments: what to give `python -m export` for it, but for what all releases have in common.
    catalog: number of the catalog that it is in.
    after: the releases without which it is not made: the version below it, and its preprocessor.
    has_text: whether there can be a model from text to vectors of it: it is an encoder that takes dicts.
  """
  path: str
  arguments: tuple[str, ...]
  catalog: int = 0
  after: tuple[str, ...] = ()
  has_text: bool = False


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is to be done.

  Attributes:
    levels: the releases, such that what has to be there before one is in a level before its own. Those of one level have nothing to
      do with each other.
    left_out: by path, why a version of the catalog that is not published is not going to be.
  """
  levels: tuple[tuple[Task, ...], ...]
  left_out: Mapping[str, str]


def make(catalogs: Iterable[catalog_lib.Catalog], tree: tree_lib.Tree) -> Plan:
  """Plans what of catalogs is missing in a tree.

  Raises:
    UsageError: two catalogs hold the same release.
  """
  tasks, left_out = dict[str, Task](), dict[str, str]()
  versions = functools.cache(tree.versions)  # of a model, and not of each of its versions: the tree may be far away
  for number, catalog in enumerate(catalogs):
    releases: list[catalog_lib.Release] = [catalog.preprocessor(model, int(version))
                                           for model, version in (name.split('/') for name in catalog.preprocessors)]
    releases += [catalog.encoder(model, version) for model in catalog.encoders for version in catalog.versions(model)]
    for release in releases:
      if release.path in tasks:
        raise errors.UsageError(f'{release.path} is in two of the catalogs: give each model and publisher once')
      published = versions(release.model)
      if release.version in published:
        continue
      if not catalog.source(release.name):
        left_out[release.path] = 'the catalog has no source for it'
      elif published and release.version < max(published):
        left_out[release.path] = f'version {max(published)} is published, and versions never go back'
      else:
        tasks[release.path] = _task(release, number)
  for task in tasks.values():  # an encoder brings the preprocessor that it names, also one below what is published
    for companion in task.after:
      left_out.pop(companion, None)
  return Plan(tuple(_levels(_chained(tasks))), left_out)


def _task(release: catalog_lib.Release, catalog: int) -> Task:
  # That a version breaks with the one before was reviewed with the catalog.
  breaking = ('--breaking',) if release.version in release.breaking else ()
  encoder = release if isinstance(release, catalog_lib.EncoderRelease) else None
  return Task(release.path, (f'--model={release.name}', f'--version={release.version}', *breaking), catalog,
              (encoder.preprocessor.path,) if encoder else (), encoder is not None and encoder.interface == 'dict')


def _chained(tasks: Mapping[str, Task]) -> dict[str, Task]:
  """Every version after the one below it, too; and nothing after what is not going to be made."""
  result, newest = dict[str, Task](), dict[str, str]()
  for path, task in tasks.items():  # versions of a model are in ascending order
    model = path.rpartition('/')[0]
    after = ([newest[model]] if model in newest else []) + [before for before in task.after if before in tasks]
    result[path] = dataclasses.replace(task, after=tuple(after))
    newest[model] = path
  return result


def _levels(tasks: Mapping[str, Task]) -> Iterator[tuple[Task, ...]]:
  level = dict[str, int]()

  def of(path: str) -> int:
    if path not in level:
      level[path] = max((of(before) + 1 for before in tasks[path].after), default=0)
    return level[path]

  for _, group in itertools.groupby(sorted(tasks, key=of), key=of):
    yield tuple(tasks[path] for path in group)
