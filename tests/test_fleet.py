"""A fleet release equals single releases, isolates failures, and leaves no partial release."""

import collections
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time

import pytest
from support import commands
from support import trees

from converters import errors
from export.beam import runner as beam_runner
from export.fleet import __main__ as fleet_main
from export.fleet import own_process
from export.fleet import pipeline
from export.fleet import plan as plan_lib
from export.release import catalog as catalog_lib
from export.store import tree as tree_lib
from export.ui import console as console_lib

_HEAD = '''publisher: acme
collection: {name: small, title: Small models., language: en}
'''


def _write(path, encoders: dict[str, dict], preprocessors: int = 1, publisher: str = 'acme'):
  """Writes a catalog, given each encoder's source and its preprocessor's version for every version.

  Version 1 has the list interface, and version 2 breaks it.
  """
  made = {
    name: {
      'language': 'en',
      'versions': {
        number: {
          'interface': 'list' if number == 1 and len(companions) > 1 else 'dict',
          'preprocessor': f'prep/{companion}',
          'changes': ['Changed.'],
          'breaking': number == 2,
        }
        for number, companion in enumerate(companions, start=1)
      },
    }
    | ({'source': str(source)} if source else {})
    for name, (source, companions) in encoders.items()
  }
  content = {
    'encoders': made,
    'preprocessors': {
      'prep': {
        'language': 'en',
        'versions': {number: {'changes': ['Changed.']} for number in range(1, preprocessors + 1)},
      }
    },
  }
  text = ''.join(f'{key}: {json.dumps(value)}\n' for key, value in content.items())
  path.write_text(_HEAD.replace('acme', publisher) + re.sub(r'"(\d+)":', r'\1:', text))
  return path


def _levels(*catalogs, root, **more):
  plan = plan_lib.make([catalog_lib.Catalog(path) for path in catalogs], tree_lib.at(root), **more)
  return [[task.path for task in level] for level in plan.levels], plan


def test_what_is_named_comes_before_what_names_it_and_lower_versions_before_higher_ones(tmp_path):
  catalog = _write(tmp_path / 'catalog.yaml', {'one': ('one', [1, 1, 2]), 'two': ('two', [2])}, preprocessors=2)
  levels, plan = _levels(catalog, root=tmp_path / 'dist')
  assert levels == [['acme/prep/1'], ['acme/prep/2', 'acme/one/1'], ['acme/one/2', 'acme/two/1'], ['acme/one/3']]
  tasks = {task.path: task for level in plan.levels for task in level}
  assert tasks['acme/one/3'].after == ('acme/one/2', 'acme/prep/2')
  assert [path for path, task in tasks.items() if '--breaking' in task.arguments] == ['acme/one/2']
  assert tasks['acme/two/1'].arguments == ('--model=two', '--version=1') and not plan.left_out


def test_a_model_of_both_is_made_where_there_can_be_one_and_follows_its_encoder(tmp_path):
  catalog = _write(
    tmp_path / 'catalog.yaml', {'one': ('m', [1, 1, 2, 3]), 'two': ('m', [1]), 'none': (None, [1])}, preprocessors=3
  )
  catalog.write_text(catalog.read_text().replace('3: {"changes"', '3: {"breaking": true, "changes"'))
  levels, plan = _levels(catalog, root=tmp_path / 'dist', with_text=True)
  tasks = {task.path: task.arguments for level in plan.levels for task in level}
  assert {path for path, arguments in tasks.items() if '--with_text' in arguments} == {
    'acme/one/2',
    'acme/one/3',
    'acme/one/4',
    'acme/two/1',
  }
  assert tasks['acme/one/3'] == ('--model=one', '--version=3', '--with_text')
  assert tasks['acme/one/4'] == ('--model=one', '--version=4', '--breaking', '--with_text')  # since its ids are others

  for path in ('prep/1', 'prep/2', 'one/1', 'one/2', 'one/3', 'two/1', 'two_text/1', 'none/1'):
    (tmp_path / 'dist' / 'acme' / path).mkdir(parents=True)
  levels, plan = _levels(catalog, root=tmp_path / 'dist', with_text=True)
  assert levels == [['acme/prep/3', 'acme/one_text/2'], ['acme/one_text/3'], ['acme/one/4']]
  assert plan.left_out == {'acme/none_text/1': 'no source in the catalog'}
  tasks = {task.path: task for level in plan.levels for task in level}
  assert tasks['acme/one/4'].needs == ('acme/prep/3',) and tasks['acme/one/4'].makes == (
    'acme/one/4',
    'acme/one_text/4',
  )
  assert {task.path: task.arguments for level in plan.levels for task in level}['acme/one_text/3'] == (
    '--model=one',
    '--version=3',
    '--with_text',
  )
  (tmp_path / 'dist/acme/one_text/3').mkdir(parents=True)
  levels, plan = _levels(catalog, root=tmp_path / 'dist', with_text=True)
  assert (
    levels == [['acme/prep/3'], ['acme/one/4']]
    and plan.left_out['acme/one_text/2'] == 'lower than the published version 3'
  )
  assert _levels(catalog, root=tmp_path / 'dist')[0] == levels


def test_a_preprocessor_is_made_from_the_first_source_of_an_encoder_that_names_it(tmp_path):
  catalog = _write(tmp_path / 'catalog.yaml', {'none': (None, [1]), 'one': ('m', [1]), 'two': ('n', [1])})
  assert catalog_lib.Catalog(catalog).source('prep') == 'm'
  levels, plan = _levels(catalog, root=tmp_path / 'dist')
  assert levels == [['acme/prep/1'], ['acme/one/1', 'acme/two/1']] and plan.left_out.keys() == {'acme/none/1'}


def test_a_text_model_of_a_name_that_there_is_is_refused(tmp_path):
  one = _write(tmp_path / 'one.yaml', {'one': ('m', [1])})
  other = _write(tmp_path / 'other.yaml', {'one_text': ('m', [1])})
  other.write_text(other.read_text().replace('"prep/', '"elsewhere/').replace('"prep"', '"elsewhere"'))
  for catalogs in ((one, other), (other, one)):
    with pytest.raises(errors.UsageError, match='acme/one_text/1: in two catalogs'):
      _levels(*catalogs, root=tmp_path / 'dist', with_text=True)


def test_a_text_model_that_is_there_already_does_not_keep_its_encoder_away(tmp_path):
  catalog = _write(tmp_path / 'catalog.yaml', {'one': ('m', [1])})
  (tmp_path / 'dist/acme/one_text/1').mkdir(parents=True)
  _, plan = _levels(catalog, root=tmp_path / 'dist', with_text=True)
  assert [task.arguments for task in plan.levels[1]] == [('--model=one', '--version=1')]


def test_what_an_encoder_brings_is_not_left_out(tmp_path):
  catalog = _write(tmp_path / 'catalog.yaml', {'one': ('one', [1])}, preprocessors=2)
  (tmp_path / 'dist' / 'acme' / 'prep' / '2').mkdir(parents=True)
  levels, plan = _levels(catalog, root=tmp_path / 'dist')
  assert levels == [['acme/one/1']] and not plan.left_out


def test_what_is_published_is_not_made_again_and_nothing_goes_back(tmp_path):
  catalog = _write(
    tmp_path / 'catalog.yaml', {'one': ('one', [1, 1, 2]), 'two': ('two', [2]), 'none': (None, [1])}, preprocessors=2
  )
  for path in ('prep/1', 'prep/2', 'one/2'):
    (tmp_path / 'dist' / 'acme' / path).mkdir(parents=True)
  levels, plan = _levels(catalog, root=tmp_path / 'dist')
  assert levels == [['acme/one/3', 'acme/two/1']]
  assert plan.left_out == {
    'acme/one/1': 'lower than the published version 2',
    'acme/none/1': 'no source in the catalog',
  }


def test_several_publishers(tmp_path):
  catalogs = [_write(tmp_path / f'{name}.yaml', {'one': ('one', [1])}, publisher=name) for name in ('acme', 'umbrella')]
  levels, plan = _levels(*catalogs, root=tmp_path / 'dist')
  assert levels == [['acme/prep/1', 'umbrella/prep/1'], ['acme/one/1', 'umbrella/one/1']]
  assert {task.path: task.catalog for level in plan.levels for task in level}['umbrella/one/1'] == 1
  with pytest.raises(errors.UsageError, match='acme/prep/1: in two catalogs'):
    _levels(catalogs[0], catalogs[0], root=tmp_path / 'dist')


def test_a_catalog_anywhere(tmp_path):
  import tensorflow as tf

  path = 'ram://fleet/catalog.yaml'
  with tf.io.gfile.GFile(path, 'w') as file:
    file.write(_write(tmp_path / 'catalog.yaml', {'one': ('one', [1])}).read_text())
  assert _levels(path, root='ram://fleet/dist')[0] == [['acme/prep/1'], ['acme/one/1']]
  with pytest.raises(errors.CatalogError, match='ram://fleet/none.yaml: cannot be read'):
    catalog_lib.Catalog('ram://fleet/none.yaml')


@pytest.fixture
def run_pipeline(tmp_path, monkeypatch):
  """Runs a plan with a fake for its processes: a function from arguments to exit status and output."""
  monkeypatch.setattr(pipeline, '_FIRST_WAIT_SECONDS', 0.01)

  def run(catalog, release, retries=0, **more):
    monkeypatch.setattr(own_process, 'run', lambda arguments, catalog: release(list(arguments)))
    _, plan = _levels(catalog, root=tmp_path / 'dist', **more)
    job = pipeline.Job(str(tmp_path / 'dist'), (catalog.read_text(),), ('--trust_source',), retries)
    beam_runner.run(
      lambda p: pipeline.build(job, plan.levels, str(tmp_path / 'outcomes.json'), p), beam_runner.options()
    )
    return {outcome.path: outcome for outcome in pipeline.read(str(tmp_path / 'outcomes.json'))}

  return run


def test_what_fails_is_tried_again_and_stops_only_what_needs_it(run_pipeline, tmp_path):
  asked = []

  def release(arguments):
    asked.append(arguments)
    name = arguments[0].removeprefix('--model=')
    if name == 'bad':
      return 1, 'some warning\nerror: the weights in m are gone: fetch them\n'
    if name == 'wrong':
      return 2, 'error: --model=wrong: give another\n'
    if name == 'killed':
      return -9, ''
    if name == 'late' and sum(a[0] == '--model=late' for a in asked) < 3:
      return 1, 'error: the host is away\n'
    return 0, ''

  catalog = _write(
    tmp_path / 'catalog.yaml', {name: ('m', [1, 1]) for name in ('good', 'bad', 'wrong', 'killed', 'late')}
  )
  outcomes = run_pipeline(catalog, release, retries=2)
  assert {path: (outcome.published, outcome.tries, outcome.why) for path, outcome in outcomes.items()} == {
    'acme/prep/1': (True, 1, ''),
    **{f'acme/good/{v}': (True, 1, '') for v in (1, 2)},
    'acme/bad/1': (False, 3, 'the weights in m are gone: fetch them'),
    'acme/bad/2': (False, 0, 'not tried: acme/bad/1 is not published'),
    'acme/wrong/1': (False, 1, '--model=wrong: give another'),
    'acme/wrong/2': (False, 0, 'not tried: acme/wrong/1 is not published'),
    'acme/killed/1': (False, 3, 'the subprocess was ended by signal 9'),
    'acme/killed/2': (False, 0, 'not tried: acme/killed/1 is not published'),
    'acme/late/1': (True, 3, ''),
    'acme/late/2': (True, 1, ''),
  }
  assert ['--model=good', '--version=2', '--breaking', f'--export_root={tmp_path}/dist', '--trust_source'] in asked


def test_half_of_a_release_is_not_the_whole_of_it(run_pipeline, tmp_path):
  """A worker died between publishing an encoder and its text model."""
  made = iter(['one', 'one_text'])

  def release(arguments):
    assert '--with_text' in arguments
    (tmp_path / 'dist' / 'acme' / next(made) / '1').mkdir(parents=True)
    return (-9, '') if not (tmp_path / 'dist/acme/one_text').exists() else (0, '')

  catalog = _write(tmp_path / 'catalog.yaml', {'one': ('m', [1])})
  (tmp_path / 'dist' / 'acme' / 'prep' / '1').mkdir(parents=True)
  outcome = run_pipeline(catalog, release, retries=1, with_text=True)['acme/one/1']
  assert (outcome.published, outcome.tries) == (True, 2)


def test_what_a_published_encoders_text_model_fails_of_does_not_stop_the_next_encoder(run_pipeline, tmp_path):
  catalog = _write(tmp_path / 'catalog.yaml', {'one': ('m', [1, 1, 1])})
  for path in ('prep/1', 'one/1', 'one/2'):
    (tmp_path / 'dist/acme' / path).mkdir(parents=True)
  outcomes = run_pipeline(
    catalog, lambda arguments: (1, 'error: other bytes') if '--version=2' in arguments else (0, ''), with_text=True
  )
  assert {path: outcome.published for path, outcome in outcomes.items()} == {
    'acme/one_text/2': False,
    'acme/one/3': True,
  }


def test_an_element_that_is_handed_out_again_is_not_released_again(run_pipeline, tmp_path):
  def release(arguments):
    (tmp_path / 'dist' / 'acme' / 'one' / '1').mkdir(parents=True)  # a worker died after it had published
    return 1, 'error: acme/one/1 exists\n'

  catalog = _write(tmp_path / 'catalog.yaml', {'one': ('m', [1])})
  (tmp_path / 'dist' / 'acme' / 'prep' / '1').mkdir(parents=True)
  outcome = run_pipeline(catalog, release, retries=1)['acme/one/1']
  assert (outcome.published, outcome.tries) == (True, 1)


@pytest.fixture
def fleet(python_module, tmp_path):
  def run(*flags):
    return commands.run(python_module('export.fleet', *flags), cwd=tmp_path)

  return run


@pytest.mark.slow
def test_it_is_what_the_single_commands_give(fleet, python_module, module, own_module, tmp_path):
  catalog = _write(
    tmp_path / 'catalog.yaml',
    {'one': (module, [1, 2]), 'cut': (own_module, [2]), 'other': (None, [1])},
    preprocessors=2,
  )
  data = own_module / 'variables/variables.data-00000-of-00001'
  whole = data.read_bytes()
  data.write_bytes(whole[:-40])
  flags = (f'--catalog={catalog}', '--export_root=fleet', '--retries=0', '--direct_num_workers=2')

  plan = fleet(*flags, '--dry_run')
  assert plan.returncode == 0 and plan.stderr == '' and not (tmp_path / 'fleet').exists()
  assert (
    'Step 1, in parallel\n  acme/prep/1' in plan.stdout
    and 'Left out: acme/other/1: no source in the catalog' in plan.stdout
  )

  commands.fails(
    fleet(*flags, f'--source_sha256={"0" * 64}'),
    2,
    '--source_sha256: the missing releases have 2 sources',
  )

  process = fleet(*flags)
  commands.fails(process, 1, '1 of 5 releases: not published (acme/cut/1)', 'run it again')
  output = ' '.join(process.stdout.split())
  assert 'acme/one/2 1 ' in output and 'published' in output and 'acme/cut/1 1 ' in output and 'FAILED' in output
  assert 'Not published' in output and f'{own_module}/variables: tensor ' in output and 'extends past the end' in output
  assert sorted(os.listdir(tmp_path / 'fleet')) == ['acme']

  before = trees.tree_bytes(tmp_path / 'fleet')
  data.write_bytes(whole)
  again = fleet(*flags)
  assert again.returncode == 0 and again.stderr == '' and 'release 1 versions' in again.stdout
  after = trees.tree_bytes(tmp_path / 'fleet')
  collection = 'acme/collections/small/1.md'
  assert {name: after[name] for name in before if name != collection} == {
    name: value for name, value in before.items() if name != collection
  }
  assert fleet(*flags).stdout.endswith('All other versions are published.\n')

  for words in (['prep', 1], ['prep', 2], ['one', 1], ['one', 2, '--breaking'], ['cut', 1]):
    single = commands.run(
      python_module(
        'export',
        f'--model={words[0]}',
        f'--version={words[1]}',
        *words[2:],
        f'--catalog={catalog}',
        '--export_root=single',
      ),
      cwd=tmp_path,
    )
    assert single.returncode == 0, single.stderr
  assert trees.tree_bytes(tmp_path / 'single') == after


def test_a_missing_connection_is_told_once(fleet, tmp_path, monkeypatch):
  (tmp_path / 'cache').mkdir()
  monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path / 'cache'))
  models = {f'model_{number}': (f'https://nohost.invalid/model/{number}', [1, 1]) for number in range(3)}
  process = fleet(f'--catalog={_write(tmp_path / "catalog.yaml", models)}')
  commands.fails(process, 1, 'https://nohost.invalid: host not found, or no connection')
  assert process.stdout == '' and not (tmp_path / 'dist').exists()


def test_a_cause_is_told_once_for_all_releases_that_it_stops(capsys):
  task = collections.namedtuple('Task', 'path')
  outcomes = [pipeline.Outcome(f'acme/{name}/1', False, 1.0, 1, why) for name, why in ('ax', 'by', 'cx')]
  with pytest.raises(errors.PublishError, match=r'3 of 3 releases: not published \(acme/a/1, acme/b/1, acme/c/1\)'):
    fleet_main._report(console_lib.Console(), [task(outcome.path) for outcome in outcomes], outcomes)
  told = [line.split() for line in capsys.readouterr().out.partition('Not published')[2].splitlines()]
  assert told == [[], ['acme/a/1,', 'acme/c/1', 'x'], ['acme/b/1', 'y']]


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--catalog=none.yaml'], (1, 'none.yaml: cannot be read')),
    (['--export_root='], (2, '--export_root=: empty')),
    (['--catalog='], (2, '--catalog=: empty')),
    (['--direct_num_workers=-1'], (2, '--direct_num_workers=-1')),
    (['--source_sha256=12'], (2, '--source_sha256=12')),
    (['--frobnicate'], (2, '--frobnicate: unknown flag')),
    (['--sign_key=none.pem'], (2, 'none.pem')),
  ],
)
def test_what_cannot_be_meant(fleet, flags, words, tmp_path):
  commands.fails(fleet(*flags), *words)
  assert not (tmp_path / 'dist').exists()


@pytest.fixture
def short_path():
  """A temporary directory with a path short enough for a socket's address."""
  with tempfile.TemporaryDirectory(dir='/tmp') as path:
    yield pathlib.Path(path)


def test_a_temporary_directory_that_is_too_long_for_a_socket_is_refused(python_module, module, tmp_path):
  catalog = _write(tmp_path / 'catalog.yaml', {'m': (module, [1])})
  long = tmp_path / ('x' * 80)
  long.mkdir()
  process = commands.run(
    python_module('export.fleet', f'--catalog={catalog}', '--export_root=dist'), cwd=tmp_path, TMPDIR=str(long)
  )
  commands.fails(process, 1, 'too long for a socket', 'give a shorter TMPDIR')
  assert not (tmp_path / 'dist').exists() and not list(long.iterdir())


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.real_processes
@pytest.mark.slow
def test_an_interrupt_leaves_the_tree_whole_and_nobody_running(number, python_module, module, tmp_path, short_path):
  catalog = _write(tmp_path / 'catalog.yaml', {f'm{i}': (module, [1]) for i in range(3)})
  process = subprocess.Popen(
    python_module('export.fleet', f'--catalog={catalog}', '--export_root=dist'),
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': commands.ROOT, 'TMPDIR': str(short_path)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  # Waits until the encoders are made, when the source's graph has its subprocess.
  while not list(short_path.rglob('albert_parity_*')):
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.05)
  process.send_signal(number)
  _, stderr = process.communicate()  # includes its children, which hold the pipe
  assert process.returncode == (1 if number == signal.SIGTERM else -9)
  assert stderr == (
    'error: fleet: interrupted (published releases are complete); run it again for the rest\n'
    if number == signal.SIGTERM
    else ''
  )
  root = tmp_path / 'dist'
  tree = tree_lib.at(root)
  assert tree.models() == ['acme/prep'] and len(tree.beside('acme/prep/1')) == 3  # the running releases were killed
  if number == signal.SIGTERM:
    assert os.listdir(root) == ['acme'] and os.listdir(short_path) == []
