"""What of a catalog is to be released, and what has to be there before."""

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
    path: 'tensorflow/albert_en_large/2'; of a model from text to vectors, if its encoder is published already.
    arguments: what to give `python -m export` for it, but for what all releases have in common.
    catalog: number of the catalog that it is in.
    after: what is tried before: the version below it, and its preprocessor.
    needs: those of them without which it is not made.
    makes: all that it publishes, beside the preprocessor.
  """

  path: str
  arguments: tuple[str, ...]
  catalog: int = 0
  after: tuple[str, ...] = ()
  needs: tuple[str, ...] = ()
  makes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is to be done.

  Attributes:
    levels: the releases, such that what has to be there before one is in a level before its own. Those of one level
      have nothing to
      do with each other.
    left_out: by path, why a version of the catalog that is not published is not going to be.
  """

  levels: tuple[tuple[Task, ...], ...]
  left_out: Mapping[str, str]


def make(catalogs: Iterable[catalog_lib.Catalog], tree: tree_lib.Tree, with_text: bool = False) -> Plan:
  """Plans what of catalogs is missing in a tree.

  Args:
    catalogs: of different models.
    tree: where it is missing.
    with_text: whether every encoder that takes dicts is to have a model from text to vectors.

  Raises:
    UsageError: two catalogs hold the same release, or one holds a model of the name that another's text model has.
  """
  tasks, left_out, seen = dict[str, Task](), dict[str, str](), set[str]()
  newest, newest_encoder = dict[str, str](), dict[str, str]()  # task of each model so far
  versions = functools.cache(tree.versions)  # of a model, and not of each of its versions: the tree may be far away
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
        raise errors.UsageError(f'{min(twice)} is in two of the catalogs: give each model and publisher once')
      seen.update(paths)
      if (
        text is not None
        and release.version not in versions(release.model)
        and text.version <= max(versions(text.model), default=0)
      ):
        text = None  # it is there, or cannot come any more
      missing = next((r for r in (release, text) if r is not None and r.version not in versions(r.model)), None)
      if missing is None:
        continue
      published = versions(missing.model)
      if not catalog.source(release.name):
        left_out[missing.path] = 'the catalog has no source for it'
      elif published and missing.version < max(published):
        left_out[missing.path] = f'version {max(published)} is published, and versions never go back'
      else:
        # What a published encoder's text model fails of need not trouble the next encoder.
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
  for task in tasks.values():  # an encoder brings the preprocessor that it names, also one below what is published
    for companion in task.after:
      left_out.pop(companion, None)
  # Nothing comes after what is not going to be made.
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
  """What to give `python -m export` for a release, and for its model from text to vectors if there is to be one."""
  # That a version breaks with the one before was reviewed with the catalog.
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
