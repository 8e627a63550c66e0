"""Runs this tool and its peers on the same modules, in turns, and writes what the ratios are.

  python -m benchmarks --sizes=base,large,xlarge,xxlarge --rounds=3
  python -m benchmarks --sizes=demo --rounds=1 --output=build/bench/demo    # to try it
  python -m benchmarks.report                                               # table and plots anew, from what was
  measured

`make bench` makes the environments first. Everything that is made goes below --work_dir; results.json, the table and
the plots to --output. A peer that fails is named in the table, with the reason.
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
  'sizes', list(sizes_lib.PUBLISHED), f'Of {", ".join(sizes_lib.SMALL + sizes_lib.PUBLISHED)}.'
)
_ROUNDS = flags.DEFINE_integer(
  'rounds', 3, 'How often everything is measured; each turns the order round.', lower_bound=1
)
_WORK_DIR = flags.DEFINE_string('work_dir', 'build/bench', 'For modules, which are kept, and for releases and logs.')
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results', 'For results.json, the table and the plots.')
_RESUME = flags.DEFINE_bool(
  'resume', False, 'Go on with the results.json in --output, from the same machine: what is complete is not run again.'
)
_TF_MODELS = flags.DEFINE_string(
  'tf_models_python', None, 'Python of tf-models\' environment. Default: the one in --work_dir.'
)
_HUGGING_FACE = flags.DEFINE_string(
  'huggingface_python', None, 'Python of Hugging Face\'s. Default: the one in --work_dir.'
)
_TIMEOUT = flags.DEFINE_float('timeout', 7200, 'Seconds after which a command has failed.', lower_bound=1)

# What a peer's commands and probe import first.
_IMPORTS = {figures.TF_MODELS: 'official.nlp.tools.export_tfhub_lib', figures.HUGGING_FACE: 'torch, transformers'}


def main() -> None:
  wanted = _wanted()
  work, output = _directory(_WORK_DIR), _directory(_OUTPUT)
  if (output / page.NAME).exists() and not (output / results_lib.NAME).exists():
    raise errors.UsageError(
      f'--output={_OUTPUT.value} has a {page.NAME} without {results_lib.NAME}: it would be overwritten, so give another'
    )
  if importlib.util.find_spec('matplotlib') is None:
    raise results_lib.ResultsError('nothing to draw plots with: make bench installs it')
  for path in (output, work / 'outputs', work / 'huggingface'):
    path.mkdir(parents=True, exist_ok=True)
  bench = unit_lib.Bench(work, {figures.OURS: sys.executable}, _TIMEOUT.value, console_lib.Console())
  results = _results(bench, output / results_lib.NAME)
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
  """Where it is, or is to be made.

  Raises:
    UsageError: it is none, or cannot be made or written to.
  """
  path = pathlib.Path(flag.value).absolute()
  there = next(parent for parent in (path, *path.parents) if parent.exists())
  why = (
    'it is empty'
    if not flag.value
    else os.strerror(errno.ENOTDIR)
    if not there.is_dir()
    else os.strerror(errno.EACCES)
    if not os.access(there, os.W_OK | os.X_OK)
    else ''
  )
  if why:
    raise errors.UsageError(f'--{flag.name}={flag.value} cannot be written to ({why}): give a directory')
  return path


def _results(bench: unit_lib.Bench, path: pathlib.Path) -> results_lib.Results:
  """New ones, or those to go on with, which must be of the same machine and libraries."""
  before = results_lib.Results.read(path) if _RESUME.value else None
  results = results_lib.Results(path)
  results.values |= {'machine': machine.facts(), 'code': machine.code(), 'load_average': os.getloadavg()[0]}
  bench.console.line(machine.describe(results.values['machine']))
  _environments(bench, results)
  _import_tensorflow(bench, results)
  if before is not None:
    for name, what in (
      ('machine', 'another machine'),
      ('versions', 'other versions of libraries'),
      ('code', 'another state of this project'),
    ):
      if before.values.get(name) != results.values[name]:
        raise results_lib.ResultsError(f'{path} is of {what}: run again without --resume')
    # What was measured then is in their units, so it stays.
    for name in ('sizes', 'units', 'load_average', 'import_tensorflow'):
      results.values[name] = before.values[name]
    failures = results.values['failures']
    results.values['failures'] = before.values['failures'] + [
      failure for failure in failures if failure not in before.values['failures']
    ]
  return results


def _wanted() -> list[str]:
  known = sizes_lib.SMALL + sizes_lib.PUBLISHED
  unknown = [size for size in _SIZES.value if size not in known]
  if unknown or not _SIZES.value:
    raise errors.UsageError(f'--sizes={",".join(_SIZES.value)}: give some of {", ".join(known)}')
  return list(dict.fromkeys(_SIZES.value))


def _environments(bench: unit_lib.Bench, results: results_lib.Results) -> None:
  """Finds the peers' interpreters, and what is installed there. A peer without a whole environment has failed, and takes no part."""
  # Not resolved: a virtual environment is known by its link to Python.
  paths = {
    figures.TF_MODELS: _TF_MODELS.value or bench.work / 'venv-tf-models/bin/python',
    figures.HUGGING_FACE: _HUGGING_FACE.value or bench.work / 'venv-huggingface/bin/python',
  }
  versions = {figures.OURS: machine.versions(sys.executable, bench.log('versions', figures.OURS), bench.timeout)}
  for who, path in paths.items():
    with bench.console.step(f'environment, {who}'), _failing(bench, results, who, 'environment'):
      python = os.path.abspath(path)
      versions[who] = machine.versions(python, bench.log('versions', who), bench.timeout)
      # Reads from the disk what is read from memory from then on.
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
  try:
    yield
  except measure.CommandError as e:
    results.values['failures'].append({'who': who, 'step': step, 'reason': str(e)})
    bench.console.line(f'  {step}, {who}: failed: {e}')


def _import_tensorflow(bench: unit_lib.Bench, results: results_lib.Results) -> None:
  """Measures it in this tool's environment, with its files in memory: a part of every release."""
  with bench.console.step('import TensorFlow'):
    usages = [
      measure.run(
        [sys.executable, '-c', 'import tensorflow'], bench.log('import'), bench.timeout, environment=releases.TENSORFLOW
      )
      for _ in range(4)
    ][1:]
  results.values['import_tensorflow'] = dataclasses.asdict(sorted(usages, key=lambda usage: usage.wall)[1])


def _prepare(bench: unit_lib.Bench, size: str, results: results_lib.Results) -> None:
  """The module, and its weights as Hugging Face has them; both are kept.

  Raises:
    CommandError: there is no module to measure anything with.
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
