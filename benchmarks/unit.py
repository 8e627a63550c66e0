"""Measures one size in one round, for all contestants."""

import dataclasses
import functools
import pathlib
import shutil
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import figures
from benchmarks import measure
from benchmarks import page_cache
from benchmarks import releases
from benchmarks import results as results_lib
from benchmarks import timing
from converters import albert_config
from converters import errors
from export.ui import console as console_lib

# Largest difference of outputs between two correct implementations of the same weights.
_MOST_APART = 1e-4
# Number of fresh processes in which loading and the first call are measured.
_FRESH = 3
# The goal for memory is this multiple of the weights, plus the memory of importing TensorFlow.
_WEIGHTS = 2.5


@dataclasses.dataclass(frozen=True)
class Bench:
  """Settings that all units share.

  Attributes:
    work: directory for modules, releases and logs.
    pythons: interpreter of each environment, by contestant; contestants without an environment are missing.
    timeout: timeout of a command in seconds.
    console: console for progress.
  """

  work: pathlib.Path
  pythons: dict[str, str]
  timeout: float
  console: console_lib.Console

  def module(self, size: str) -> pathlib.Path:
    """Returns the directory of a size's module."""
    return self.work / 'modules' / size

  def hugging_face(self, size: str) -> pathlib.Path:
    """Returns the directory of a size's weights in Hugging Face's format."""
    return self.work / 'huggingface' / size

  def release(self, size: str) -> pathlib.Path:
    """Returns the directory of a size's releases."""
    return self.work / 'releases' / size

  def settle(self, *needed: pathlib.Path) -> None:
    """Loads the files of the next step into the page cache, and drops all other files in `work`."""
    page_cache.settle([self.work / name for name in ('modules', 'huggingface', 'releases')], needed)

  def log(self, *names: str) -> pathlib.Path:
    """Returns the path of log files, as `measure.run` takes it."""
    return self.work / 'logs' / '_'.join(names)


def order(contestants: list[str], turn: int) -> list[str]:
  """Rotates the contestants by `turn`, because the first one runs on a colder machine."""
  first = turn % max(len(contestants), 1)
  return contestants[first:] + contestants[:first]


class Unit:
  """Measures one unit, and writes results.json after every step."""

  def __init__(
    self, bench: Bench, results: results_lib.Results, size: str, number: int, contestants: list[str]
  ) -> None:
    self._bench = bench
    self._results = results
    self._size = size
    self._order = contestants
    self._name = f'{size}_{number}'
    self._values = results.start_unit(size, number, contestants)
    self._config = albert_config.read(bench.module(size) / 'assets/albert_config.json')
    self._made: dict[str, releases.Paths] = {}

  def run(self) -> None:
    """Runs all steps of the unit."""
    for who in self._order:
      if who != figures.HUGGING_FACE:
        self._step(who, 'release', functools.partial(self._release, who))
    # All later steps read these files from the page cache.
    self._bench.settle(
      self._bench.module(self._size),
      self._bench.hugging_face(self._size),
      *(paths.root for paths in self._made.values()),
    )
    self._load_and_call()
    for who in self._order:
      if who != figures.OURS and self._measured('first', figures.OURS) and self._measured('first', who):
        self._step(who, 'same outputs', functools.partial(self._compare, who))
    made = [who for who in self._order if who in self._made]
    alike = [who for who in made if self._measured('first', figures.OURS) and self._measured('first', who)]
    self._step_together(alike, 'inference', self._inference)
    if self._measured('first', figures.HUGGING_FACE):
      self._step(figures.HUGGING_FACE, 'inference', self._inference_of_hugging_face)
    for who in alike:
      self._step(who, 'training', functools.partial(self._training, who))
    self._step_together(made, 'preprocessing', self._preprocessing)
    if figures.OURS in made:
      self._step(figures.OURS, 'disk', self._disk)
      self._bound()
      self._step(figures.OURS, 'floors', self._floors)
    self._values['complete'] = True
    self._results.write()

  def _load_and_call(self) -> None:
    """Measures loading and the first call in fresh processes, in turns. A contestant that fails once is left out."""
    taking_part = [who for who in self._order if who in self._made or who == figures.HUGGING_FACE]
    if figures.OURS in self._made:
      taking_part.append(figures.MACHINE)
    for turn in range(_FRESH):
      for who in order(taking_part, turn):
        if not self._step(who, f'loading {turn + 1}', functools.partial(self._first, who, turn)):
          taking_part.remove(who)
          self._values.get('first', {}).pop(who, None)

  def _step(self, who: str, step: str, action: Callable[[], None]) -> bool:
    """Runs a step of one contestant, records a failure, and returns whether it succeeded."""
    reason = self._attempt([who], step, action)
    if reason is not None:
      self._fail(who, step, reason)
    return reason is None

  def _step_together(self, contestants: list[str], step: str, action: Callable[[list[str]], None]) -> None:
    """Runs a step of several contestants in one process.

    If it fails, the step is repeated for each contestant alone. That finds the failing contestants, and measures the
    others.
    """
    if not contestants:
      return
    reason = self._attempt(contestants, step, functools.partial(action, contestants))
    if reason is not None:
      alone = (
        {who: self._attempt([who], step, functools.partial(action, [who])) for who in contestants}
        if len(contestants) > 1
        else {}
      )
      failures = {who: why for who, why in alone.items() if why is not None}
      for who, why in (failures or dict.fromkeys(contestants, reason)).items():
        self._fail(who, step, why)

  def _attempt(self, contestants: list[str], step: str, action: Callable[[], None]) -> str | None:
    """Runs a step; returns the message of its error, or None if it succeeded."""
    reason = None
    with self._bench.console.step(f'{self._name}: {step}, {" and ".join(contestants)}'):
      try:
        action()
      except (errors.AlbertHubError, OSError, ValueError) as e:
        reason = str(e)
    self._results.write()
    return reason

  def _fail(self, who: str, step: str, reason: str) -> None:
    self._values['failures'].append({'who': who, 'step': step, 'reason': reason})
    self._bench.console.line(f'  {step}, {who}: failed: {reason}')
    self._results.write()

  def _release(self, who: str) -> None:
    bench, root = self._bench, self._bench.release(self._size) / who
    bench.settle(bench.module(self._size))
    log = bench.log(self._name, who, 'release')
    if who == figures.OURS:
      paths, usages = releases.ours(bench.pythons[who], bench.module(self._size), self._size, root, log, bench.timeout)
    else:
      paths, usages = releases.tf_models(bench.pythons[who], bench.module(self._size), root, log, bench.timeout)
    total = measure.Usage.of_sequence(list(usages.values()))
    self._put(
      'release',
      who,
      dataclasses.asdict(total) | {'commands': {name: dataclasses.asdict(u) for name, u in usages.items()}},
    )
    self._put(
      'artifact',
      who,
      {
        'graph': (paths.encoder / 'saved_model.pb').stat().st_size,
        'encoder': releases.size_of(paths.encoder),
        'preprocessor': releases.size_of(paths.preprocessor),
      },
    )
    self._made[who] = paths

  def _first(self, who: str, turn: int) -> None:
    log = f'{who}_first_{turn + 1}'
    if who == figures.MACHINE:
      figures_of, usage = self._probe(
        'benchmarks.probe_first_floors', self._made[figures.OURS].encoder, self._bench.module(self._size), log=log
      )
    elif who == figures.HUGGING_FACE:
      figures_of, usage = self._probe_hugging_face(log=log)
    else:
      figures_of, usage = self._probe(
        'benchmarks.probe_first',
        self._made[who].encoder,
        f'--vocab_size={self._config.vocab_size}',
        f'--outputs={self._outputs(who)}',
        log=log,
      )
    runs = [*self._values.get('first', {}).get(who, {}).get('runs', []), figures_of | {'others': usage.others}]
    self._put(
      'first', who, {name: statistics.median(run[name] for run in runs) for name in figures_of} | {'runs': runs}
    )

  def _inference(self, contestants: list[str]) -> None:
    """Measures the TensorFlow contestants and the products with kernels, in turns in one process."""
    answer, usage = self._probe(
      'benchmarks.probe_steady', self._bench.module(self._size), *(self._made[who].encoder for who in contestants)
    )
    for who, figures_of in zip(contestants, answer['figures'], strict=True):
      self._put('steady', who, figures_of)
    self._put('steady', figures.MACHINE, answer['products'] | {'others': usage.others})

  def _inference_of_hugging_face(self) -> None:
    figures_of, usage = self._probe_hugging_face('--steady')
    del figures_of['load']
    self._put('steady', figures.HUGGING_FACE, figures_of | {'others': usage.others})

  def _training(self, who: str) -> None:
    figures_of, usage = self._probe(
      'benchmarks.probe_training',
      self._made[who].encoder,
      f'--vocab_size={self._config.vocab_size}',
      log=f'{who}_training',
    )
    self._put('training', who, figures_of | {'peak': usage.peak, 'others': usage.others})

  def _preprocessing(self, contestants: list[str]) -> None:
    answer, usage = self._probe('benchmarks.probe_preprocessor', *(self._made[who].preprocessor for who in contestants))
    for who, figures_of in zip(contestants, answer['figures'], strict=True):
      self._put('preprocessor', who, figures_of)
    self._put('preprocessor', figures.MACHINE, {'others': usage.others})

  def _compare(self, who: str) -> None:
    """Checks that a peer's outputs agree with this tool's at tokens that are not padding.

    Raises:
      CommandError: the outputs differ. The peer's figures are removed, because they are of another model.
    """
    real = timing.tokens(self._config.vocab_size, timing.FIRST)[1].astype(bool)
    ours, theirs = (np.load(self._outputs(one)) for one in (figures.OURS, who))
    apart = float(np.max(np.abs(ours[real] - theirs[real]))) if ours.shape == theirs.shape else None
    if apart is None or not apart < _MOST_APART:
      del self._values['first'][who]
      problem = (
        f'shape {list(theirs.shape)} instead of {list(ours.shape)}'
        if apart is None
        else f'differs from this tool\'s by {apart:.1e} (at most {_MOST_APART:.0e})'
      )
      raise measure.CommandError(f'sequence_output: {problem}; correct the weights (all figures are left out)')
    self._put('first', who, {'apart': apart})

  def _disk(self) -> None:
    copy = self._bench.release(self._size) / 'copy'
    shutil.rmtree(copy, ignore_errors=True)  # a killed probe leaves it
    seconds, _ = self._probe(
      'benchmarks.probe_disk', self._bench.module(self._size), self._made[figures.OURS].root, copy
    )
    self._put('disk', figures.OURS, seconds | {'seconds': seconds['read'] + seconds['write']})

  def _floors(self) -> None:
    """Measures the floor of a release: each part of the unavoidable work alone, divided by the number of cores."""
    module, directory = self._bench.module(self._size), self._bench.release(self._size) / 'floor'
    releases.clear(directory)
    parts, usages = {}, {}
    try:
      for part in ('saving', 'source', 'reference', 'export'):
        answer, usages[part] = self._probe(
          'benchmarks.probe_release_floor', part, module, directory, log=f'floor_{part}'
        )
        parts[part] = answer['cpu']
    finally:
      shutil.rmtree(directory)
    # Equal processes differ by chance. The processor time of the whole release is an upper bound of its parts'.
    cpu = min(sum(parts.values()), self._values['release'][figures.OURS]['cpu'])
    wall = max(usages['saving'].wall, cpu / self._results.values['machine']['cores'])
    self._put('release', figures.MACHINE, {'wall': wall, 'together': usages['export'].together, 'parts': parts})

  def _bound(self) -> None:
    weights = sum(p.stat().st_size for p in self._made[figures.OURS].encoder.glob('variables/variables.data-*'))
    imported = self._results.values['import_tensorflow']['peak']
    self._put('bound', figures.OURS, {'weights': weights, 'peak': _WEIGHTS * weights + imported})

  def _probe(self, probe: str, *arguments: str | pathlib.Path, log: str = '') -> tuple[dict[str, Any], measure.Usage]:
    """Runs a probe in this tool's environment for all contestants, to compare files and not builds of TensorFlow."""
    return measure.ask(
      [self._bench.pythons[figures.OURS], '-m', probe, *map(str, arguments)],
      self._bench.log(self._name, log or probe.rpartition('_')[2]),
      self._bench.timeout,
      environment=releases.TENSORFLOW,
    )

  def _probe_hugging_face(self, *flags: str, log: str = 'huggingface') -> tuple[dict[str, Any], measure.Usage]:
    directory, outputs = self._bench.hugging_face(self._size), self._outputs(figures.HUGGING_FACE)
    return measure.ask(
      [
        self._bench.pythons[figures.HUGGING_FACE],
        '-m',
        'benchmarks.probe_huggingface',
        str(directory),
        f'--outputs={outputs}',
        *flags,
      ],
      self._bench.log(self._name, log),
      self._bench.timeout,
    )

  def _put(self, step: str, who: str, values: dict[str, Any]) -> None:
    self._values.setdefault(step, {}).setdefault(who, {}).update(values)

  def _measured(self, step: str, who: str) -> bool:
    return who in self._values.get(step, {})

  def _outputs(self, who: str) -> pathlib.Path:
    return self._bench.work / 'outputs' / f'{self._name}_{who}.npy'
