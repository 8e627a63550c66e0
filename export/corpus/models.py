"""The models of a job in a process of the runner: opened once, and run in processes of their own, a pair of them for every worker."""

import atexit
import contextlib
import dataclasses
import os
import pathlib
import queue
import resource
import threading
from collections.abc import Iterator

import sentencepiece as spm

from converters import cli
from converters import errors
from converters import source as source_lib
from export.corpus import child
from export.source import policy as source_policy
from export.source import sandbox
from export.store import tree


@dataclasses.dataclass(frozen=True)
class Job:
  """What every worker is told.

  Attributes:
    name: of this run, and no other.
    source, reading, digest: the source, how it is read, and what it must be.
    release, preprocessor: directories of the encoder and its companion, in any tree.
    interface: of the encoder: 'dict' or 'list'.
    signatures: of the source, that are compared, 'tokens' first.
    hidden, words: numbers in a position of `sequence_output`, and of the logits.
    version: of the preprocessor's contract.
    seq_length: the most positions of a line.
    batch_tokens: the most positions of a batch, with padding.
    trust: how far the source is trusted.
    workers: pairs of models in one process of the runner.
    threads: of TensorFlow, for each model; 0 for its share of the processors.
    keep: lines that are kept of each kind.
  """

  name: str
  source: str
  reading: source_lib.Reading
  digest: str
  release: str
  preprocessor: str
  interface: str
  signatures: tuple[str, ...]
  hidden: int
  words: int
  version: int
  seq_length: int
  batch_tokens: int
  trust: source_policy.Trust
  workers: int
  threads: int
  keep: int


class Pair:
  """The two processes of a worker, and the vocabulary.

  Attributes:
    job: what they are for.
    source, export: the processes.
    processor: SentencePiece, for the rule that both are held against.
  """

  def __init__(self, job: Job, source: source_lib.Source, release: pathlib.Path, preprocessor: pathlib.Path):
    self.job = job
    self.processor = spm.SentencePieceProcessor(model_proto=source.sp_model)
    threads = job.threads or max(1, len(os.sched_getaffinity(0)) // job.workers)
    # There is no end to the processor time that a corpus may take: in its place, an answer has its time.
    unlimited = sandbox.Limits(job.trust.memory_gib << 30, resource.RLIM_INFINITY, 1 << 20)
    self.source = child.Child(
      child.Recipe(
        'export.corpus.source_side',
        {'model': str(source.path.absolute()), 'signatures': job.signatures, 'trusted': job.trust.graph},
        threads,
        True,
        unlimited,
        job.trust.cpu_seconds,
      )
    )
    self.export = child.Child(
      child.Recipe(
        'export.corpus.export_side',
        {
          'model': str(release),
          'preprocessor': str(preprocessor),
          'interface': job.interface,
          'signatures': job.signatures,
        },
        threads,
        False,
        unlimited,
        job.trust.cpu_seconds,
      )
    )

  def end(self) -> None:
    self.source.end()
    self.export.end()

  def close(self) -> None:
    self.source.close()
    self.export.close()


class _Models:
  def __init__(self, job: Job):
    self.finished = 0
    self._stack = contextlib.ExitStack()
    cli.set_environment()
    source = self._stack.enter_context(source_lib.open_source(job.source, job.reading))
    if source.digest != job.digest:
      raise errors.SourceError(
        f'{job.source} is {source.digest} on a worker, and {job.digest} where it was started: give a place where all find the same'
      )
    paths = [self._stack.enter_context(tree.release_at(path)) for path in (job.release, job.preprocessor)]
    self._pairs = [Pair(job, source, *paths) for _ in range(job.workers)]
    self._idle = queue.SimpleQueue[Pair]()
    for pair in self._pairs:
      self._idle.put(pair)

  @contextlib.contextmanager
  def pair(self) -> Iterator[Pair]:
    pair = self._idle.get()
    try:
      yield pair
    finally:
      self._idle.put(pair)

  def close(self) -> None:
    for pair in self._pairs:
      pair.end()
    for pair in self._pairs:
      pair.close()
    self._stack.close()


_open = dict[str, _Models]()
_lock = threading.Lock()


@contextlib.contextmanager
def pair(job: Job) -> Iterator[Pair]:
  """A pair of models that nobody else uses meanwhile. However many threads a runner has, there are no more pairs than workers.

  Raises:
    SourceError: there is another source on this machine, or none.
  """
  with _lock:
    if job.name not in _open:
      _open[job.name] = _Models(job)
    models = _open[job.name]
  with models.pair() as mine:
    yield mine
  with _lock:
    models.finished += 1


def finished(job: Job) -> int:
  """How many times a pair of them has been used in this process, and given back."""
  with _lock:
    return _open[job.name].finished if job.name in _open else 0


@atexit.register
def close() -> None:
  """Ends all models in this process."""
  with _lock:
    for name in list(_open):
      _open.pop(name).close()
