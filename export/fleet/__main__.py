"""Releases every version of a catalog that is not published yet, on Apache Beam.

  python -m export.fleet --catalog=assets/catalog.yaml --export_root=dist
  python -m export.fleet --export_root=gs://bucket/models --runner=FlinkRunner --flink_master=host:8081
  --environment_type=LOOPBACK

Each release is what `python -m export` makes of it, byte for byte, in a process of its own: preprocessors before the
encoders that name them, lower versions before higher ones, and besides that side by side. One that fails stops only
what needs it. Run again, it does only what is missing. Flags that are not listed by --help are Beam's.
"""

import contextlib
import itertools
import os
import pathlib
import tempfile
import uuid
from collections.abc import Iterator
from multiprocessing import util

from absl import flags

from converters import cli
from converters import errors
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
  'A catalog of models, versions and their sources. Several publishers have one each: give it once for every one.',
)
_EXPORT_ROOT = flags.DEFINE_string(
  'export_root',
  'dist',
  'Root of the release tree, which every worker must reach under this name. A directory, or what tf.io.gfile knows.',
)
_SIGN_KEY = flags.DEFINE_string(
  'sign_key', None, 'A file with an elliptic curve key in PEM, which every worker must have: to sign with.'
)
_WITH_TEXT = flags.DEFINE_bool(
  'with_text',
  False,
  'Publish a model from text to vectors of every encoder that takes dicts, also of those that are published.',
)
_RETRIES = flags.DEFINE_integer(
  'retries', 2, 'How often a release that fails is tried again, beside what the runner does.', lower_bound=0
)
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Say what would be released, and release nothing.')

# An address has 107 bytes (unix(7)), with the directory `/pymp-12345678` and the name `/listener-12345678`.
_LONGEST_TEMPORARY = 107 - 14 - 18
_LOOK_SECONDS = 2.0  # between two looks at what is published


def main() -> None:
  if not _EXPORT_ROOT.value:
    raise errors.UsageError('--export_root= is empty: give a directory')
  if not all(_CATALOG.value):
    raise errors.UsageError('--catalog= is empty: give a file')
  if _SIGN_KEY.value is not None:
    signature.check_private_key(pathlib.Path(_SIGN_KEY.value))
  source_flags.reading()  # so that what is wrong with them is said once
  options = beam_runner.options()
  catalogs = [catalog_lib.Catalog(path) for path in _CATALOG.value]
  tree = tree_lib.at(_EXPORT_ROOT.value)
  plan = plan_lib.make(catalogs, tree, _WITH_TEXT.value)
  console = console_lib.Console()
  tasks = list(itertools.chain.from_iterable(plan.levels))
  for path, why in plan.left_out.items():
    console.line(f'Left out: {path}: {why}')
  if not tasks:
    console.line('Nothing else is missing.' if plan.left_out else 'Nothing is missing.')
    return
  sources = {catalogs[task.catalog].source(task.arguments[0].removeprefix('--model=')) for task in tasks}
  if len(sources) > 1 and flags.FLAGS['source_sha256'].present:
    raise errors.UsageError(
      f'--source_sha256 is of one source, and the releases that are missing have {len(sources)}: leave it out, or make '
      'each with python -m export'
    )
  if _DRY_RUN.value:
    for number, level in enumerate(plan.levels, start=1):
      console.facts(
        f'Step {number}, side by side',
        [[task.path, f'after {", ".join(task.after)}' if task.after else ''] for task in level],
      )
    console.line('\nDry run: nothing was written.')
    return
  _check_temporary_directory()
  # Imports Beam, and is imported by its workers.
  from export.fleet import own_process
  from export.fleet import pipeline

  job = pipeline.Job(tree.root, tuple(catalog.yaml for catalog in catalogs), _passed_on(), _RETRIES.value)
  util.get_temp_dir()  # multiprocessing makes it once, and removes it at the very end: after our own is gone
  with beam_runner.own_temporary_files(), _place(tree) as result:
    try:
      with console.step(f'release {len(tasks)} versions', total=len(tasks)) as advance, _followed(tree, tasks, advance):
        beam_runner.run(lambda p: pipeline.build(job, plan.levels, result, p), options)
      outcomes = pipeline.read(result)
    except KeyboardInterrupt:
      raise errors.RunError('interrupted: what is published is complete, run it again for the rest') from None
    finally:
      own_process.end_all()
  for catalog in catalogs:  # elsewhere than on this machine, two encoders may have written it at the same time
    if any(model.startswith(f'{catalog.publisher}/') for model in tree.models()):
      collection.renew(tree, catalog.publisher, catalog.collection, console)
  _report(console, tasks, outcomes)


def _check_temporary_directory() -> None:
  """Checks that the address of multiprocessing's socket fits below the temporary directory.

  Raises:
    RunError: the path of the temporary directory is too long.
  """
  path = tempfile.gettempdir()
  if len(os.fsencode(path)) > _LONGEST_TEMPORARY:
    raise errors.RunError(
      f'TMPDIR={path}: the path is too long for a socket ({len(os.fsencode(path))} bytes, at most {_LONGEST_TEMPORARY}); '
      'give a shorter TMPDIR'
    )


def _passed_on() -> tuple[str, ...]:
  """What `python -m export` is given besides the release: the flags that both have, as far as they were given here."""
  names = [
    flag.name for module in (source_flags, policy_flags) for flag in flags.FLAGS.flags_by_module_dict()[module.__name__]
  ]
  return tuple(flags.FLAGS[name].serialize() for name in (*names, 'sign_key') if flags.FLAGS[name].present)


@contextlib.contextmanager
def _place(tree: tree_lib.Tree) -> Iterator[str]:
  """Where the outcomes are written, and nothing is left: in the tree, which all workers reach."""
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
def _followed(tree: tree_lib.Tree, tasks: list[plan_lib.Task], advance: console_lib.Advance) -> Iterator[None]:
  """Tells how far it is, whatever runs the pipeline: by what is in the tree."""
  waiting = {task.path for task in tasks}

  def look() -> None:
    with contextlib.suppress(errors.AlbertHubError):  # the place could not be read: the next time, perhaps
      for path in sorted(waiting):
        if tree_lib.holds(tree, path):
          waiting.remove(path)
          advance(1)

  with beam_runner.looking(look, _LOOK_SECONDS):
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
    console.facts('Not published, and why', [(outcome.path, outcome.why) for outcome in failed])
    raise errors.PublishError(
      f'{len(failed)} of {len(outcomes)} releases were not published ({", ".join(o.path for o in failed)}): mend '
      'what the table says, and run it again; what is published is complete, and will be kept'
    )


if __name__ == '__main__':
  cli.run(main, others=True)
