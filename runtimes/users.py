"""Makes the environment that README and cards tell users to install, and runs all published Python in it.

  python -m runtimes.users --pythons=/usr/bin/python3.11,/usr/bin/python3.12

The environments are made from nothing, by the published install line. README, docs and the cards of the demo's releases
are run as written: one process for each block that imports TensorFlow and the blocks after it. `make users` finds the
interpreters. Exit status 1 if any program fails.
"""

import contextlib
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from collections.abc import Sequence

from absl import flags

from benchmarks import measure
from converters import cli
from converters import errors
from converters.io import archive
from export.release import model_card
from export.ui import console as console_lib
from runtimes import keras_3
from runtimes import releases
from runtimes import snippets

flags.adopt_module_key_flags(releases)  # so that --help shows them

_PYTHONS = flags.DEFINE_list('pythons', None, 'Interpreters to make environments with.', required=True)

# Lists and dicts, three preprocessors, with and without the text model. README and docs name versions 2 and 3.
_VERSIONS = (1, 2, 4)
_PACKAGES = ('tensorflow', 'tensorflow-text', 'tensorflow-hub', 'tf-keras', 'keras', 'numpy', 'setuptools')
_KERAS_3 = 'import keras\n'


class UsersError(errors.AlbertHubError):
  """A published program fails in an environment that was made as published."""


def main() -> None:
  """Publishes the demo, makes the environments, and runs all programs.

  Raises:
    UsageError: an interpreter cannot be run.
    SnippetError: the pages have no install line, or several.
    CommandError: an export or an installation failed.
    UsersError: a program failed.
  """
  work = pathlib.Path(releases.WORK_DIR.value).absolute()
  console = console_lib.Console()
  pythons = {f'Python {version_of(python)}': python for python in _PYTHONS.value}
  root, cache = work / 'dist', work / 'hub_cache'
  for directory in (root, cache):
    shutil.rmtree(directory, ignore_errors=True)
  for version in _VERSIONS:
    releases.publish(work, root, version, console, text=version > 1)
  fill_hub_cache(root, cache)
  pages = published_pages(root)
  line = snippets.install_line(pages.values())
  console.line(line)
  programs = {page: found for page, text in pages.items() if (found := snippets.programs(text, page))}
  results: dict[str, dict[str, str]] = {page: {} for page in programs}
  versions: dict[str, dict[str, str]] = {}
  faults: list[str] = []
  with serving(root):
    for name, python in pythons.items():
      environment = work / name.lower().replace(' ', '-')
      with console.step(f'{name}: install'):
        make_environment(python, line, environment, work / 'logs')
      versions[name] = installed(environment)
      for page, found in programs.items():
        with console.step(f'{name}: {page}'):
          failed = run_page(environment, page, found, work)
        results[page][name] = 'FAILED' if failed else 'passed'
        faults += [f'{name}, {fault}' for fault in failed]
  console.table(
    'Versions', ['', *pythons], [[package, *(versions[name][package] for name in pythons)] for package in _PACKAGES]
  )
  console.table(
    'Published Python',
    ['page', 'programs', *pythons],
    [[page, str(len(found)), *(results[page][name] for name in pythons)] for page, found in programs.items()],
  )
  if faults:
    raise UsersError(f'published Python: {len(faults)} failed programs ({"; ".join(faults)}); see {work / "logs"}')


def published_pages(root: pathlib.Path) -> dict[str, str]:
  """Returns the Markdown of README, docs and the cards of an export root, by path."""
  repository = measure.ROOT
  pages = [repository / 'README.md', *sorted((repository / 'docs').rglob('*.md'))]
  texts = {str(page.relative_to(repository)): page.read_text(encoding='utf-8') for page in pages}
  return texts | {str(page.relative_to(root)): page.read_text(encoding='utf-8') for page in sorted(root.rglob('*.md'))}


def fill_hub_cache(root: pathlib.Path, cache: pathlib.Path) -> None:
  """Unpacks all archives of an export root to where tensorflow_hub would download the handles of the cards."""
  for packed in sorted(root.rglob('*.tar.gz')):
    handle = model_card.BASE_URL + str(packed.relative_to(root)).removesuffix('.tar.gz')
    directory = cache / hashlib.sha1(handle.encode()).hexdigest()
    directory.mkdir(parents=True)
    archive.unpack(packed, directory)


@contextlib.contextmanager
def serving(root: pathlib.Path) -> Iterator[None]:
  """Serves an export root at the address in docs, port 8501 of this machine.

  Raises:
    UsersError: the server does not start.
  """
  process = subprocess.Popen(
    [sys.executable, '-m', 'export.serve', f'--export_root={root}'], cwd=measure.ROOT, stdout=subprocess.PIPE, text=True
  )
  try:
    assert process.stdout is not None
    if not process.stdout.readline():  # printed once the server listens
      raise UsersError(f'{root}: cannot be served (see the message above); free port 8501')
    yield
  finally:
    process.terminate()
    process.wait()


def version_of(python: str) -> str:
  """Returns the version of an interpreter, as '3.12.1'.

  Raises:
    UsageError: the interpreter cannot be run.
  """
  try:
    return subprocess.run(
      [python, '-c', 'import platform; print(platform.python_version())'], capture_output=True, text=True, check=True
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError) as e:
    raise errors.UsageError(f'--pythons: {python} cannot be run ({e}); give other interpreters') from e


def make_environment(python: str, line: str, environment: pathlib.Path, logs: pathlib.Path) -> None:
  """Makes a virtual environment from nothing, and runs the published install line in it.

  Raises:
    CommandError: a command failed.
  """
  log = logs / f'{environment.name}_install'
  measure.run([python, '-m', 'venv', '--clear', str(environment)], log, releases.TIMEOUT)
  path = f'{environment / "bin"}{os.pathsep}{os.environ["PATH"]}'
  measure.run(['sh', '-c', line], log, releases.TIMEOUT, environment={'PATH': path, 'PYTHONPATH': ''})


def installed(environment: pathlib.Path) -> dict[str, str]:
  """Returns the versions of the main packages of an environment, '-' for a missing one."""
  code = (
    'import importlib.metadata as m; found = {d.name.lower().replace("_", "-"): d.version for d in m.distributions()}\n'
    f'for name in {_PACKAGES}: print(found.get(name, "-"))'
  )
  lines = subprocess.run(
    [environment / 'bin/python', '-c', code], capture_output=True, text=True, check=True
  ).stdout.split()
  return dict(zip(_PACKAGES, lines, strict=True))


def run_page(environment: pathlib.Path, page: str, programs: Sequence[str], work: pathlib.Path) -> list[str]:
  """Runs the programs of a page as written, each in an empty directory with the releases in dist/.

  A program that trains under Keras 3 is also checked for weights that were left out.

  Args:
    environment: virtual environment.
    page: name of the page.
    programs: Python code of each program.
    work: work directory, with the releases in dist/ and the hub's cache in hub_cache/.

  Returns:
    A message for each program that failed.
  """
  faults = []
  for number, program in enumerate(programs, start=1):
    name = f'{environment.name}_{page.removesuffix(".md").replace("/", "_")}_{number}'
    directory = work / 'programs' / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / 'dist').symlink_to(work / 'dist')
    file = directory / 'program.py'
    file.write_text(program, encoding='utf-8')
    checker = [keras_3.__file__] if _KERAS_3 in program else []
    try:
      measure.run(
        [str(environment / 'bin/python'), *checker, str(file)],
        work / 'logs' / name,
        releases.TIMEOUT,
        cwd=directory,
        # A program sets the variable itself, or must run without it.
        environment={'TF_USE_LEGACY_KERAS': '', 'PYTHONPATH': '', 'TFHUB_CACHE_DIR': str(work / 'hub_cache')},
      )
    except measure.CommandError as e:
      faults.append(f'{page}, program {number}: {e}')
  return faults


if __name__ == '__main__':
  cli.run(main)
