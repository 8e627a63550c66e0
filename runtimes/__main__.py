"""Runs exports under other versions of TensorFlow, and compares the results with those of this environment.

  python -m runtimes --environments=build/runtimes/tensorflow-2.11,build/runtimes/tensorflow-2.21
  python -m runtimes --environments=... --size=base

`make runtimes` makes the environments first. A missing environment is reported and skipped. Exit status 1 if any result
differs.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from absl import flags

from benchmarks import measure
from benchmarks import releases as published
from benchmarks import sizes
from converters import cli
from converters import errors
from export import record as record_lib
from export.ui import console as console_lib
from runtimes import releases

flags.adopt_module_key_flags(releases)  # so that --help shows them

_ENVIRONMENTS = flags.DEFINE_list(
  'environments', None, 'Directories of virtual environments with TensorFlow and TF-Text.', required=True
)
_SIZE = flags.DEFINE_enum('size', 'demo', [*sizes.SMALL, *sizes.PUBLISHED], 'Size of the exported modules.')

_PROBE = pathlib.Path(__file__).with_name('probe.py')
# The probe must import the packages of its own environment only.
_ENVIRONMENT = {'PYTHONPATH': '', 'TF_CPP_MIN_LOG_LEVEL': '3'}


class RuntimesError(errors.AlbertHubError):
  """An export fails in an environment, or computes other results there."""


@dataclasses.dataclass(frozen=True)
class Exported:
  """A version of the demo encoder in the catalog, which is exported and probed.

  Attributes:
    version: version of the encoder.
    interface: interface of the encoder, 'dict' or 'list'.
    dropout: dropout rate of the module.
    text: whether the text model is published and probed, too.
  """

  version: int
  interface: str
  dropout: float
  text: bool = False

  def describe(self) -> str:
    """Describes the version in one line."""
    dropout, text = 'dropout' if self.dropout else 'no dropout', ', text' if self.text else ''
    return f'version {self.version}: {self.interface}, {dropout}{text}'


# These cover both interfaces, training with and without dropout, and the text model. They also cover three
# preprocessors: the first and the last of the published history, and the next one.
_EXPORTED = (Exported(1, 'list', 0.0), Exported(3, 'dict', 0.1), Exported(4, 'dict', 0.0, text=True))


def main() -> None:
  """Exports each version, records its results here, and compares them with those of each environment.

  Raises:
    UsageError: no environment exists.
    RuntimesError: a check of an environment failed.
    CommandError: an export failed.
  """
  work = pathlib.Path(releases.WORK_DIR.value).absolute()
  console = console_lib.Console()
  pythons = {'here': sys.executable}
  for directory in _ENVIRONMENTS.value:
    python = pathlib.Path(directory).absolute() / 'bin/python'
    if python.exists():
      pythons[python.parents[1].name] = str(python)
    else:
      console.line(f'{directory}: no bin/python; skipped')
  if len(pythons) == 1:
    raise errors.UsageError(
      f'--environments={",".join(_ENVIRONMENTS.value)}: all environments are missing; run make runtimes'
    )
  root = work / 'dist'
  published.clear(root)
  found: dict[str, dict[str, Any]] = {}
  for exported in _EXPORTED:
    releases.publish(
      work, root, exported.version, console, size=_SIZE.value, dropout=exported.dropout, text=exported.text
    )
    record = work / f'version_{exported.version}.npz'
    encoder = root / f'tensorflow/albert_en_demo/{exported.version}'
    of_encoder = record_lib.read(encoder)
    assert isinstance(of_encoder, record_lib.Encoder)
    arguments = [
      f'--encoder={encoder}',
      f'--preprocessor={root / of_encoder.preprocessor}',
      f'--interface={exported.interface}',
    ]
    if exported.text:
      arguments.append(f'--text={root}/tensorflow/albert_en_demo_text/{exported.version}')
    with console.step(f'record version {exported.version}'):
      answer = probe_environment(
        sys.executable, [*arguments, f'--record={record}'], work / f'logs/record_{exported.version}'
      )
      check_answers({f'version {exported.version}, recorded': answer}, work)
    for name, interpreter in pythons.items():
      with console.step(f'version {exported.version}, {name}'):
        found.setdefault(name, {})[exported.describe()] = probe_environment(
          interpreter, [*arguments, f'--expected={record}'], work / f'logs/{name}_{exported.version}'
        )
  _print_tables(found, console)
  check_answers(
    {f'{name}, {title}': answer for name, answers in found.items() for title, answer in answers.items()}, work
  )


def probe_environment(python: str, arguments: Sequence[str], log: pathlib.Path) -> dict[str, Any]:
  """Runs the probe in an environment, and returns its answer. A probe that fails is returned as a failed check.

  Args:
    python: interpreter of the environment.
    arguments: command-line arguments of the probe.
    log: path of the log files, as in `measure.run`.
  """
  try:
    return measure.ask([python, str(_PROBE), *arguments], log, releases.TIMEOUT, environment=_ENVIRONMENT)[0]
  except measure.CommandError as e:
    return {'versions': {}, 'checks': {'start': {'distance': 0.0, 'allowed': None, 'faults': [str(e)]}}}


def _print_tables(found: Mapping[str, Mapping[str, Mapping[str, Any]]], console: console_lib.Console) -> None:
  """Prints a table of versions, and a table of checks for each export."""
  names = list(found)
  first = {name: next(iter(answers.values())) for name, answers in found.items()}
  packages = list(dict.fromkeys(package for answer in first.values() for package in answer['versions']))
  console.table(
    'Versions',
    ['', *names],
    [[package, *(first[name]['versions'].get(package, '-') for name in names)] for package in packages],
  )
  for title in found[names[0]]:
    checks = list(dict.fromkeys(check for name in names for check in found[name][title]['checks']))
    console.table(
      f'{title}: largest distance from the record',
      ['check', *names],
      [[check, *(cell(found[name][title]['checks'].get(check)) for name in names)] for check in checks],
    )


def cell(check: Mapping[str, Any] | None) -> str:
  """Formats a check: 'FAILED', 'passed' without a comparison, 'same' or the distance, or '-' if it was not run."""
  if check is None:
    return '-'
  if check['faults']:
    return 'FAILED'
  if check['allowed'] is None:
    return 'passed'
  return f'{check["distance"]:.1e}' if check['distance'] else 'same'


def check_answers(answers: Mapping[str, Mapping[str, Any]], work: pathlib.Path) -> None:
  """Checks the answers of probes.

  Args:
    answers: answers of the probe, by environment and version.
    work: work directory, which has the logs.

  Raises:
    RuntimesError: an answer has faults.
  """
  faults = [
    f'{where}: {name}: {fault}'
    for where, answer in answers.items()
    for name, check in answer['checks'].items()
    for fault in check['faults']
  ]
  if faults:
    raise RuntimesError(f'exports: {len(faults)} failed checks ({"; ".join(faults)}); see {work / "logs"}')


if __name__ == '__main__':
  cli.run(main)
