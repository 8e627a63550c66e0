"""Entries 40 to 46: runs that collide, die, or have invalid requests."""

import json
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support import commands
from support import craft
from support import modules
from support import trees

from converters import errors
from export import record as record_lib
from export import spec
from export.release import integrity
from export.source import policy as source_policy
from export.store import publish
from export.validation import exported_encoder
from export.validation import golden_file

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
ENCODER = 'tensorflow/albert_en_tiny'


def _whole(root: pathlib.Path) -> list[str]:
  """Checks that every version in a tree is complete, and returns them."""
  found = [path for path in sorted(root.glob('*/*/[0-9]*')) if path.is_dir()]
  for path in found:
    integrity.check(path, record_lib.read(path))
  return [str(path.relative_to(root)) for path in found]


def _published(root: pathlib.Path) -> dict[str, bytes]:
  """The files of all versions in a tree."""
  versions = [path for path in root.glob('*/*/[0-9]*') if path.is_dir()]
  files = [file for path in versions for file in (*path.rglob('*'), *publish.companions(path)) if file.is_file()]
  return {str(file.relative_to(root)): file.read_bytes() for file in files}


def _settled(root: pathlib.Path) -> None:
  """Checks that a tree has only whole versions and the collection's card."""
  versions = _whole(root)
  for name in trees.tree_bytes(root):
    assert any(name.startswith(version) for version in versions) or name == 'tensorflow/collections/albert/1.md', name
  assert not list(root.rglob('.*'))


def test_40_version_exists(released):
  before = trees.tree_bytes(released.root)
  process = commands.run_export('--source=.', '--version=2', f'--export_root={released.root}')
  commands.fails(process, 1, f'{ENCODER}/2: already exists in', 'never changed', '--version')
  assert trees.tree_bytes(released.root) == before


@pytest.mark.slow
def test_40_version_that_appeared_meanwhile(released, module, release):
  shutil.copytree(released.root, release.root)
  before = trees.tree_bytes(release.root)
  with pytest.raises(errors.PublishError, match=f'{ENCODER}/2: already exists in '):
    release(module)
  assert trees.tree_bytes(release.root) == before


def _apart(mount, *command):
  """The command line that runs another one with a separate file system mounted on a directory."""
  return ['unshare', '--user', '--map-root-user', '--mount', 'sh', '-c', f'{mount}; exec "$@"', 'sh', *command]


@pytest.fixture(scope='session')
def can_mount(tmp_path_factory):
  path = tmp_path_factory.mktemp('mount')
  try:
    if subprocess.run(_apart(f'mount -t tmpfs none {path}', 'true'), capture_output=True).returncode:
      pytest.skip('this machine lets nobody mount file systems of their own')
  except OSError:
    pytest.skip('this machine has no unshare')


# Runs an export, and then prints the files in its root, which is invisible outside the namespace.
_SHOWN = '''
import pathlib, subprocess, sys
process = subprocess.run(sys.argv[2:])
print('files', sorted(str(p) for p in pathlib.Path(sys.argv[1]).rglob('*')))
sys.exit(process.returncode)
'''


@pytest.mark.parametrize('size', ['64k', '900k', '1500k'])
@pytest.mark.real_processes
@pytest.mark.slow
def test_41_full_disk(can_mount, module, tmp_path, size):
  # A release of this module takes 1.9 MB.
  root = tmp_path / 'root'
  root.mkdir()
  command = commands.export_command(f'--source={module}', '--version=2', f'--export_root={root}')
  process = commands.run(
    _apart(f'mount -t tmpfs -o size={size} none {root}', sys.executable, '-c', _SHOWN, str(root), *command)
  )
  commands.fails(process, 1, f'{root}: cannot be written (No space left on device); give another --export_root')
  assert process.stdout.splitlines()[-1] == 'files []'


@pytest.mark.real_processes
@pytest.mark.slow
def test_41_read_only_root(can_mount, module, released, tmp_path):
  root = tmp_path / 'root'
  shutil.copytree(released.root, root)
  before = trees.tree_bytes(root)
  command = commands.export_command(f'--source={module}', '--version=3', f'--export_root={root}')
  process = commands.run(_apart(f'mount --bind {root} {root}; mount -o remount,bind,ro {root}', *command))
  commands.fails(process, 1, f'{root}: cannot be written (Read-only file system); give another --export_root')
  assert trees.tree_bytes(root) == before


@pytest.mark.real_processes
@pytest.mark.slow
def test_41_report_that_cannot_be_written(can_mount, module, release, tmp_path):
  # Refused before anything is published.
  (tmp_path / 'reports').mkdir()
  command = commands.export_command(
    f'--source={module}', '--version=2', f'--export_root={release.root}', f'--report={tmp_path}/reports/x.html'
  )
  process = commands.run(_apart(f'mount -t tmpfs -o size=4k none {tmp_path}/reports', *command))
  commands.fails(process, 1, 'report cannot be written', 'No space left on device')
  assert not release.root.exists()


@pytest.mark.real_processes
@pytest.mark.slow
def test_41_killed_at_random_moments(module, tmp_path, request):
  temporary = tmp_path / 'temporary'
  temporary.mkdir()
  archive = craft.archive(module, tmp_path / 'module.tar.gz')
  root = tmp_path / 'dist'
  rng = random.Random(request.config.getoption('seed'))
  environment = os.environ | {'PYTHONPATH': commands.ROOT, 'TMPDIR': str(temporary)}
  longest, killed = 8.0, 0
  for number in range(request.config.getoption('kills')):
    before = _published(root)
    version = 1 + max([1, *publish.versions(root / ENCODER)])
    start = time.monotonic()
    process = subprocess.Popen(
      commands.export_command(f'--source={archive}', f'--version={version}', f'--export_root={root}'),
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    try:
      assert process.wait(rng.uniform(1, longest)) == 0
      longest = time.monotonic() - start
    except subprocess.TimeoutExpired:
      process.send_signal(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV]))
      killed += 1
      assert process.wait() < 0, 'a process that was killed reads as a pass'
    if root.exists():
      _whole(root)
      assert before.items() <= _published(root).items(), number
  assert killed
  # The next run works, and removes the files that killed runs left in the tree and the temporary directory.
  version = 1 + max([1, *publish.versions(root / ENCODER)])
  done = commands.run_export(
    f'--source={archive}', f'--version={version}', f'--export_root={root}', TMPDIR=str(temporary)
  )
  assert done.returncode == 0, done.stderr
  _settled(root)
  assert not [path.name for path in temporary.iterdir() if path.name.startswith('albert_')]


def _publish_until_killed(root, number):
  """Publishes two fake artifacts, and dies before the rename of a given number."""
  replace, calls = pathlib.Path.replace, []

  def failing(self, target):
    if len(calls) == number:
      os.kill(os.getpid(), signal.SIGKILL)
    calls.append(target)
    return replace(self, target)

  pathlib.Path.replace = failing
  _publish_stand_ins(root)


def _publish_stand_ins(root):
  releases = ['tensorflow/albert_preprocess/3', 'tensorflow/albert/2']
  with publish.staging(root) as staged:
    for release in releases:
      (staged / release).mkdir(parents=True)
      (staged / release / 'saved_model.pb').write_text(release)
      for suffix in spec.COMPANIONS:
        (staged / (release + suffix)).write_text(release)
    publish.publish(root, staged, releases)


@pytest.mark.parametrize('number', range(2 * (len(spec.COMPANIONS) + 1) + 1))
def test_41_killed_between_two_renames(tmp_path, number):
  root = tmp_path / 'dist'
  process = multiprocessing.get_context('fork').Process(target=_publish_until_killed, args=(root, number))
  process.start()
  process.join()
  steps = len(spec.COMPANIONS) + 1
  published = [path.parent.name for path in root.glob('*/*/[0-9]*') if path.is_dir()]
  assert sorted(published) == [[], ['albert_preprocess'], ['albert', 'albert_preprocess']][number // steps]
  assert process.exitcode == (-signal.SIGKILL if number < 2 * steps else 0)
  for name in published:  # whole
    release = next((root / 'tensorflow' / name).glob('[23]'))
    assert (release / 'saved_model.pb').exists() and len(publish.companions(release)) == len(spec.COMPANIONS)
  if number < 2 * steps:
    _publish_stand_ins(root)
  assert len(trees.tree_bytes(root)) == 2 * steps and not list(root.glob('.*'))


@pytest.mark.slow
def test_42_two_writers(module, tmp_path):
  root = tmp_path / 'dist'
  command = commands.export_command(f'--source={module}', '--version=2', f'--export_root={root}')
  processes = [
    subprocess.Popen(
      command, env=os.environ | {'PYTHONPATH': commands.ROOT}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for _ in range(2)
  ]
  messages = [process.communicate()[1] for process in processes]
  assert sorted(process.returncode for process in processes) == [0, 1], messages
  assert [bool(text) for text in messages] == [bool(process.returncode) for process in processes]
  assert f'error: {ENCODER}/2: already exists in {root}' in ''.join(messages)
  _settled(root)


def _aborting(quietly):
  def edit(meta_graph):
    node = meta_graph.graph_def.node.add(name='evil/abort', op='Abort')
    node.attr['exit_without_error'].b = quietly
    output = meta_graph.signature_def['tokens'].outputs['pooled_output'].name.split(':')[0]
    next(n for n in meta_graph.graph_def.node if n.name == output).input.append('^evil/abort')

  return edit


@pytest.mark.parametrize('quietly', [False, True], ids=['abort', 'exit with 0'])
@pytest.mark.parametrize('tags', [(), ('train',)], ids=['outputs', 'gradient'])
def test_43_death_in_native_code(refused, own_module, quietly, tags):
  """The operation ends its process from within TensorFlow, by a signal or with exit status 0."""
  modules.edit_graph(own_module, _aborting(quietly), tags)
  refused(own_module, 'operation Abort', errors.UntrustedGraphError)
  refused(
    own_module,
    'outputs of its graph cannot be read|failed .signal' if quietly else 'running saved_model.pb failed .signal 6.',
    trust=source_policy.Trust(graph=True),
    mlm=False,
    sop=False,
  )


def test_44_nan_on_both_sides(refused, module, examination, encoder_path, monkeypatch):
  outputs = exported_encoder.Exported.outputs
  monkeypatch.setattr(
    exported_encoder.Exported,
    'outputs',
    lambda self, *args, **kwargs: {n: v * np.float32(np.nan) for n, v in outputs(self, *args, **kwargs).items()},
  )
  for side in ('in_float32', 'in_float64'):
    monkeypatch.setattr(examination.run, side, {n: v * np.nan for n, v in getattr(examination.run, side).items()})
  with pytest.raises(errors.ParityError, match='no parity .*is nan'):
    examination.certify(pathlib.Path(encoder_path), 'dict')


def test_44_empty_and_foreign_goldens(encoder_path, tmp_path):
  path = tmp_path / 'golden.json'
  foreign = golden_file.read(GOLDEN / 'interface_3.json')
  for change, message in (({'outputs': {}}, 'no values to compare with'), ({}, 'the golden file is of sha256:')):
    path.write_text(json.dumps(foreign | change))
    with pytest.raises(errors.GoldenError, match=message):
      golden_file.check(pathlib.Path(encoder_path), record_lib.read(pathlib.Path(encoder_path)), golden_file.read(path))
  path.write_text('')
  with pytest.raises(errors.GoldenError, match='not a golden file'):
    golden_file.read(path)


@pytest.mark.parametrize(
  'version, words',
  [
    ('0', '--version=0: not a valid version'),
    ('2.0', '2.0'),
    ('-1', '--version=-1'),
    ('1', '; give a higher one'),
    ('4', 'give --version=3'),
    ('99999999999999999999', '--version='),
  ],
)
def test_45_version(released, version, words):
  before = trees.tree_bytes(released.root)
  process = commands.run_export('--source=.', f'--version={version}', f'--export_root={released.root}')
  commands.fails(process, 2, words)
  assert trees.tree_bytes(released.root) == before


@pytest.mark.slow
def test_46_same_bytes_anywhere(twice):
  for process in (twice.first, twice.second):
    assert process.returncode == 0 and process.stderr == '', process.stderr
  here, there = trees.tree_bytes(twice.here), trees.tree_bytes(twice.there)
  assert list(here) == list(there) and len(here) > 12
  assert [name for name in here if here[name] != there[name]] == []
  assert [p.stat().st_mode for p in sorted(twice.here.rglob('*'))] == [
    p.stat().st_mode for p in sorted(twice.there.rglob('*'))
  ]
