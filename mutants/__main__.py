"""Applies each mutation to a copy of the repository, and checks that its tests fail there.

  python -m mutants
  python -m mutants --only=archive_case,digest_links --workers=1

Exit status 1 if a mutation survived, or was invalid: pytest ended neither with 0 nor with 1, or took too long.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from concurrent import futures

from absl import flags

from converters import cli
from converters import errors
from converters.io import temp_dirs
from export.ui import console as console_lib
from mutants import mutations as mutations_lib

_ONLY = flags.DEFINE_list('only', [], 'Names of mutations. Default: all.')
_WORKERS = flags.DEFINE_integer('workers', 2, 'Number of mutations that are tried at once.', lower_bound=1)
_BASELINE = flags.DEFINE_bool('baseline', False, 'Whether the tests are run without mutations first, and must pass.')

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TIMEOUT = 600  # seconds of one pytest run
_FILES = ('git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard')
_PYTEST = (sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider')
# Python validates cached bytecode by the size and time of the source file, and a mutation may change neither.
_ENVIRONMENT = {'TF_USE_LEGACY_KERAS': '1', 'PYTHONDONTWRITEBYTECODE': '1'}


class MutantsError(errors.AlbertHubError):
  """A mutation survived, or was invalid."""


class _Copy:
  """A copy of the repository, for one worker: the files that git tracks, and the new ones that it does not ignore."""

  def __init__(self, place: pathlib.Path):
    self._root, self._tests = place / 'repository', place / 'tests'
    self._process: subprocess.Popen[bytes] | None = None
    for name in subprocess.run(_FILES, cwd=_ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout.split('\0'):
      if (_ROOT / name).is_file():
        (self._root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_ROOT / name, self._root / name)

  def run(self, mutation: mutations_lib.Mutation) -> int:
    """Runs the tests of a mutation with the mutation, and returns the exit status of pytest."""
    path = self._root / mutation.path
    text = path.read_text(encoding='utf-8')
    path.write_text(text.replace(mutation.old, mutation.new), encoding='utf-8')
    try:
      self._process = subprocess.Popen(
        [*_PYTEST, f'--basetemp={self._tests}', *mutation.tests.split()],
        cwd=self._root,
        stdout=subprocess.DEVNULL,
        env=os.environ | _ENVIRONMENT | {'PYTHONPATH': str(self._root)},
        start_new_session=True,
      )
      with contextlib.suppress(subprocess.TimeoutExpired):
        self._process.wait(_TIMEOUT)
      self.end()
      return self._process.wait()
    finally:
      path.write_text(text, encoding='utf-8')

  def end(self) -> None:
    """Ends the pytest process, and the processes that its tests left."""
    if self._process is not None:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(self._process.pid, signal.SIGKILL)


def main() -> None:
  """Runs the chosen mutations, with --baseline after the unchanged tests.

  Raises:
    UsageError: --only has an unknown mutation.
    MutantsError: a mutation survived, was invalid, or does not fit its file; or the unchanged tests failed.
  """
  mutations = {mutation.name: mutation for mutation in mutations_lib.MUTATIONS}
  if unknown := [name for name in _ONLY.value if name not in mutations]:
    raise errors.UsageError(f'--only={unknown[0]}: unknown mutation; give names of mutants/mutations.py')
  chosen = [mutations[name] for name in _ONLY.value or mutations]
  for m in chosen:
    if (count := (_ROOT / m.path).read_text(encoding='utf-8').count(m.old)) != 1:
      raise MutantsError(f'{m.path}: {count} places for mutation {m.name} (not 1); correct mutants/mutations.py')
  with temp_dirs.directory('albert_mutants_') as place:
    copies = [_Copy(place / str(number)) for number in range(_WORKERS.value)]
    if _BASELINE.value:
      unchanged = {m.tests: mutations_lib.Mutation(m.tests, m.path, '', '', m.tests) for m in chosen}
      _run(list(unchanged.values()), copies, right=0)
    _run(chosen, copies, right=1)


def _run(mutations: list[mutations_lib.Mutation], copies: list[_Copy], right: int) -> None:
  """Runs each mutation on a free copy.

  Raises:
    MutantsError: an exit status of pytest is not `right`.
  """
  console, free, outcomes, begin = console_lib.Console(), list(copies), dict[str, str](), time.monotonic()
  words = ['survived', 'killed'] if right else ['passed', 'failed']

  def run(mutation: mutations_lib.Mutation) -> None:
    copy, start = free.pop(), time.monotonic()
    status = copy.run(mutation)
    free.append(copy)
    outcomes[mutation.name] = words[status] if status in (0, 1) else f'invalid, exit status {status}'
    console.line(f'  {mutation.name:<32} {outcomes[mutation.name]:<10}{time.monotonic() - start:7.1f} s')

  with futures.ThreadPoolExecutor(len(copies)) as pool:
    try:
      list(pool.map(run, mutations))
    finally:
      pool.shutdown(wait=False, cancel_futures=True)
      for copy in copies:
        copy.end()
  counts = ', '.join(f'{sum(o.startswith(word) for o in outcomes.values())} {word}' for word in (*words, 'invalid'))
  console.line(f'{counts}, in {time.monotonic() - begin:.0f} s')
  if wrong := [f'{name} {outcome}' for name, outcome in outcomes.items() if outcome != words[right]]:
    raise MutantsError(f'{len(wrong)} mutations: wrong outcome ({"; ".join(wrong)}); correct the tests')


if __name__ == '__main__':
  cli.run(main)
