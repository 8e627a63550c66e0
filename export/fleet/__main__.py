"""Exports every unpublished version of a catalog on Apache Beam.

  python -m export.fleet --catalog=assets/catalog.yaml --export_root=dist
  python -m export.fleet --export_root=gs://bucket/models --runner=FlinkRunner --flink_master=host:8081
  --environment_type=LOOPBACK

Each release is made in a subprocess, with the same bytes as by `python -m export`. Preprocessors come before their
encoders, and lower versions before higher ones; other releases run in parallel. A failed release only stops releases
that depend on it. Another run makes only the missing releases. Flags that --help does not list are Beam's.
"""

import contextlib
import itertools
import os
import pathlib
import tempfile
import uuid
from collections.abc import Collection
from collections.abc import Iterator
from multiprocessing import util

from absl import flags

from converters import cli
from converters import errors
from converters import source as source_lib
from converters import source_flags
from export.beam import runner as beam_runner
from export.fleet import plan as plan_lib
from export.release import catalog as catalog_lib
from export.release import collection
from export.release import signature
from export.source import policy_flags
from export.store import tree as tree_lib
from export.ui import console as console_lib

for _module in (source_flags, policy_flags):
  flags.adopt_module_key_flags(_module)  # so that --help shows them
_CATALOG = flags.DEFINE_multi_string(
  'catalog',
  [str(catalog_lib.PATH)],
  'Catalog of models, versions and their sources. Repeat the flag for several catalogs, for example one per publisher.',
)
_EXPORT_ROOT = flags.DEFINE_string(
  'export_root',
  'dist',
  'Root of the release tree: a directory or an address that tf.io.gfile supports, which every worker can reach.',
)
_SIGN_KEY = flags.DEFINE_string(
  'sign_key', None, 'File with an elliptic curve private key in PEM, to sign with. Every worker needs it at this path.'
)
_WITH_TEXT = flags.DEFINE_bool(
  'with_text',
  False,
  'Publish a text model for every encoder with the dict interface, also for published encoders.',
)
_RETRIES = flags.DEFINE_integer(
  'retries', 2, 'Number of retries of a failed release, in addition to the retries of the runner.', lower_bound=0
)
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Print the planned releases, and write nothing.')
_GROUPS = {
  'Most need': ('catalog', 'export_root', 'dry_run'),
  'What is published': ('with_text', 'sign_key', 'retries'),
  **source_flags.GROUPS,
  **policy_flags.GROUPS,
}

# A socket's path has at most 107 bytes (unix(7)). The directory `/pymp-12345678` and the file `/listener-12345678` are
# appended.
_LONGEST_TEMPORARY = 107 - 14 - 18
_POLL_SECONDS = 2.0  # interval between updates of the progress bar


def main() -> None:
  """Plans and makes the missing releases of the catalogs."""
  if not _EXPORT_ROOT.value:
    raise errors.UsageError('--export_root=: empty; give a directory')
  if not all(_CATALOG.value):
    raise errors.UsageError('--catalog=: empty; give a file')
  if _SIGN_KEY.value is not None:
    signature.check_private_key(pathlib.Path(_SIGN_KEY.value))
  source_flags.reading()  # reports invalid flags once, and not for each release
  options = beam_runner.options()
  catalogs = [catalog_lib.Catalog(path) for path in _CATALOG.value]
  tree = tree_lib.at(_EXPORT_ROOT.value)
  plan = plan_lib.make(catalogs, tree, _WITH_TEXT.value)
  console = console_lib.Console()
  tasks = list(itertools.chain.from_iterable(plan.levels))
  for path, why in plan.left_out.items():
    console.line(f'Left out: {path}: {why}')
  if not tasks:
    console.line('All other versions are published.' if plan.left_out else 'All versions are published.')
    return
  sources = {catalogs[task.catalog].source(task.arguments[0].removeprefix('--model=')) for task in tasks}
  if len(sources) > 1 and flags.FLAGS['source_sha256'].present:
    raise errors.UsageError(
      f'--source_sha256: the missing releases have {len(sources)} sources (a digest is of one source); leave the flag '
      'out, or make each release with python -m export'
    )
  if _DRY_RUN.value:
    for number, level in enumerate(plan.levels, start=1):
      console.facts(
        f'Step {number}, in parallel',
        [[task.path, f'after {", ".join(task.after)}' if task.after else ''] for task in level],
      )
    console.line('\nDry run: nothing was written.')
    return
  _check_sources(sources)
  _check_temporary_directory()
  # These import Beam.
  from export.fleet import own_process
  from export.fleet import pipeline

  job = pipeline.Job(tree.root, tuple(catalog.yaml for catalog in catalogs), _common_flags(), _RETRIES.value)
  util.get_temp_dir()  # made here, since multiprocessing removes it only at exit, after own_temporary_files is gone
  with beam_runner.own_temporary_files(), _outcomes_path(tree) as result:
    try:
      with (
        console.step(f'release {len(tasks)} versions', total=len(tasks)) as advance,
        _polled_progress(tree, tasks, advance),
      ):
        beam_runner.run(lambda p: pipeline.build(job, plan.levels, result, p), options)
      outcomes = pipeline.read(result)
    except KeyboardInterrupt:
      raise errors.RunError('fleet: interrupted (published releases are complete); run it again for the rest') from None
    finally:
      own_process.end_all()
  for catalog in catalogs:  # on remote trees, exports in parallel may have overwritten it
    if any(model.startswith(f'{catalog.publisher}/') for model in tree.models()):
      collection.renew(tree, catalog.publisher, catalog.collection, console)
  _report(console, tasks, outcomes)


def _check_sources(sources: Collection[str | None]) -> None:
  """Raises the fault of the sources, if all of them have the same one: no connection, mostly."""
  faults = {}
  for source in sources:
    try:
      source_lib.check_handle(source or '')
      return
    except errors.SourceError as e:
      faults[str(e)] = e
  if len(faults) == 1:
    raise next(iter(faults.values()))


def _check_temporary_directory() -> None:
  """Checks that the address of multiprocessing's socket fits below the temporary directory.

  Raises:
    RunError: the path of the temporary directory is too long.
  """
  path = tempfile.gettempdir()
  if len(os.fsencode(path)) > _LONGEST_TEMPORARY:
    raise errors.RunError(
      f'TMPDIR={path}: the path is too long for a socket ({len(os.fsencode(path))} bytes, at most '
      f'{_LONGEST_TEMPORARY}); give a shorter TMPDIR'
    )


def _common_flags() -> tuple[str, ...]:
  """Returns the given flags of this command that are passed to `python -m export` for every release."""
  names = [
    flag.name for module in (source_flags, policy_flags) for flag in flags.FLAGS.flags_by_module_dict()[module.__name__]
  ]
  return tuple(flags.FLAGS[name].serialize() for name in (*names, 'sign_key') if flags.FLAGS[name].present)


@contextlib.contextmanager
def _outcomes_path(tree: tree_lib.Tree) -> Iterator[str]:
  """Yields a path for the outcomes in the tree, which all workers reach, and removes the file at the end."""
  if '://' not in tree.root:
    with tree.staging() as directory:
      yield str(directory / 'outcomes.json')
    return
  from export.beam import filesystems  # imports Beam

  path = f'{tree.root}/.outcomes-{uuid.uuid4().hex}.json'
  try:
    yield path
  finally:
    filesystems.remove(path)


@contextlib.contextmanager
def _polled_progress(tree: tree_lib.Tree, tasks: list[plan_lib.Task], advance: console_lib.Advance) -> Iterator[None]:
  """Advances the progress bar while the context is open, by the published releases: this works with any runner."""
  waiting = {task.path for task in tasks}

  def look() -> None:
    with contextlib.suppress(errors.AlbertHubError):  # the next update retries
      for path in sorted(waiting):
        if tree_lib.holds(tree, path):
          waiting.remove(path)
          advance(1)

  with beam_runner.looking(look, _POLL_SECONDS):
    yield


def _report(console: console_lib.Console, tasks: list[plan_lib.Task], outcomes: list) -> None:
  order = {task.path: number for number, task in enumerate(tasks)}
  outcomes.sort(key=lambda outcome: order[outcome.path])
  failed = [outcome for outcome in outcomes if not outcome.published]
  console.table(
    'Releases',
    ['path', 'tries', 'time', 'outcome'],
    [
      [
        outcome.path,
        str(outcome.tries),
        f'{outcome.seconds:.1f} s',
        'published' if outcome.published else 'FAILED' if outcome.tries else 'not tried',
      ]
      for outcome in outcomes
    ],
  )
  if failed:
    causes = dict[str, list[str]]()
    for outcome in failed:
      causes.setdefault(outcome.why, []).append(outcome.path)
    console.facts('Not published', [(', '.join(paths), why) for why, paths in causes.items()])
    raise errors.PublishError(
      f'{len(failed)} of {len(outcomes)} releases: not published ({", ".join(o.path for o in failed)}); correct the '
      'causes above and run it again, which keeps published releases'
    )


if __name__ == '__main__':
  cli.run(main, _GROUPS, others=True)
