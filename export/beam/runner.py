"""Runs a pipeline of Apache Beam: where and how, by Beam's own flags."""

import contextlib
import io
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from converters import cli
from converters import errors
from converters.io import temp_dirs

# Beam's names for what runs a pipeline on this machine. Its DirectRunner tries first to fetch another runner's program
# from the internet; this is what it falls back to.
_DIRECT = ('DirectRunner', 'SwitchingDirectRunner', 'direct', '')
_EMBEDDED = 'FnApiRunner'
_SUBPROCESSES = 'multi_processing'


def options() -> Any:
  """The pipeline's options, from the flags that are Beam's.

  Without Beam's flags, a pipeline runs on this machine, in one thread per processor. Every long or native computation
  has its own
  subprocess already, so worker subprocesses of the runner would add nothing. They are refused: the embedded runner
  waits forever for
  a worker subprocess that died (Apache Beam 2.77).

  Returns:
    PipelineOptions.

  Raises:
    UsageError: Apache Beam is not installed, or flags that it does not know, or cannot mean.
  """
  try:
    from apache_beam.options import pipeline_options
  except ImportError as e:
    raise errors.UsageError(f'Apache Beam is not installed ({e}): pip install "albert-hub-export[beam]"') from e
  words = cli.others_flags()
  for before, word in zip(['', *words], words, strict=False):
    if not word.startswith('-') and (not before.startswith('--') or '=' in before):
      raise errors.UsageError(f'{word!r} is no flag: see --help')
  given = pipeline_options.PipelineOptions(words)
  complaint = io.StringIO()
  try:
    with _silent(), contextlib.redirect_stderr(complaint):
      known = given.get_all_options(drop_default=True)
      unknown = sorted(given.get_all_options(drop_default=True, retain_unknown_options=True).keys() - known.keys())
  except SystemExit:
    raise errors.UsageError(
      f'{complaint.getvalue().strip().rpartition("error: ")[2]}: see Beam\'s pipeline options'
    ) from None
  embedded = known.get('runner', '') in (*_DIRECT, _EMBEDDED)
  if unknown and embedded:  # other runners have options that only they know
    raise errors.UsageError(
      f'--{unknown[0]} is no flag, neither here nor of Beam: see --help, and Beam\'s pipeline options'
    )
  if not embedded:
    return given
  if known.get('direct_running_mode') == _SUBPROCESSES:
    raise errors.UsageError(
      f'--direct_running_mode={_SUBPROCESSES}: not supported (the runner would wait forever for a worker that died); '
      'leave the flag out'
    )
  if known.get('direct_num_workers', 1) < 0:
    raise errors.UsageError(f'--direct_num_workers={known["direct_num_workers"]}: give how many there are to be')
  defaults = {'direct_running_mode': 'multi_threading', 'direct_num_workers': len(os.sched_getaffinity(0))}
  return pipeline_options.PipelineOptions(
    words, runner=_EMBEDDED, **{name: value for name, value in defaults.items() if not _says(words, name)}
  )


def run(build: Callable[[Any], None], options: Any) -> Any:
  """Builds a pipeline, runs it, and waits for its end.

  Args:
    build: gets the Pipeline, and adds to it.
    options: from `options`.

  Returns:
    Beam's PipelineResult.

  Raises:
    RunError: it failed.
  """
  import apache_beam as beam

  with _silent():
    try:
      pipeline = beam.Pipeline(options=options)
    except (ValueError, ImportError) as e:  # a runner that there is not
      raise errors.UsageError(f'Beam has no such pipeline ({_said(e)}): see its pipeline options') from e
    build(pipeline)
    try:
      result = pipeline.run()
      state = result.wait_until_finish()
    except Exception as e:  # of whatever the runner is made of
      raise errors.RunError(f'the pipeline failed ({_said(e)}): see the runner\'s own log, and run it again') from e
  if str(state) != beam.runners.runner.PipelineState.DONE:
    raise errors.RunError(f'the pipeline ended as {state}: see the runner\'s own log, and run it again')
  return result


def is_embedded(options: Any) -> bool:
  """Whether all workers are on this machine, and started by this process."""
  from apache_beam.options import pipeline_options

  return options.view_as(pipeline_options.StandardOptions).runner == _EMBEDDED


@contextlib.contextmanager
def own_temporary_files() -> Iterator[None]:
  """Everything temporary in one directory, which is gone afterwards, or with the next such run: Beam leaves some of its own."""
  before = os.environ.get('TMPDIR')
  with temp_dirs.directory('albert_beam_') as directory:
    os.environ['TMPDIR'], tempfile.tempdir = str(directory), None
    try:
      yield
    finally:
      tempfile.tempdir = None
      if before is None:
        del os.environ['TMPDIR']
      else:
        os.environ['TMPDIR'] = before


def _says(words: Sequence[str], name: str) -> bool:
  return any(word.split('=')[0] == f'--{name}' for word in words)


def _said(e: Exception) -> str:
  """The last line of what was raised in a worker: the lines before it are its traceback."""
  lines = [line for line in str(e).splitlines() if line.strip()]
  return errors.without_class_path(lines[-1]) if lines else type(e).__name__


@contextlib.contextmanager
def looking(look: Callable[[], None], seconds: float) -> Iterator[None]:
  """Calls `look` in a thread of its own, every so many seconds until the context ends."""
  done = threading.Event()

  def loop() -> None:
    while not done.wait(seconds):
      look()

  thread = threading.Thread(target=loop, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()


class _OfMainThread(io.TextIOBase):
  """Hands on what the main thread writes. What Beam's threads die of they print, and it is raised by `run`, too."""

  def __init__(self, stream: Any):
    self._stream = stream

  def write(self, text: str) -> int:
    return self._stream.write(text) if threading.current_thread() is threading.main_thread() else len(text)

  def flush(self) -> None:
    self._stream.flush()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
  """Nothing of what Beam logs and prints, unless --verbosity asks for it: workers' logs come through the same loggers."""
  from absl import logging as absl_logging

  if absl_logging.get_verbosity() >= absl_logging.INFO:
    yield
    return
  level, stream, hook = logging.root.manager.disable, sys.stderr, threading.excepthook
  logging.disable(logging.CRITICAL)
  sys.stderr, threading.excepthook = _OfMainThread(stream), lambda arguments: None
  yield
  # Not when it failed: then its threads go on for a while.
  logging.disable(level)
  sys.stderr, threading.excepthook = stream, hook
