"""Makes releases on Apache Beam: one element for each release, one level after the other."""

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

_FIRST_WAIT_SECONDS = 2.0  # delay before the first retry; doubled for each further one
_WRONG_FLAGS = 2  # exit status for a usage error, which is not retried


@dataclasses.dataclass(frozen=True)
class Job:
  """Parameters that all releases share.

  Attributes:
    export_root: root of the release tree.
    catalogs: texts of the catalogs.
    arguments: common arguments of `python -m export`.
    retries: maximum number of retries of a release.
  """

  export_root: str
  catalogs: tuple[str, ...]
  arguments: tuple[str, ...]
  retries: int


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Outcome of a release.

  Attributes:
    path: path of the release, as 'tensorflow/albert_en_large/2'.
    published: whether the release is in the tree.
    seconds: wall time of all tries, in seconds.
    tries: number of tries.
    why: reason if it is not published; else empty.
  """

  path: str
  published: bool
  seconds: float = 0.0
  tries: int = 0
  why: str = ''


class Failed(Exception):
  """A subprocess failed; the message has the reason."""

  def __init__(self, status: int, why: str):
    super().__init__(why)
    self.status = status


class _Release(beam.DoFn):
  """Maps a Task and the outcomes of all earlier levels to its Outcome."""

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
      # A runner retries an element if its worker dies, also after the release was published.
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
    f'the subprocess was ended by signal {-status}'
    if status < 0
    else f'the subprocess exited with status {status} without a message'
  )


def build(job: Job, levels: Sequence[Sequence[plan_lib.Task]], result: str, pipeline: beam.Pipeline) -> None:
  """Adds the releases to a pipeline.

  Args:
    job: parameters that all releases share.
    levels: levels of a `Plan`.
    result: path of the file for the outcomes, of any file system that `filesystems` supports.
    pipeline: pipeline to add to.
  """
  done = list[Any]()
  for number, tasks in enumerate(levels):
    before = beam.pvalue.AsList(tuple(done) | f'outcomes before level {number}' >> beam.Flatten(pipeline=pipeline))
    done.append(
      pipeline
      | f'level {number}' >> beam.Create(tasks)
      # Without Reshuffle, the runner gives all elements to one worker.
      | f'spread level {number}' >> beam.Reshuffle()
      | f'release level {number}' >> beam.ParDo(_Release(job), before)
    )
  outcomes = beam.pvalue.AsList(tuple(done) | 'outcomes' >> beam.Flatten())
  pipeline | beam.Create([result]) | 'write the outcomes' >> beam.Map(_write, outcomes)


def _write(path: str, outcomes: list[Outcome]) -> None:
  filesystems.write(path, json.dumps([dataclasses.asdict(outcome) for outcome in outcomes]).encode())


def read(path: str) -> list[Outcome]:
  """Returns the outcomes that a pipeline of `build` has written."""
  return [Outcome(**outcome) for outcome in json.loads(filesystems.read(path))]
