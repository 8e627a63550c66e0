"""Renders the page of results from results.json alone: tables, outcomes and failures."""

import dataclasses
import pathlib
import statistics
from collections.abc import Iterable
from collections.abc import Iterator

from benchmarks import figures
from benchmarks import growth
from benchmarks import machine
from benchmarks import results as results_lib
from benchmarks import sizes as sizes_lib

NAME = 'README.md'
RATIOS, GROWTH = 'ratios.png', 'growth.png'

# Other processes that take a larger share of the processors' time disturb the measurements.
_QUIET = 0.05

_NAMES = {
  figures.OURS: 'this tool',
  figures.TF_MODELS: 'tf-models',
  figures.HUGGING_FACE: 'Hugging Face',
  figures.MACHINE: 'the machine',
}

_INTRODUCTION = '''# Benchmark

Each figure is a ratio of two measurements of the same round: the median of the rounds, and the range in brackets.
Below 1, this tool takes less than the peer, unless a row says otherwise. A goal is met if the median reaches it.
It is met "by the median" if the median reaches it, but a round does not. `make bench` wrote this page.
[results.json](results.json) has the measurements.'''

_TF_MODELS = '''A release by tf-models is three commands: `tf2_albert_encoder_checkpoint_converter`,
`export_tfhub --export_type=model` for the encoder, and `export_tfhub --export_type=preprocessing`. Their times add up.
Their memory is that of the command with the most. They do less than the one command of this tool:

* They make no heads: `--export_type=model_with_mlm` fails for ALBERT, because it cannot match 24 objects of the
  checkpoint. This tool's encoder has both heads in its files.
* They prove no parity, and write no card, archive or record.'''

_HUGGING_FACE = '''The peer is `AlbertModel.from_pretrained`, and calls of the model in `torch.inference_mode()`:
float32, all cores, the same weights and ids. For this tool, TensorFlow loads and calls the export. These rows have no
goals.'''

_FLOORS = '''A floor is the figure above for the unavoidable work alone. It is measured in the same rounds and divided
by the same figure of the peer. These methods cannot reach a goal below its floor, and may not reach a goal above it.
Except for inference, a floor is measured in a separate process, and equal processes differ by chance. If this tool or
its peer did better than the floor, the better figure is taken for the floor.

* **Wall time of a release**: the steps are importing TensorFlow, opening the source, saving and packing both models,
  and the proof. The proof computes outputs and gradient of the source's graph in a subprocess, outputs and gradient of
  the export, and the reference in float64. The processor times of the steps are added and divided by the number of
  processors. If the whole release took less processor time, that time is divided instead. The floor is at least the
  wall time of saving.
* **Peak memory**: the export is loaded, run, and differentiated by all of its weights, as users do it. docs/decisions
  has other ways that were tried and took more time.
* **hub.load**: reads the variables in one operation.
* **First call**: a steady call of this tool's export, plus the extra time of the first run of one layer's products.
* **Steady inference**, and its share of a large matmul's rate, which is a ceiling: only the layers' products with
  kernels. TensorFlow has three ways to compute them, and the fastest counts. They run in the same turns as the
  inference. Four layers are run, and their time is scaled to the number of layers.'''

_MEANING = '''## What is measured

The modules have the published sizes and random weights, from `python -m export.demo`, and no dropout. No figure depends
on the values of the weights.

* **A release**: the commands run in processes of their own and are measured from start to end. Processor time is user
  and system time, including descendants. Peak memory of all processes together is sampled every 0.1 s: the private
  memory of each process, and the shared memory once. It is at least that of the largest process by the kernel's count
  (`ru_maxrss`). This tool runs the source's graph in a second process.
* **An artifact** of either tool is loaded in this tool's environment. So the files are compared, and not two builds of
  TensorFlow.
* **`hub.load`**, and the first call (2 x 16) of the loaded object: medians of three fresh processes each, in turns. The
  same holds for loading by Hugging Face.
* **Steady inference** (batch x tokens): the exports of both tools run in one process, in turns. A row repeats a call as
  often as the slowest fits in half a second, at most 32 times. The first call of a row does not count. If the slowest
  does not fit twice, a row is one call, which counts. The figure is the median of the counted calls, over
  the 3 to 16 rows that fit in 8 s for each tool. Hugging Face's calls run in a separate process without turns.
* **A training step** is a step of Keras' `fit` (2 x 16) with plain gradient descent. The model is
  `hub.KerasLayer(path, trainable=True)` and a dense layer on its pooled output. Each tool has a separate process. The
  first step includes building the graph and the one-time work of TensorFlow.
* **Preprocessing**: batches of 256 sentences of `assets/demo/corpus.txt`, packed to 128 tokens. The preprocessors run
  in one process in turns, like inference.
* **Outputs**: the `sequence_output` of a peer's encoder must agree to 1e-4. Otherwise its figures are left out, and the
  section on failures names it.
* **A large matmul** is the product of two 4096 x 4096 matrices of float32, in the same turns as the inference. The
  operations of an inference are those of its matrix products.
* **Reading and writing the same bytes**: the module's files are read. As many bytes as the release has are written to
  new files and synced to disk.
* **A straight line**: the least-squares line through the medians of the sizes explains at least 0.95 of their variance
  (R²).
* **Before each command**, all written data is synced to disk. The files of a step are in the page cache. Files of
  earlier steps and sizes are not, as far as users can advise the kernel. The order of the contestants changes from size
  to size and from round to round.

## How to repeat it

```sh
make bench                               # all sizes, three rounds: about two hours
make bench SIZES=base ROUNDS=1           # minutes; overwrites this page, too
make bench FLAGS=--resume                # continues an interrupted run
.venv/bin/python -m benchmarks.report    # table and plots from results.json
```'''


def write(results: results_lib.Results, output: pathlib.Path) -> None:
  """Writes the page and the plots to a directory.

  Raises:
    ResultsError: no round is complete, or matplotlib is missing.
  """
  if not results.sizes():
    raise results_lib.ResultsError('results: no complete round; run make bench')
  try:
    from benchmarks import plots
  except ImportError as e:
    raise results_lib.ResultsError(f'plots: cannot be drawn ({e}); run make bench, which installs matplotlib') from e
  (output / NAME).write_text(text(results), encoding='utf-8')
  plots.ratios(results, output / RATIOS)
  plots.growth(results, output / GROWTH)


def text(results: results_lib.Results) -> str:
  """Renders the whole page, in Markdown."""
  parts = [_INTRODUCTION, _setting(results), verdict(results), *_missed(results), f'![Ratios by size]({RATIOS})']
  for against, said in ((figures.TF_MODELS, _TF_MODELS), (figures.HUGGING_FACE, _HUGGING_FACE), (figures.MACHINE, '')):
    parts += [f'## Against {_NAMES[against]}', *([said] if said else []), _table(results, against)]
  if any(row.floor_spread(results.units(size)) for row in figures.ROWS for size in results.sizes()):
    parts += ['## Floors', _FLOORS, _floors(results)]
  parts += [
    '## Growth',
    _growth(results),
    f'![Time and memory by parameters]({GROWTH})',
    '## Failures',
    _failures(results),
    _MEANING,
  ]
  return '\n\n'.join(parts) + '\n'


@dataclasses.dataclass(frozen=True)
class _Goal:
  """A goal's outcome, as a word of `figures.outcome` and as a sentence."""

  outcome: str
  sentence: str


def _outcomes(results: results_lib.Results) -> Iterator[_Goal]:
  """Yields every goal of the measured sizes."""
  for row in figures.ROWS:
    for size in results.sizes():
      spread = row.spread(results.units(size))
      if outcome := row.outcome(size, spread):
        floor = row.floor_spread(results.units(size))
        yield _Goal(
          outcome,
          f'{row.title}, {size}: {spread or "not measured"}, and the goal is {_goal(row, row.goals[size])}'
          + (f'; the {_end(row)} is {floor}' if floor else ''),
        )
  for quantity, title in growth.QUANTITIES.items():
    line = growth.of(results, figures.OURS, quantity).line
    if line is not None:
      straight = figures.Spread.of([line.r_squared])
      floors = growth.of(results, figures.MACHINE, quantity).line
      yield _Goal(
        figures.outcome(straight, growth.STRAIGHT, at_least=True),
        f'a straight line of the parameters, {title}: R² {line.r_squared:.3f}, '
        f'and the goal is at least {growth.STRAIGHT:g}'
        + (f'; the line of the floors has R² {floors.r_squared:.3f}' if floors else ''),
      )


def verdict(results: results_lib.Results) -> str:
  """Counts the goals by outcome, in one line."""
  found = [goal.outcome for goal in _outcomes(results)]
  if not found:
    return f'No goals: goals are set for {", ".join(sizes_lib.PUBLISHED)}.'
  counts = [
    f'{found.count(outcome)} {outcome}'
    for outcome in ('met', 'met by the median', 'missed', 'not measured')
    if outcome in found
  ]
  return f'Of {len(found)} goals: {", ".join(counts)}.'


def _missed(results: results_lib.Results) -> list[str]:
  lines = [f'* {goal.sentence}' for goal in _outcomes(results) if not goal.outcome.startswith('met')]
  return ['Not met:', '\n'.join(lines)] if lines else []


def _setting(results: results_lib.Results) -> str:
  values = results.values
  rounds = {size: len(results.units(size)) for size in results.sizes()}
  lines = [
    f'* **Machine**: {machine.describe(values["machine"])}; load average before the run {values["load_average"]:.2f}',
    '* **Rounds**: ' + ', '.join(f'{size} {count}' for size, count in rounds.items()),
  ]
  if others := results.others():
    lines.append(
      f'* **Other processes** took {statistics.median(others):.0%} of the processors\' time during a command '
      f'(median), and {max(others):.0%} at most' + (': **the machine was not quiet**' if max(others) > _QUIET else '')
    )
  for who, versions in values['versions'].items():
    lines.append(
      f'* **{_NAMES[who].capitalize() if who == figures.OURS else _NAMES[who]}**: '
      + ', '.join(f'{name} {version}' for name, version in versions.items())
    )
  return '\n'.join(lines)


def _table(results: results_lib.Results, against: str) -> str:
  sizes = results.sizes()
  lines = _heading(sizes)
  failed = {(failure.get('size'), failure['who']) for failure in results.failures()}
  for row in figures.ROWS:
    if row.against == against:
      cells = []
      for size in sizes:
        spread = row.spread(results.units(size))
        outcome = row.outcome(size, spread)
        cell = (
          str(spread)
          if spread
          else ' and '.join(_NAMES[who] for who in (figures.OURS, against) if {(size, who), (None, who)} & failed)
        )
        cell = cell if spread else f'{cell} failed' if cell else '–'
        cells.append(cell if not outcome else f'{cell} **{outcome}**')
      lines.append(_line([row.title, *cells, _goals(row)]))
  return '\n'.join(lines)


def _floors(results: results_lib.Results) -> str:
  sizes = results.sizes()
  lines = _heading(sizes)
  for row in figures.ROWS:
    spreads = [row.floor_spread(results.units(size)) for size in sizes]
    if any(spreads):
      lines.append(_line([row.title, *(str(spread or '–') for spread in spreads), _goals(row)]))
  return '\n'.join(lines)


def _heading(sizes: list[str]) -> list[str]:
  return [_line(['', *sizes, 'goal']), _line(['---', *['---:'] * len(sizes), '---'])]


def _end(row: figures.Row) -> str:
  return 'ceiling' if row.at_least else 'floor'


def _goals(row: figures.Row) -> str:
  """Formats goals: 'at most 0.3 (large), 0.25 (xxlarge)', or 'at most 0.1' if all sizes share it."""
  if not row.goals:
    return ''
  if set(row.goals) == set(sizes_lib.PUBLISHED) and len(set(row.goals.values())) == 1:
    return _goal(row, next(iter(row.goals.values())))
  return f'{_bound(row)} ' + ', '.join(f'{value:g} ({size})' for size, value in row.goals.items())


def _goal(row: figures.Row, value: float) -> str:
  return f'{_bound(row)} {value:g}'


def _bound(row: figures.Row) -> str:
  return 'at least' if row.at_least else 'at most'


def _growth(results: results_lib.Results) -> str:
  lines = []
  for figure, title in growth.QUANTITIES.items():
    for who in (figures.OURS, figures.TF_MODELS):
      line = growth.of(results, who, figure).line
      if line is not None:
        lines.append(
          f'* {title}, {_NAMES[who]}: {figures.signed(line.intercept)}, and {figures.signed(line.slope)} '
          f'per million parameters; R² {line.r_squared:.3f}'
        )
  return '\n'.join(lines) if lines else 'A line needs three sizes.'


def _failures(results: results_lib.Results) -> str:
  lines = []
  for failure in results.failures():
    where = f', {failure["size"]}, round {failure["round"]}' if 'size' in failure else ''
    lines.append(f'* **{_NAMES[failure["who"]]}**, {failure["step"]}{where}: {_plain(failure["reason"])}')
  return '\n'.join(lines) if lines else 'None.'


def _plain(text: str) -> str:
  """Quotes a command's output for Markdown."""
  return '`' + ' '.join(text.split()).replace('`', '\'') + '`'


def _line(cells: Iterable[str]) -> str:
  return f'| {" | ".join(cells)} |'
