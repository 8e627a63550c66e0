"""The example workflow and the Dockerfile are valid, pinned, and name commands that work."""

import configparser
import json
import os
import pathlib
import re
import shlex

import pytest
import ruamel.yaml
from support import commands

ROOT = pathlib.Path(commands.ROOT)
pytestmark = pytest.mark.real_processes


@pytest.fixture(scope='module')
def workflow():
  return ruamel.yaml.YAML(typ='safe', pure=True).load((ROOT / 'examples/ci/release.yml').read_text())


@pytest.fixture(scope='module')
def steps(workflow):
  (job,) = workflow['jobs'].values()
  return job['steps']


@pytest.fixture
def clone(tmp_path):
  """A directory with the repository's files, and an environment that is installed already."""
  for path in ROOT.iterdir():
    if not path.name.startswith('.') and path.name not in ('build', 'dist'):
      (tmp_path / path.name).symlink_to(path)
  python = tmp_path / '.venv/bin/python'
  python.parent.mkdir(parents=True)
  python.write_text(f'#!/bin/sh\nexec {shlex.quote(commands.PYTHON)} "$@"\n')
  python.chmod(0o755)
  return tmp_path


def _variables(workflow, **chosen):
  """Returns the environment of the workflow's commands, for variables of the repository."""
  found = {}
  for name, value in workflow['env'].items():
    variable, default = re.fullmatch(r"\$\{\{ vars\.(\w+) \|\| '(.*)' \}\}", value).groups()
    assert variable == name
    found[name] = chosen.get(name, default)
  return found


def test_workflow_is_pinned_and_reads_only(workflow, steps):
  assert workflow['permissions'] == {'contents': 'read'}
  used = [step['uses'].rpartition('@') for step in steps if 'uses' in step]
  assert [name for name, _, _ in used] == ['actions/checkout', 'actions/setup-python', 'actions/upload-artifact']
  assert all(re.fullmatch(r'v\d+', version) for _, _, version in used)
  assert all(set(step) <= {'name', 'run', 'uses', 'with'} for step in steps)


def test_workflow_installs_from_the_lock(workflow, steps, clone):
  (install,) = (step['run'] for step in steps if step.get('name') == 'Install from the lock')
  # In a clone without an environment.
  (clone / '.venv/bin/python').unlink()
  process = commands.run([*shlex.split(install), '--dry-run'], cwd=clone)
  assert re.search(r'requirements/install\.py \S+ "[^"]+" requirements/runtime\.txt --clear', process.stdout), (
    process.stderr
  )


@pytest.mark.slow
def test_commands_of_the_workflow_release_the_demo(workflow, steps, clone):
  (clone / '.venv/.runtime').touch()
  for step in steps:
    if 'run' in step:
      # As the runner does.
      process = commands.run(['bash', '-e', '-o', 'pipefail', '-c', step['run']], cwd=clone, **_variables(workflow))
      assert process.returncode == 0, (step['name'], process.stderr)
  (upload,) = (step['with']['path'].split() for step in steps if 'upload-artifact' in step.get('uses', ''))
  assert (
    all((clone / path).exists() for path in upload) and (clone / 'dist/tensorflow/albert_en_demo/2.tar.gz').exists()
  )


@pytest.mark.slow
def test_workflow_stops_at_another_source_and_other_outputs(workflow, steps, clone, module):
  (clone / '.venv/.runtime').touch()
  runs = {step['name']: step['run'] for step in steps if 'run' in step}
  chosen = _variables(workflow, SOURCE=str(module), MODEL='albert_en_tiny', VERSION='1')
  command = ['bash', '-e', '-o', 'pipefail', '-c']
  process = commands.run([*command, runs['Export']], cwd=clone, **chosen | {'SOURCE_SHA256': 64 * '0'})
  assert process.returncode and 'sha256' in process.stderr and not (clone / 'dist').exists()
  for name in ('Export', 'Verify'):
    process = commands.run([*command, runs[name]], cwd=clone, **chosen)
    assert process.returncode == 0, process.stderr
  process = commands.run([*command, runs['Compare with golden outputs']], cwd=clone, **chosen)
  assert process.returncode == 1 and process.stderr.startswith('error: ')


@pytest.fixture(scope='module')
def instructions():
  """The Dockerfile's instructions in order, each with its arguments in one line."""
  text = re.sub(r'^#.*\n', '', (ROOT / 'Dockerfile').read_text(), flags=re.M).replace('\\\n', ' ')
  return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def _arguments(instructions, name):
  return [arguments for instruction, arguments in instructions if instruction == name]


def test_dockerfile_is_slim_pinned_and_not_root(instructions):
  (base,) = _arguments(instructions, 'FROM')
  assert re.fullmatch(r'[a-z]+:\d+\.\d+(\.\d+)?-slim', base)
  (user,) = _arguments(instructions, 'USER')
  assert user != 'root' and any(f' {user} ' in run for run in _arguments(instructions, 'RUN') if 'useradd' in run)
  # The last commands run as this user.
  names = [name for name, _ in instructions]
  assert 'RUN' not in names[names.index('USER') :] and 'COPY' not in names[names.index('USER') :]


def test_dockerfile_installs_the_lock_as_make_does(instructions):
  (install,) = (run for run in _arguments(instructions, 'RUN') if 'pip install' in run)
  (flags,) = re.findall(r'^INSTALL := -m pip install (.*)$', (ROOT / 'Makefile').read_text(), re.M)
  assert set(flags.split()) <= set(install.split()) and install.endswith('-r requirements/runtime.txt')


def test_dockerfile_copies_the_packages_and_the_context_has_them(instructions):
  copied = {arguments.split()[0] for arguments in _arguments(instructions, 'COPY')}
  config = configparser.ConfigParser()
  config.read(ROOT / 'setup.cfg')
  packages = {package.partition('.')[0] for package in config['options']['packages'].split()}
  assert packages | {'assets', 'requirements/runtime.txt', 'LICENSE'} == copied
  kept = {line[1:] for line in (ROOT / '.dockerignore').read_text().splitlines() if line.startswith('!')}
  assert kept == copied and all((ROOT / path).exists() for path in copied)


def test_entry_point_takes_every_command(instructions, tmp_path):
  (entry,), (default,) = (list(map(json.loads, _arguments(instructions, name))) for name in ('ENTRYPOINT', 'CMD'))
  assert entry == ['python', '-m']
  path = f'{commands.BIN}{os.pathsep}{os.environ["PATH"]}'
  for arguments in (default, ['export.verify', '--help'], ['export.golden', '--help'], ['converters', '--help']):
    process = commands.run([*entry, *arguments], cwd=tmp_path, PATH=path)
    assert f'python -m {arguments[0]}' in process.stdout, process.stderr
