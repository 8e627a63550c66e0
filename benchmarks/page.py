"""The page of results: table, outcomes, failures, from results.json alone."""

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

# More than this of the processors' time, and others have changed what was measured.
_QUIET = 0.05

_CALLED = {
  figures.OURS: 'this tool',
  figures.TF_MODELS: 'tf-models',
  figures.HUGGING_FACE: 'Hugging Face',
  figures.MACHINE: 'the machine',
}

_INTRODUCTION = '''# Benchmark

Ratios of two measurements of the same round: the median of the rounds, and in brackets the smallest and the largest.
Below 1, this tool takes less than the peer, unless a row says otherwise. A goal is met if the median reaches it, and "by the median" if a
round did not. `make bench` wrote this page; [results.json](results.json) has what was measured.'''

_TF_MODELS = '''tf-models' release is three commands: `tf2_albert_encoder_checkpoint_converter`, `export_tfhub --export_type=model` for the
encoder and `export_tfhub --export_type=preprocessing`. Their times add up; memory is that of the hungriest. They do less than the one
command of this tool: no heads (`--export_type=model_with_mlm` fails for ALBERT: 24 objects of the checkpoint find no place), no proof of
parity, no card, archive or record. This tool's encoder has both heads in its files.'''

_HUGGING_FACE = '''`AlbertModel.from_pretrained` and calls of it in `torch.inference_mode()`, float32, all cores, the same weights and ids. This
tool's side is the export, loaded and called by TensorFlow. No goals were set here.'''

_FLOORS = '''What a figure above would be if nothing were done but what cannot be left out, measured in the same rounds, and divided by the same.
A goal beyond its floor is out of reach in these ways; one that is not may be, too. But for that of inference, a floor is measured in a process of
its own, and processes that do the same differ by chance. Where this tool or its peer has done better, that is taken for the floor.

* **Wall time of a release**: importing TensorFlow, opening the source, saving and packing both models; and of the proof the source's outputs and
  gradient by its graph, in a process of its own, the export's, and the reference in float64. The processor time of each alone, added up and shared
  out to all processors without a loss (or that of the whole release, if that was less); or the time that saving takes, if that is more.
* **Peak memory**: the export loaded, run and differentiated by all of its weights, as users do it. docs/decisions has other ways that were tried, and
  took more time.
* **hub.load**: reading the variables in one operation. **First call**: a steady call of this tool's export, and what the first run of one layer's
  products takes longer than later ones. **Steady inference**, and its share of a large matmul's rate, which is a ceiling: the layers' products with
  kernels alone, by the fastest of three ways that TensorFlow has for them, in the same turns; of four layers, times as many as there are.'''

_MEANING = '''## What is measured

Modules of the published sizes with random weights, from `python -m export.demo`: no figure depends on the values of weights. They have no dropout.

* **A release**: the commands as processes of their own, from start to end. Processor time is user and system time, of descendants too. Peak
  memory of all processes together is sampled every 0.1 s: what is each process's own, and once what is mapped from files; and at least that of
  the largest, as the kernel counts it (`ru_maxrss`). This tool runs the source's graph in a second process beside.
* **An artifact** (both tools') is tried in this tool's environment, so that files are compared, and not two builds of TensorFlow.
* **`hub.load`**, and the first call (2 x 16) of what it returns, called as it is: the medians of three fresh processes each, in turns; Hugging
  Face's loading, too.
* **Steady inference** (batch x tokens), of both tools' in one process, by turns: each is called as often in a row as the slowest fits in half a
  second, 32 times at most, and the first call of a row does not count; if the slowest does not fit twice, each is called once. The median of what
  fits in 8 s for each, 3 rows at least and 16 at most. Hugging Face's is in a process of its own, with nothing in between.
* **A training step** is one of those that Keras' `fit` makes (2 x 16), of `hub.KerasLayer(path, trainable=True)` and a dense layer on its
  pooled output, with plain gradient descent, in a process of its own for each tool. The first one includes building the graph, and what TensorFlow does
  once in a process.
* **Preprocessing** is of batches of 256 sentences of `assets/demo/corpus.txt`, to 128 tokens; in one process by turns, as inference.
* **Outputs**: a peer's encoder must give the same `sequence_output` to 1e-4, or its figures are left out, and it is named below.
* **A large matmul** is the product of two 4096 x 4096 matrices of float32, in the same turns as the inference. The operations of an
  inference are those of its matrix products.
* **Reading and writing the same bytes**: the module's files are read, and as many bytes as the release has are written to new files and
  forced to the disk.
* **A straight line**: the one closest to the medians of the sizes (least squares) explains at least 0.95 of their variance (R²).
* **Before each command** all that was written is forced to the disk. What is needed for a step is in memory, and files of earlier steps and sizes are
  not, as far as users can tell the kernel. The order of the contestants turns from size to size and from round to round.

## Again

```sh
make bench                               # all sizes, three rounds: about two hours
make bench SIZES=base ROUNDS=1           # minutes; writes this page, too
make bench FLAGS=--resume                # goes on where it was ended
.venv/bin/python -m benchmarks.report    # table and plots anew, from results.json
```'''


def write(results: results_lib.Results, output: pathlib.Path) -> None:
  """Writes the page and the plots.

  Raises:
    ResultsError: nothing was measured, or there is nothing to draw with.
  """
  if not results.sizes():
    raise results_lib.ResultsError('nothing was measured to the end: run make bench')
  try:
    from benchmarks import plots
  except ImportError as e:
    raise results_lib.ResultsError(f'no plots ({e}): make bench installs what they need') from e
  (output / NAME).write_text(text(results), encoding='utf-8')
  plots.ratios(results, output / RATIOS)
  plots.growth(results, output / GROWTH)


def text(results: results_lib.Results) -> str:
  """The whole page, in Markdown."""
  parts = [_INTRODUCTION, _setting(results), verdict(results), *_missed(results), f'![Ratios by size]({RATIOS})']
  for against, said in ((figures.TF_MODELS, _TF_MODELS), (figures.HUGGING_FACE, _HUGGING_FACE), (figures.MACHINE, '')):
    parts += [f'## Against {_CALLED[against]}', *([said] if said else []), _table(results, against)]
  if any(row.floor_spread(results.units(size)) for row in figures.ROWS for size in results.sizes()):
    parts += ['## Floors', _FLOORS, _floors(results)]
  parts += [
    '## Growth',
    _growth(results),
    f'![Time and memory by parameters]({GROWTH})',
    '## What failed',
    _failures(results),
    _MEANING,
  ]
  return '\n\n'.join(parts) + '\n'


@dataclasses.dataclass(frozen=True)
class _Goal:
  """A goal, and what came of it: as figures.Row.outcome says it, and as a sentence."""

  outcome: str
  sentence: str


def _outcomes(results: results_lib.Results) -> Iterator[_Goal]:
  """Every goal of the sizes that were measured."""
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
        f'a straight line of the parameters, {title}: R² {line.r_squared:.3f}, and the goal is at least {growth.STRAIGHT:g}'
        + (f'; the line of the floors has R² {floors.r_squared:.3f}' if floors else ''),
      )


def verdict(results: results_lib.Results) -> str:
  """One line: how many goals were met, and how many not."""
  found = [goal.outcome for goal in _outcomes(results)]
  if not found:
    return f'No goals: they are for {", ".join(sizes_lib.PUBLISHED)}.'
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
      f'* **Others** took {statistics.median(others):.0%} of the processors\' time while a command was measured, by the median, and '
      f'{max(others):.0%} at most' + (': **the machine was not quiet**' if max(others) > _QUIET else '')
    )
  for who, versions in values['versions'].items():
    lines.append(
      f'* **{_CALLED[who].capitalize() if who == figures.OURS else _CALLED[who]}**: '
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
        told = (
          str(spread)
          if spread
          else ' and '.join(_CALLED[who] for who in (figures.OURS, against) if {(size, who), (None, who)} & failed)
        )
        told = told if spread else f'{told} failed' if told else '–'
        cells.append(told if not outcome else f'{told} **{outcome}**')
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
  """'at most 0.3 (large), 0.25 (xxlarge)', or 'at most 0.1' if it is the same for all."""
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
          f'* {title}, {_CALLED[who]}: {figures.signed(line.intercept)}, and {figures.signed(line.slope)} for a million parameters; '
          f'R² {line.r_squared:.3f}'
        )
  return '\n'.join(lines) if lines else 'A line needs three sizes.'


def _failures(results: results_lib.Results) -> str:
  lines = []
  for failure in results.failures():
    where = f', {failure["size"]}, round {failure["round"]}' if 'size' in failure else ''
    lines.append(f'* **{_CALLED[failure["who"]]}**, {failure["step"]}{where}: {_plain(failure["reason"])}')
  return '\n'.join(lines) if lines else 'Nothing.'


def _plain(text: str) -> str:
  """What a command said, so that Markdown shows it as it is."""
  return '`' + ' '.join(text.split()).replace('`', '\'') + '`'


def _line(cells: Iterable[str]) -> str:
  return f'| {" | ".join(cells)} |'
