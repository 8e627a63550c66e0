"""Exports modules with many kinds of weights, and counts the verdicts of the parity proof.

Each module is converted rightly; every fourth has dropout. A share of the modules is also converted wrongly, in every
way of `wrong_conversions`.

  python -m trials --size=tiny --seeds=4
  python -m trials --regimes=trained,outliers --seeds=20 --wrong_share=0.1 --output=trials.json

Exit status 1 if a right conversion was refused, or a wrong one accepted.
"""

import dataclasses
import json
import pathlib
import shutil
import typing

from absl import flags

from converters import cli
from converters import errors
from converters.io import temp_dirs
from export.demo import weight_values
from export.ui import console as console_lib

if typing.TYPE_CHECKING:
  from trials import trial as trial_lib

_SIZE = flags.DEFINE_enum(
  'size', 'tiny', ['tiny', 'demo', 'base', 'large', 'xlarge', 'xxlarge'], 'Size of the modules.'
)
_SEEDS = flags.DEFINE_integer('seeds', 4, 'Number of modules of each regime.', lower_bound=1)
_REGIMES = flags.DEFINE_list('regimes', list(weight_values.REGIMES), 'Regimes of the weights.')
_WRONG_SHARE = flags.DEFINE_float(
  'wrong_share',
  0.2,
  'Share of the modules that are also converted wrongly. Unless it is 0, at least one module of each regime.',
  0,
  1,
)
_OUTPUT = flags.DEFINE_string('output', None, 'JSON file to write, with every trial.')
_PAGE = flags.DEFINE_string('page', None, 'Markdown file to write, with the tables.')


class TrialsError(errors.AlbertHubError):
  """The parity proof refused a right conversion, or accepted a wrong one."""


def main() -> None:
  """Runs all trials, and prints and writes the tables.

  Raises:
    UsageError: --regimes has an unknown regime.
    TrialsError: a trial had an unexpected verdict.
  """
  unknown = [name for name in _REGIMES.value if name not in weight_values.REGIMES]
  if unknown or not _REGIMES.value:
    raise errors.UsageError(
      f'--regimes={",".join(_REGIMES.value)}: unknown regime {unknown[0] if unknown else ""!r}; '
      f'give names of {", ".join(weight_values.REGIMES)}'
    )
  output = cli.file_path('--output', _OUTPUT.value)
  trials: list[trial_lib.Trial] = []
  console = console_lib.Console()
  try:
    _run(trials, console)
  finally:
    if output is not None:
      content = {'size': _SIZE.value, 'trials': [dataclasses.asdict(trial) for trial in trials]}
      output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
  from trials import summary

  for table in summary.tables(trials):
    console.table(table.title, table.columns, table.rows)
  if page := cli.file_path('--page', _PAGE.value):
    page.write_text(summary.as_markdown(trials, _SIZE.value), encoding='utf-8')
  failed = [
    f'{t.regime}, seed {t.seed}, {t.wrong_conversion or "right conversion"}: {t.message or "accepted"}'
    for t in trials
    if t.failed
  ]
  if failed:
    raise TrialsError(
      f'{len(failed)} of {len(trials)} trials: unexpected verdict ({"; ".join(failed)}); correct the parity proof'
    )


def _run(trials: 'list[trial_lib.Trial]', console: console_lib.Console) -> None:
  """Runs all trials, and appends each to a list."""
  # TensorFlow takes seconds to import.
  from trials import trial as trial_lib
  from trials import wrong_conversions

  modules = trial_lib.Modules(_SIZE.value)
  wrong_seeds = max(1, round(_WRONG_SHARE.value * _SEEDS.value)) if _WRONG_SHARE.value else 0
  with temp_dirs.directory('albert_trials_') as directory:
    for regime in _REGIMES.value:
      for seed in range(_SEEDS.value):
        written = dict[float, pathlib.Path]()
        for wrong in (None, *(wrong_conversions.WRONG_CONVERSIONS if seed < wrong_seeds else ())):
          dropout = 0.1 if wrong in wrong_conversions.OF_DROPOUT or (wrong is None and seed % 4 == 3) else 0.0
          if dropout not in written:
            written[dropout] = directory / f'{regime}_{seed}_{dropout}'
            modules.write(written[dropout], regime, seed, dropout)
          with console.step(f'{regime}, seed {seed}, {wrong or "right"}', detail=lambda: _verdict(trials[-1])):
            trials.append(trial_lib.run(written[dropout], regime, seed, wrong))
        for module in written.values():
          shutil.rmtree(module)


def _verdict(trial: 'trial_lib.Trial') -> str:
  return ('unexpected: ' if trial.failed else '') + ('accepted' if trial.accepted else f'refused by {trial.refused_by}')


if __name__ == '__main__':
  cli.run(main)
