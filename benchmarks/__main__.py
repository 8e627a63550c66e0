"""Measures this tool and its peers on the same modules, in turns, and writes the ratios.

  python -m benchmarks --sizes=base,large,xlarge,xxlarge --rounds=3
  python -m benchmarks --sizes=demo --rounds=1 --output=build/bench/demo    # a trial run
  python -m benchmarks.report                                               # table and plots from results.json

`make bench` makes the environments first. Modules, releases and logs go to --work_dir. results.json, the table and the
plots go to --output. The table names each peer that fails, with the reason.
"""

import contextlib
import dataclasses
import errno
import importlib.util
import os
import pathlib
import sys
from collections.abc import Iterator

from absl import flags

from benchmarks import figures
from benchmarks import machine
from benchmarks import measure
from benchmarks import page
from benchmarks import releases
from benchmarks import results as results_lib
from benchmarks import sizes as sizes_lib
from benchmarks import unit as unit_lib
from converters import albert_config
from converters import cli
from converters import errors
from export.ui import console as console_lib

_SIZES = flags.DEFINE_list(
  'sizes', list(sizes_lib.PUBLISHED), f'Sizes of the modules: {", ".join(sizes_lib.SMALL + sizes_lib.PUBLISHED)}.'
)
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Number of rounds. Each round changes the order.', lower_bound=1)
_WORK_DIR = flags.DEFINE_string('work_dir', 'build/bench', 'Directory for releases, logs and modules, which are kept.')
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results', 'Directory for results.json, the table and the plots.')
_RESUME = flags.DEFINE_bool(
  'resume', False, 'Continue the results.json in --output, from the same machine. Complete rounds are not repeated.'
)
_TF_MODELS = flags.DEFINE_string(
  'tf_models_python', None, 'Python of the environment of tf-models. Default: the one in --work_dir.'
)
_HUGGING_FACE = flags.DEFINE_string(
  'huggingface_python', None, 'Python of the environment of Hugging Face. Default: the one in --work_dir.'
)
_TIMEOUT = flags.DEFINE_float('timeout', 7200, 'Timeout of a command, in seconds.', lower_bound=1)

# First import of each peer's commands and probe.
_IMPORTS = {figures.TF_MODELS: 'official.nlp.tools.export_tfhub_lib', figures.HUGGING_FACE: 'torch, transformers'}


def main() -> None:
  """Measures all sizes and rounds, and writes the page.

  Raises:
    UsageError: a flag is invalid.
    ResultsError: matplotlib is missing, or --resume does not fit the results.
    CommandError: a module cannot be made.
  """
  wanted = _parse_sizes()
  work, output = _directory(_WORK_DIR), _directory(_OUTPUT)
  if (output / page.NAME).exists() and not (output / results_lib.NAME).exists():
    raise errors.UsageError(
      f'--output={_OUTPUT.value}: {page.NAME} would be overwritten (no {results_lib.NAME} in the directory); '
      'give another directory'
    )
  if importlib.util.find_spec('matplotlib') is None:
    raise results_lib.ResultsError('plots: matplotlib is missing; run make bench, which installs it')
  for path in (output, work / 'outputs', work / 'huggingface'):
    path.mkdir(parents=True, exist_ok=True)
  bench = unit_lib.Bench(work, {figures.OURS: sys.executable}, _TIMEOUT.value, console_lib.Console())
  results = _open_results(bench, output / results_lib.NAME)
  for size in wanted:
    _prepare(bench, size, results)
  results.write()
  for number in range(1, _ROUNDS.value + 1):
    for place, size in enumerate(wanted):
      finished = results.unit(size, number)
      if finished is None or not finished['complete']:
        unit_lib.Unit(bench, results, size, number, unit_lib.order(list(bench.pythons), number + place)).run()
  page.write(results, output)
  bench.console.line(f'\n{page.verdict(results)}\nReport: {output / page.NAME}')


def _directory(flag: flags.FlagHolder[str]) -> pathlib.Path:
  """Returns the absolute path of a flag's directory, which may not exist yet.

  Raises:
    UsageError: the flag is empty, or the directory cannot be made or written to.
  """
  path = pathlib.Path(flag.value).absolute()
  there = next(parent for parent in (path, *path.parents) if parent.exists())
  why = (
    'empty'
    if not flag.value
    else os.strerror(errno.ENOTDIR)
    if not there.is_dir()
    else os.strerror(errno.EACCES)
    if not os.access(there, os.W_OK | os.X_OK)
    else ''
  )
  if why:
    raise errors.UsageError(f'--{flag.name}={flag.value}: cannot write to it ({why}); give a writable directory')
  return path


def _open_results(bench: unit_lib.Bench, path: pathlib.Path) -> results_lib.Results:
  """Returns new results, or with --resume the stored ones, and measures the environments.

  Raises:
    ResultsError: the stored results are of another machine, of other library versions or of other code.
  """
  before = results_lib.Results.read(path) if _RESUME.value else None
  results = results_lib.Results(path)
  results.values |= {'machine': machine.facts(), 'code': machine.code(), 'load_average': os.getloadavg()[0]}
  bench.console.line(machine.describe(results.values['machine']))
  _environments(bench, results)
  _import_tensorflow(bench, results)
  if before is not None:
    for name, what in (
      ('machine', 'another machine'),
      ('versions', 'other library versions'),
      ('code', 'another version of this project'),
    ):
      if before.values.get(name) != results.values[name]:
        raise results_lib.ResultsError(f'{path}: made with {what}; run without --resume')
    # The stored rounds were measured with these.
    for name in ('sizes', 'units', 'load_average', 'import_tensorflow'):
      results.values[name] = before.values[name]
    failures = results.values['failures']
    results.values['failures'] = before.values['failures'] + [
      failure for failure in failures if failure not in before.values['failures']
    ]
  return results


def _parse_sizes() -> list[str]:
  known = sizes_lib.SMALL + sizes_lib.PUBLISHED
  unknown = [size for size in _SIZES.value if size not in known]
  if unknown or not _SIZES.value:
    raise errors.UsageError(
      f'--sizes={",".join(_SIZES.value)}: unknown size {unknown[0] if unknown else ""!r}; '
      f'give some of {", ".join(known)}'
    )
  return list(dict.fromkeys(_SIZES.value))


def _environments(bench: unit_lib.Bench, results: results_lib.Results) -> None:
  """Finds the peers' interpreters and installed versions.

  A peer whose environment is incomplete is recorded as failed, and is not measured.
  """
  # Links are not resolved: Python finds a virtual environment by the link to its interpreter.
  paths = {
    figures.TF_MODELS: _TF_MODELS.value or bench.work / 'venv-tf-models/bin/python',
    figures.HUGGING_FACE: _HUGGING_FACE.value or bench.work / 'venv-huggingface/bin/python',
  }
  versions = {figures.OURS: machine.versions(sys.executable, bench.log('versions', figures.OURS), bench.timeout)}
  for who, path in paths.items():
    with bench.console.step(f'environment, {who}'), _failing(bench, results, who, 'environment'):
      python = os.path.abspath(path)
      versions[who] = machine.versions(python, bench.log('versions', who), bench.timeout)
      # Loads the files into the page cache, where later commands find them.
      measure.run(
        [python, '-c', f'import {_IMPORTS[who]}'],
        bench.log('import', who),
        bench.timeout,
        bench.work,
        releases.TENSORFLOW,
      )
      bench.pythons[who] = python
  results.values['versions'] = versions


@contextlib.contextmanager
def _failing(bench: unit_lib.Bench, results: results_lib.Results, who: str, step: str) -> Iterator[None]:
  """Records a CommandError as a failure of the step, and continues."""
  try:
    yield
  except measure.CommandError as e:
    results.values['failures'].append({'who': who, 'step': step, 'reason': str(e)})
    bench.console.line(f'  {step}, {who}: failed: {e}')


def _import_tensorflow(bench: unit_lib.Bench, results: results_lib.Results) -> None:
  """Measures the import of TensorFlow in this tool's environment, which is part of every release.

  The first of four imports loads the files into the page cache and does not count. The median is by wall time.
  """
  with bench.console.step('import TensorFlow'):
    usages = [
      measure.run(
        [sys.executable, '-c', 'import tensorflow'], bench.log('import'), bench.timeout, environment=releases.TENSORFLOW
      )
      for _ in range(4)
    ][1:]
  results.values['import_tensorflow'] = dataclasses.asdict(sorted(usages, key=lambda usage: usage.wall)[1])


def _prepare(bench: unit_lib.Bench, size: str, results: results_lib.Results) -> None:
  """Makes the module of one size and its weights in Hugging Face's format, unless they exist.

  Raises:
    CommandError: the module cannot be made.
  """
  module = bench.module(size)
  if not module.exists():
    with bench.console.step(f'make the module of size {size}'):
      measure.run(
        [sys.executable, '-m', 'export.demo', f'--output={module}', f'--size={size}'],
        bench.log('module', size),
        bench.timeout,
      )
  if figures.HUGGING_FACE in bench.pythons and not bench.hugging_face(size).exists():
    step = f'write the weights of {size}'
    with bench.console.step(f'{step} for Hugging Face'), _failing(bench, results, figures.HUGGING_FACE, step):
      measure.run(
        [
          sys.executable,
          '-m',
          'converters',
          f'--source={module}',
          '--to=huggingface',
          f'--output={bench.hugging_face(size)}',
        ],
        bench.log('weights', size),
        bench.timeout,
      )
  config = albert_config.read(module / 'assets/albert_config.json')
  results.values['sizes'][size] = {'parameters': sizes_lib.parameters(config), 'module_bytes': releases.size_of(module)}


if __name__ == '__main__':
  cli.run(main)
