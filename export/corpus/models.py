"""Holds the models of a job in a process of the runner: one pair of subprocesses for each worker."""

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
  """Parameters of a comparison, which every worker gets.

  Attributes:
    name: unique name of the run.
    source: path or handle of the source.
    reading: options for reading the source.
    digest: expected digest of the source.
    release: directory of the encoder, in any tree.
    preprocessor: directory of the preprocessor, in any tree.
    interface: interface of the encoder, 'dict' or 'list'.
    signatures: compared signatures of the source, 'tokens' first.
    hidden: hidden size.
    pooler: whether the encoder has a pooled output.
    words: vocabulary size.
    version: version of the preprocessor's contract.
    seq_length: maximum positions of a line.
    batch_tokens: maximum positions of a batch, with padding.
    trust: trust in the source.
    workers: number of model pairs in one process of the runner.
    threads: TensorFlow threads of each model; 0 for the processors divided by the workers.
    keep: maximum number of listed lines of each kind.
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
  pooler: bool
  words: int
  version: int
  seq_length: int
  batch_tokens: int
  trust: source_policy.Trust
  workers: int
  threads: int
  keep: int


class Pair:
  """The two subprocesses of a worker, and the reference tokenizer.

  Attributes:
    job: parameters of the comparison.
    source: subprocess of the source's graph.
    export: subprocess of the exported models.
    processor: SentencePiece processor of the reference tokenization.
    setting: letter case and accents of the reference tokenization.
  """

  def __init__(self, job: Job, source: source_lib.Source, release: pathlib.Path, preprocessor: pathlib.Path):
    self.job = job
    self.processor = spm.SentencePieceProcessor(model_proto=source.sp_model)
    self.setting = source.tokenization
    threads = job.threads or max(1, len(os.sched_getaffinity(0)) // job.workers)
    # A corpus takes unlimited processor time, so each answer has a timeout instead.
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
    """Kills both subprocesses permanently."""
    self.source.end()
    self.export.end()

  def close(self) -> None:
    """Kills both subprocesses and waits for their end."""
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
        f'{job.source}: differs between a worker and this run\'s start (digests {source.digest} and {job.digest}); '
        'give a source at one address for all workers'
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
  """Lends a pair of models exclusively; a process has one pair for each worker, for any number of threads.

  Raises:
    SourceError: the source is missing on this machine, or has another digest.
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
  """Returns how many times this process has completed the use of a pair."""
  with _lock:
    return _open[job.name].finished if job.name in _open else 0


@atexit.register
def close() -> None:
  """Kills the subprocesses of all jobs of this process."""
  with _lock:
    for name in list(_open):
      _open.pop(name).close()
