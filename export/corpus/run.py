"""Compares source and export on a text corpus, from options to results."""

import contextlib
import dataclasses
import json
import os
import pathlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

from converters import errors
from converters import interface
from converters import source as source_lib
from converters.io import temp_dirs
from export import record as record_lib
from export.beam import runner as beam_runner
from export.source import graph as source_graph
from export.source import policy as source_policy
from export.store import tree
from export.ui import console as console_lib

_POLL_SECONDS = 1.0  # interval between updates of the progress bar


@dataclasses.dataclass(frozen=True)
class Request:
  """Parameters of a run.

  Attributes:
    corpus: globs of text files, separated by commas.
    source: path or handle of the source.
    reading: options for reading the source.
    trust: trust in the source.
    release: directory of the encoder's release.
    preprocessor_release: directory of the preprocessor's release; None for the one in the encoder's record.
    output: directory for the results.
    seq_length: maximum positions of a line.
    batch_tokens: maximum positions of a batch, with padding.
    worst: maximum number of listed lines of each kind.
    threads: TensorFlow threads of each model; 0 for the processors divided by the workers.
  """

  corpus: tuple[str, ...]
  source: str
  reading: source_lib.Reading
  trust: source_policy.Trust
  release: str
  preprocessor_release: str | None
  output: str
  seq_length: int
  batch_tokens: int
  worst: int
  threads: int


def run(request: Request, console: console_lib.Console) -> None:
  """Compares source and export, writes the results, and prints them.

  Raises:
    UsageError: an option is invalid, or Apache Beam is not installed.
    GoldenError: source, release and preprocessor do not belong together, or the source has no graph.
    ParityError: source and export differ by more than the tolerance, or a line was not compared; the results are
      written before.
    RunError: the pipeline failed or was interrupted.
  """
  options = beam_runner.options()
  try:
    # These import Beam and boost-histogram.
    from export.beam import filesystems
    from export.corpus import models
    from export.corpus import page
    from export.corpus import pipeline
    from export.corpus import verdict
  except ImportError as e:
    raise errors.UsageError(
      f'option corpus: a package is not installed ({e}); run pip install "albert-hub-export[beam]"'
    ) from e
  patterns = tuple(part for text in request.corpus for part in text.split(',') if part)
  if not patterns:
    raise errors.UsageError('option corpus=: empty; give files, as \'texts/*.txt.gz\'')
  pieces = pipeline.count(patterns)  # fails early if no file matches
  source_lib.check_handle(request.source)
  with console.step('open source and release'):
    job, record, preprocessor = _job(request, options)
  try:
    with _output(request.output, options) as place:
      start = time.monotonic()
      # The progress of workers in other processes is unknown.
      total = pieces if beam_runner.is_embedded(options) else None
      with (
        console.step(f'compare on {workers_of_a_run(options)} workers', total=total) as advance,
        _polled_progress(job, advance),
      ):
        beam_runner.run(lambda p: pipeline.build(job, patterns, place, p), options)
      seconds = time.monotonic() - start
      found = json.loads(filesystems.read(place))
  except KeyboardInterrupt:
    raise errors.RunError('comparison: interrupted (no results were written); run it again') from None
  finally:
    models.close()
  results = _results(found, request, record, preprocessor, seconds, workers_of_a_run(options), job.workers)
  faults = verdict.faults(results)
  results['verdict'] = '; '.join(faults) or 'Source and export agree within tolerance on every line.'
  if not faults and (
    missed := [
      head for head in job.signatures if not {*interface.SIGNATURES[head].head_outputs} <= results['outputs'].keys()
    ]
  ):
    results['verdict'] += f' Not compared, since there were too few batches: {", ".join(missed)}.'
  results['passed'] = not faults
  # results.json is last: its presence means that the output is complete.
  for name, text in (
    ('index.html', page.html(results)),
    ('README.md', page.markdown(results)),
    ('results.json', json.dumps(results, indent=1, allow_nan=False) + '\n'),
  ):
    filesystems.write(f'{request.output.rstrip("/")}/{name}', text.encode())
  console.table(
    'Differences between source and export',
    ['output', 'values', 'rms', 'allowed', '50 %', '99 %', '99.99 %', 'largest', 'allowed'],
    page.rows(results),
  )
  console.facts('Lines', page.counts(results))
  console.table('Where the workers\' time went', ['work', 'seconds', 'share'], page.work(results))
  console.line(f'\n{", ".join(" ".join(fact) for fact in page.facts(results))}')
  console.line(f'Results: {request.output}')
  if faults:
    raise errors.ParityError(
      f'{request.release}: no parity on this corpus ({results["verdict"]}); see {request.output}'
    )


def _job(request: Request, options: Any) -> tuple[Any, record_lib.Encoder, str]:
  """Returns the parameters for workers, the encoder's record, and the preprocessor's release path.

  A release path is, for example, 'tensorflow/albert_en_preprocess/3'.
  """
  from export.corpus import models

  with tree.release_at(request.release) as release, source_lib.open_source(request.source, request.reading) as source:
    record = record_lib.read(release)
    if not isinstance(record, record_lib.Encoder):
      raise errors.GoldenError(
        f'{request.release}: not an encoder (kind {record.kind}); give the directory of an encoder'
      )
    if record.source.digest != source.digest:
      raise errors.GoldenError(
        f'{request.release}: not made from {request.source} (made from {record.source.digest}, given '
        f'{source.digest}); give its source'
      )
    if source.graph is None:
      raise errors.GoldenError(
        f'{request.source}: no graph to compare with ({source.format}); compare this source with the reference by '
        'python -m export.verify'
      )
    source_graph.check(source.graph, request.trust.graph)
    positions = source.config.max_position_embeddings
    if request.seq_length > positions:
      raise errors.UsageError(
        f'option seq_length={request.seq_length}: too large (the model has {positions} positions); give a smaller one'
      )
    preprocessor = request.preprocessor_release or tree.beside(request.release, record.preprocessor)
    with tree.release_at(preprocessor) as path:
      companion = record_lib.read(path)
    if not isinstance(companion, record_lib.Preprocessor) or companion.source.sp_model.digest != source.sp_model_digest:
      raise errors.GoldenError(
        f'{preprocessor}: not made from the SentencePiece model of {request.source}; give its preprocessor with '
        'option preprocessor_release'
      )
    workers = workers_of_a_process(options)
    job = models.Job(
      name=uuid.uuid4().hex,
      source=_absolute(request.source),
      reading=request.reading,
      digest=source.digest,
      release=_absolute(request.release),
      preprocessor=_absolute(preprocessor),
      interface=record.interface,
      signatures=tuple(interface.signatures(record_lib.parts(record) & source.provable)),
      hidden=source.config.hidden_size,
      pooler=record_lib.config(record).pooler,
      words=source.config.vocab_size,
      version=record_lib.version(companion),
      seq_length=request.seq_length,
      batch_tokens=request.batch_tokens,
      trust=request.trust,
      workers=workers,
      threads=request.threads
      or (
        max(1, len(os.sched_getaffinity(0)) // workers_of_a_run(options)) if workers_of_a_run(options) > workers else 0
      ),
      keep=request.worst,
    )
    return job, record, companion.release


@contextlib.contextmanager
def _polled_progress(job: Any, advance: console_lib.Advance) -> Iterator[None]:
  """Advances the progress bar while the context is open, from this process's count of finished pieces."""
  from export.corpus import models

  shown = 0

  def look() -> None:
    nonlocal shown
    finished = models.finished(job)
    advance(finished - shown)
    shown = finished

  with beam_runner.looking(look, _POLL_SECONDS):
    yield


def _absolute(path: str) -> str:
  """Returns a path as an absolute one, since workers may have another working directory."""
  return path if '://' in path else os.path.abspath(path)


def workers_of_a_run(options: Any) -> int:
  """Returns the number of workers of a run by its options; 1 for a remote runner without Beam's direct_num_workers."""
  from apache_beam.options import pipeline_options

  given = options.view_as(pipeline_options.DirectOptions)
  if not beam_runner.is_embedded(options):
    return max(1, given.direct_num_workers or 1)
  return given.direct_num_workers or len(os.sched_getaffinity(0))


def workers_of_a_process(options: Any) -> int:
  """Returns the number of workers in one process of the runner.

  The embedded runner's workers are threads of this process.
  """
  return workers_of_a_run(options) if beam_runner.is_embedded(options) else 1


@contextlib.contextmanager
def _output(directory: str, options: Any) -> Iterator[str]:
  """Makes the directory for the results, and yields the path for the summary.

  Removes the summary at the end, and after an error also a new empty directory.
  """
  from export.beam import filesystems

  is_here = '://' not in directory.removeprefix('file://')
  path = pathlib.Path(directory.removeprefix('file://'))
  is_new = is_here and not path.exists()
  filesystems.make(directory)
  found = f'{directory.rstrip("/")}/.found-{uuid.uuid4().hex}.json'
  try:
    filesystems.write(found, b'{}')  # a missing write permission fails now, not after hours
    if beam_runner.is_embedded(options):
      filesystems.remove(found)
      with temp_dirs.directory('albert_corpus_') as temporary:
        yield str(temporary / 'found.json')
    else:  # in the output directory, which all workers can write
      yield os.path.abspath(found) if is_here and '://' not in found else found
  except BaseException:
    filesystems.remove(found)
    if is_new:
      with contextlib.suppress(OSError):
        path.rmdir()
    raise
  filesystems.remove(found)


def _results(
  found: dict[str, Any],
  request: Request,
  record: record_lib.Encoder,
  preprocessor: str,
  seconds: float,
  workers: int,
  in_one_process: int,
) -> dict[str, Any]:
  from export.corpus import verdict

  run, lines = found.pop('run'), found['lines']
  encoder = run['seconds'].get('encoder', 0.0)
  memory = run['memory']
  rate = lines / seconds
  run |= {
    'workers': workers,
    'wall_seconds': seconds,
    'lines_per_second': rate,
    'tokens_per_second': found['tokens'] / seconds,
    # Throughput of the same workers if they only called the encoder on the same batches.
    'encoder_lines_per_second': workers * lines / encoder if encoder else 0.0,
    'share_of_encoder': rate * encoder / (workers * lines) if lines else 0.0,
    # Memory of a worker's two subprocesses and of its share of the runner's process: an upper bound, since the peaks
    # are at different times.
    'memory_per_worker': sum(memory.values()) - memory.get('worker', 0) * (in_one_process - 1) // in_one_process,
  }
  return {
    'release': record.release,
    'preprocessor': preprocessor,
    'source': record.source.digest,
    'corpus': list(request.corpus),
    'seq_length': request.seq_length,
    'batch_tokens': request.batch_tokens,
    **found,
    'allowed': {name: verdict.allowed(record, name, output['values']) for name, output in found['outputs'].items()},
    'run': run,
  }
