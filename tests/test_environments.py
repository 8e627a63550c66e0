"""The locks in requirements/: which Pythons and platforms they can be installed on."""

import configparser
import email
import importlib.metadata
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import zipfile

import pytest
from packaging import requirements
from packaging import specifiers
from support import commands

import export

LOCKS = pathlib.Path(commands.ROOT) / 'requirements'
PYTHONS = ('3.11', '3.12', '3.13')


def locked(name):
  """Returns the requirements of a lock."""
  text = re.sub(r'\\\n', '', (LOCKS / f'{name}.txt').read_text())
  return [
    requirements.Requirement(line.partition('--hash')[0])
    for line in text.splitlines()
    if line and not line.lstrip().startswith('#')
  ]


@pytest.mark.parametrize('python', PYTHONS)
def test_every_locked_package_allows_the_python(python):
  """uv ignores upper bounds of Requires-Python, which pip obeys."""
  checked = 0
  for requirement in (r for name in ('runtime', 'beam', 'dev') for r in locked(name)):
    environment = {'python_version': python, 'python_full_version': f'{python}.0'}
    try:
      metadata = importlib.metadata.metadata(requirement.name)
    except importlib.metadata.PackageNotFoundError:
      continue  # for another platform
    if requirement.marker is None or requirement.marker.evaluate(environment):
      bounds = specifiers.SpecifierSet(metadata['Requires-Python'] or '')
      assert bounds.contains(f'{python}.0'), f'{requirement.name}: {bounds}'
      checked += 1
  assert checked > 100


def test_one_tensorflow_on_each_platform():
  """tensorflow-cpu has wheels for x86-64 Linux only; both packages have the same files."""
  for system, machine in (('linux', 'x86_64'), ('linux', 'aarch64'), ('darwin', 'arm64')):
    environment = {'sys_platform': system, 'platform_machine': machine}
    names = {r.name for r in locked('runtime') if r.marker is None or r.marker.evaluate(environment)}
    expected = 'tensorflow-cpu' if machine == 'x86_64' else 'tensorflow'
    assert names & {'tensorflow', 'tensorflow-cpu'} == {expected}


@pytest.mark.slow
@pytest.mark.parametrize('platform', ['x86_64-manylinux_2_28', 'aarch64-manylinux_2_28', 'aarch64-apple-darwin'])
@pytest.mark.parametrize('python', PYTHONS)
def test_a_wheel_of_every_locked_package_is_there(tmp_path, python, platform):
  """Needs the package index: finds a wheel with a locked hash for each package, and downloads none."""
  command = [commands.PYTHON, '-m', 'uv', 'pip', 'install', '--dry-run', '--no-deps', '--require-hashes']
  command += ['--only-binary=:all:', f'--python-platform={platform}', f'--python-version={python}']
  command += [f'--target={tmp_path / "none"}', *(f'-r{LOCKS / name}.txt' for name in ('runtime', 'beam', 'dev'))]
  process = subprocess.run(command, capture_output=True, text=True, check=False)
  assert process.returncode == 0 and 'Would install' in process.stderr, process.stderr


@pytest.fixture
def install():
  """The functions of requirements/install.py."""
  return runpy.run_path(str(LOCKS / 'install.py'))


def test_only_pythons_of_the_locks_are_accepted(install):
  config = configparser.ConfigParser()
  config.read(LOCKS.parent / 'setup.cfg')
  allowed = specifiers.SpecifierSet(config['options']['python_requires'])
  for minor in range(7, 16):
    version = (3, minor, 1)
    if minor in (11, 12, 13):
      install['check'](version)
    else:
      with pytest.raises(SystemExit, match=rf'^error: Python 3\.{minor}\.1: not supported; run make with PYTHON='):
        install['check'](version)
    assert allowed.contains(f'3.{minor}.1') == (minor in (11, 12, 13))


def test_only_an_environment_is_cleared(install, tmp_path):
  (tmp_path / 'saved_model.pb').touch()
  with pytest.raises(SystemExit, match='not a virtual environment, and is not overwritten'):
    install['main'](str(tmp_path), 'none', 'nothing.txt', '--clear')
  assert (tmp_path / 'saved_model.pb').exists()


def test_an_installation_says_what_it_does(install, tmp_path, capfd):
  lock = tmp_path / 'lock.txt'
  lock.touch()  # nothing to install
  install['main'](str(tmp_path / 'venv'), 'no packages', str(lock), '--clear')
  out = capfd.readouterr().out
  assert out.startswith(f'Installing {lock} into {tmp_path}/venv with Python 3.') and ': no packages ...\n' in out
  assert re.search(r'^Installed in \d+ s\.$', out, re.M)
  lock.write_text('not a requirement\n')
  with pytest.raises(SystemExit) as failed:
    install['main'](str(tmp_path / 'venv'), 'one package', str(lock))
  assert failed.value.code == 1 and 'Invalid requirement' in capfd.readouterr().err


@pytest.fixture
def wheel_path(tmp_path):
  """A wheel, built from a copy: the build writes into the directory."""
  copy = tmp_path / 'copy'
  copy.mkdir()
  for name in ('assets', 'converters', 'export', 'LICENSE', 'pyproject.toml', 'setup.cfg'):
    path = LOCKS.parent / name
    (shutil.copytree if path.is_dir() else shutil.copy)(path, copy / name)
  command = [commands.PYTHON, '-m', 'build', '--wheel', '--no-isolation', f'--outdir={tmp_path}', str(copy)]
  process = subprocess.run(command, capture_output=True, text=True, check=False)
  assert process.returncode == 0, process.stderr
  return next(tmp_path.glob('*.whl'))


def test_the_wheel_has_the_command_and_a_page_for_an_index(wheel_path):
  with zipfile.ZipFile(wheel_path) as wheel:
    info = next(name.partition('/')[0] for name in wheel.namelist() if '.dist-info/' in name)
    metadata = email.message_from_bytes(wheel.read(f'{info}/METADATA'))
    entry_points = wheel.read(f'{info}/entry_points.txt').decode()
    content = wheel.namelist()
  assert 'albert-hub-export = export.command_line:main' in entry_points
  assert {'export/assets/catalog.yaml', 'export/assets/cards/encoder.md', 'converters/cli.py'} <= set(content)
  assert metadata['Version'] == export.__version__
  assert metadata['Author'] and metadata.get_all('Project-URL') and metadata['Keywords']
  assert specifiers.SpecifierSet(metadata['Requires-Python']) == specifiers.SpecifierSet('>=3.11,<3.14')
  assert 'Programming Language :: Python :: 3.13' in metadata.get_all('Classifier')
  # A relative link leads nowhere on an index.
  page = metadata.get_payload()
  assert 'pip install' in page and re.findall(r'\]\((?!https?://)', page) == []
  # tf-models' own demands cannot be met: see setup.cfg.
  required = {requirements.Requirement(line).name for line in metadata.get_all('Requires-Dist')}
  assert 'tf-models-official' not in required and {'tensorflow', 'gin-config', 'scipy', 'six', 'pyyaml'} <= required
  for name, requirement in ((r.name, r) for r in map(requirements.Requirement, metadata.get_all('Requires-Dist'))):
    if requirement.marker is None:
      assert requirement.specifier.contains(importlib.metadata.version(PACKAGES.get(name, name))), requirement


# On x86-64 Linux, the lock has the first for the second.
PACKAGES = {'tensorflow': 'tensorflow-cpu'}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_of_the_package_runs_as_written(wheel_path, tmp_path):
  """Needs the package index: installs 2.5 GB into a fresh environment."""
  blocks = re.findall(r'^```sh\n(.*?)^```', (LOCKS.parent / 'assets/package.md').read_text(), re.M | re.S)
  lines = [line for block in blocks for line in block.splitlines() if line != 'albert-hub-export serve']
  assert len(lines) == 5 and lines[0] == 'pip install albert-hub-export'
  subprocess.run([commands.PYTHON, '-m', 'venv', str(tmp_path / 'venv')], check=True)
  environment = {'PATH': f'{tmp_path}/venv/bin:/usr/bin:/bin', 'PYTHONPATH': ''}
  work = tmp_path / 'work'
  work.mkdir()
  for line in [f'pip install {wheel_path}', *lines[1:]]:
    process = subprocess.run(
      ['sh', '-c', line], cwd=work, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
  assert 'files, archive, card and' in process.stdout
  assert (work / 'dist/tensorflow/albert_demo/1/saved_model.pb').exists()
