"""Releases on Apache Beam: one element a release, level after level."""

import dataclasses
import json
import time
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.utils import retry

from export.beam import filesystems
from export.fleet import own_process
from export.fleet import plan as plan_lib
from export.store import tree as tree_lib

_FIRST_WAIT_SECONDS = 2.0  # before something is tried again; then twice that, and so on
_WRONG_FLAGS = 2  # the exit status for what will not get better by trying


@dataclasses.dataclass(frozen=True)
class Job:
  """What all releases have in common.

  Attributes:
    export_root: the root of the tree.
    catalogs: the text of each.
    arguments: for `python -m export`.
    retries: how often what failed is tried again.
  """

  export_root: str
  catalogs: tuple[str, ...]
  arguments: tuple[str, ...]
  retries: int


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of a release.

  Attributes:
    path: 'tensorflow/albert_en_large/2'.
    published: whether it is in the tree.
    seconds: how long that took, with all its tries.
    tries: how many.
    why: it is not.
  """

  path: str
  published: bool
  seconds: float = 0.0
  tries: int = 0
  why: str = ''


class Failed(Exception):
  """A process that did not release; what it said."""

  def __init__(self, status: int, why: str):
    super().__init__(why)
    self.status = status


class _Release(beam.DoFn):
  """A Task and the outcomes of all levels before -> its Outcome."""

  def __init__(self, job: Job):
    self._job = job

  def process(self, task: plan_lib.Task, before: Iterable[Outcome]) -> Iterator[Outcome]:
    missing = {outcome.path for outcome in before if not outcome.published}
    if waits_for := [path for path in task.needs if path in missing]:
      yield Outcome(task.path, False, why=f'not tried: {waits_for[0]} is not published')
      return
    start, tries = time.monotonic(), 0

    @retry.with_exponential_backoff(
      num_retries=self._job.retries,
      initial_delay_secs=_FIRST_WAIT_SECONDS,
      logger=lambda *words: None,
      retry_filter=lambda e: isinstance(e, Failed) and e.status != _WRONG_FLAGS,
    )
    def release() -> None:
      nonlocal tries
      # A runner may hand out an element again, whose release was made before its worker died.
      tree = tree_lib.at(self._job.export_root)
      if all(tree_lib.holds(tree, path) for path in task.makes):
        return
      tries += 1
      status, said = own_process.run(
        [*task.arguments, f'--export_root={self._job.export_root}', *self._job.arguments],
        self._job.catalogs[task.catalog],
      )
      if status != 0:
        raise Failed(status, _why(status, said))

    try:
      release()
      yield Outcome(task.path, True, time.monotonic() - start, tries)
    except Failed as e:
      yield Outcome(task.path, False, time.monotonic() - start, tries, str(e))


def _why(status: int, said: str) -> str:
  for line in reversed(said.splitlines()):
    if line.startswith('error: '):
      return line.removeprefix('error: ')
  return (
    f'its process was ended by signal {-status}'
    if status < 0
    else f'its process ended with status {status} and said nothing'
  )


def build(job: Job, levels: Sequence[Sequence[plan_lib.Task]], result: str, pipeline: beam.Pipeline) -> None:
  """Adds the releases to a pipeline.

  Args:
    job: what they have in common.
    levels: of a `Plan`.
    result: the file to write with the outcomes, wherever `places` reaches.
    pipeline: to add to.
  """
  done = list[Any]()
  for number, tasks in enumerate(levels):
    before = beam.pvalue.AsList(tuple(done) | f'outcomes before level {number}' >> beam.Flatten(pipeline=pipeline))
    done.append(
      pipeline
      | f'level {number}' >> beam.Create(tasks)
      # As the runner likes: else it takes them all for one piece of work.
      | f'spread level {number}' >> beam.Reshuffle()
      | f'release level {number}' >> beam.ParDo(_Release(job), before)
    )
  outcomes = beam.pvalue.AsList(tuple(done) | 'outcomes' >> beam.Flatten())
  pipeline | beam.Create([result]) | 'write the outcomes' >> beam.Map(_write, outcomes)


def _write(path: str, outcomes: list[Outcome]) -> None:
  filesystems.write(path, json.dumps([dataclasses.asdict(outcome) for outcome in outcomes]).encode())


def read(path: str) -> list[Outcome]:
  """What a pipeline of `build` has written."""
  return [Outcome(**outcome) for outcome in json.loads(filesystems.read(path))]
