"""One size in one round: everything is measured for all contestants, one after the other."""

import contextlib
import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import figures
from benchmarks import measure
from benchmarks import releases
from benchmarks import results as results_lib
from benchmarks import sizes
from benchmarks import timing
from converters import config as config_lib
from converters import errors
from export import console as console_lib

# Two right implementations of the same weights are closer than this.
_MOST_APART = 1e-4
# The goal for memory: so many times the weights, and what importing TensorFlow takes.
_WEIGHTS = 2.5


@dataclasses.dataclass(frozen=True)
class Bench:
  """What all units share.

  Attributes:
    work: directory for modules, releases and logs.
    pythons: the interpreter of each environment, by contestant; those that are not there are left out.
    timeout: seconds that a command may take.
    console: where progress is told.
  """
  work: pathlib.Path
  pythons: dict[str, str]
  timeout: float
  console: console_lib.Console

  def module(self, size: str) -> pathlib.Path:
    return self.work / 'modules' / size

  def hugging_face(self, size: str) -> pathlib.Path:
    return self.work / 'huggingface' / size

  def log(self, *names: str) -> pathlib.Path:
    return self.work / 'logs' / '_'.join(names)


def order(contestants: list[str], turn: int) -> list[str]:
  """Who comes first meets a colder machine: so it is another one in the next turn."""
  first = turn % len(contestants)
  return contestants[first:] + contestants[:first]


class Unit:
  """Measures one, and keeps what was measured after every step."""

  def __init__(self, bench: Bench, results: results_lib.Results, size: str, number: int, order: list[str]) -> None:
    self._bench = bench
    self._results = results
    self._size = size
    self._order = order
    self._name = f'{size}_{number}'
    self._values = results.start_unit(size, number, order)
    self._config = config_lib.read(bench.module(size) / 'assets/albert_config.json')
    self._made: dict[str, releases.Paths] = {}

  def run(self) -> None:
    for who in self._order:
      self._step(who, 'release', functools.partial(self._release, who), when=who != figures.HUGGING_FACE)
    for who in self._order:
      self._step(who, 'encoder', functools.partial(self._encoder, who), when=who in self._made or who == figures.HUGGING_FACE)
    for who in self._order:
      self._step(who, 'preprocessor', functools.partial(self._preprocessor, who), when=who in self._made)
    for who in self._order:
      both = self._measured('encoder', figures.OURS) and self._measured('encoder', who)
      self._step(who, 'same outputs', functools.partial(self._compare, who), when=who != figures.OURS and both)
    if figures.OURS in self._made:
      self._step(figures.OURS, 'disk', self._disk)
      self._bound()
      self._step(figures.OURS, 'floors', self._floors)
    self._values['complete'] = True
    self._results.write()

  def _step(self, who: str, step: str, action: Callable[[], None], when: bool = True) -> None:
    if not when:
      return
    with self._bench.console.step(f'{self._name}: {step}, {who}'), self._failing(who, step):
      action()
    self._results.write()

  @contextlib.contextmanager
  def _failing(self, who: str, step: str) -> Iterator[None]:
    """A contestant that fails is told of, and the others go on."""
    try:
      yield
    except (errors.AlbertHubError, OSError, ValueError) as e:
      self._values['failures'].append({'who': who, 'step': step, 'reason': str(e)})
      self._bench.console.line(f'  {step}, {who}: failed: {e}')

  def _release(self, who: str) -> None:
    bench, root = self._bench, self._bench.work / 'releases' / self._size / who
    log = bench.log(self._name, who, 'release')
    if who == figures.OURS:
      paths, usages = releases.ours(bench.pythons[who], bench.module(self._size), self._size, root, log, bench.timeout)
    else:
      paths, usages = releases.tf_models(bench.pythons[who], bench.module(self._size), root, log, bench.timeout)
    total = measure.Usage.of_sequence(list(usages.values()))
    self._put('release', who, dataclasses.asdict(total) | {'commands': {name: dataclasses.asdict(u) for name, u in usages.items()}})
    self._put('artifact', who, {'graph': (paths.encoder / 'saved_model.pb').stat().st_size, 'encoder': releases.size_of(paths.encoder),
                                'preprocessor': releases.size_of(paths.preprocessor)})
    self._made[who] = paths

  def _encoder(self, who: str) -> None:
    if who == figures.HUGGING_FACE:
      python, arguments = self._bench.pythons[who], ['benchmarks.probe_huggingface', str(self._bench.hugging_face(self._size))]
    else:
      # This tool's environment for both: what is compared is what was made, and not two builds of TensorFlow.
      python = self._bench.pythons[figures.OURS]
      arguments = ['benchmarks.probe_encoder', str(self._made[who].encoder), f'--vocab_size={self._config.vocab_size}']
    figures_of, usage = measure.ask([python, '-m', *arguments, f'--outputs={self._outputs(who)}'],
                                    self._bench.log(self._name, who, 'encoder'), self._bench.timeout, environment=releases.TENSORFLOW)
    seconds = figures_of[f'steady_{timing.name(timing.SHAPES[-1])}']
    rate = sizes.forward_flops(self._config, *timing.SHAPES[-1]) / seconds
    self._put('encoder', who, figures_of | {'inference_flops': rate, 'peak': usage.peak, 'others': usage.others})

  def _preprocessor(self, who: str) -> None:
    figures_of, usage = measure.ask([self._bench.pythons[figures.OURS], '-m', 'benchmarks.probe_preprocessor', str(self._made[who].preprocessor)],
                                    self._bench.log(self._name, who, 'preprocessor'), self._bench.timeout, environment=releases.TENSORFLOW)
    self._put('preprocessor', who, figures_of | {'others': usage.others})

  def _compare(self, who: str) -> None:
    """Checks that a peer computes what this tool's export does: else its times would say nothing."""
    real = timing.tokens(self._config.vocab_size, timing.FIRST)[1].astype(bool)  # what stands at padding is nobody's concern
    ours, theirs = (np.load(self._outputs(one))[real] for one in (figures.OURS, who))
    apart = float(np.max(np.abs(ours - theirs)))
    self._values['encoder'][who]['apart'] = apart
    if not apart < _MOST_APART:
      del self._values['encoder'][who]
      raise measure.CommandError(f'its sequence_output is {apart:.1e} from this tool\'s: its figures are of another model, and left out')

  def _disk(self) -> None:
    bench = self._bench
    copy = bench.work / 'releases' / self._size / 'copy'
    shutil.rmtree(copy, ignore_errors=True)  # of a probe that was killed
    seconds, _ = measure.ask([bench.pythons[figures.OURS], '-m', 'benchmarks.probe_disk', str(bench.module(self._size)),
                              str(self._made[figures.OURS].root), str(copy)], bench.log(self._name, 'disk'), bench.timeout)
    self._put('disk', figures.OURS, seconds | {'seconds': seconds['read'] + seconds['write']})

  def _floors(self) -> None:
    """What cannot be left out. A release: what its parts take alone, shared out to all processors."""
    bench = self._bench
    module = str(bench.module(self._size))
    directory = bench.work / 'releases' / self._size / 'floor'
    releases.clear(directory)
    parts, usages = {}, {}
    try:
      for part in ('saving', 'source', 'reference', 'export'):
        answer, usages[part] = measure.ask([bench.pythons[figures.OURS], '-m', 'benchmarks.probe_release_floor', part, module, str(directory)],
                                           bench.log(self._name, 'floor', part), bench.timeout, environment=releases.TENSORFLOW)
        parts[part] = answer['cpu']
    finally:
      shutil.rmtree(directory)
    calls, _ = measure.ask([bench.pythons[figures.OURS], '-m', 'benchmarks.probe_call_floors', str(self._made[figures.OURS].encoder), module],
                           bench.log(self._name, 'floor', 'calls'), bench.timeout, environment=releases.TENSORFLOW)
    # Processes that do the same take more or less from time to time: what a whole release has taken is enough for all of it.
    cpu = min(sum(parts.values()), self._values['release'][figures.OURS]['cpu'])
    wall = max(usages['saving'].wall, cpu / self._results.values['machine']['cores'])
    self._put('floor', figures.OURS, calls | {'wall': wall, 'together': usages['export'].together, 'parts': parts})

  def _bound(self) -> None:
    weights = sum(p.stat().st_size for p in self._made[figures.OURS].encoder.glob('variables/variables.data-*'))
    imported = self._results.values['import_tensorflow']['peak']
    self._put('bound', figures.OURS, {'weights': weights, 'peak': _WEIGHTS * weights + imported})

  def _put(self, step: str, who: str, values: dict[str, Any]) -> None:
    self._values.setdefault(step, {})[who] = values

  def _measured(self, step: str, who: str) -> bool:
    return who in self._values.get(step, {})

  def _outputs(self, who: str) -> pathlib.Path:
    return self._bench.work / 'outputs' / f'{self._name}_{who}.npy'
