"""Runs Apache Beam pipelines, configured by Beam's own flags."""

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

# Beam's names of local runners. DirectRunner first tries to download another runner; FnApiRunner is its fallback.
_DIRECT = ('DirectRunner', 'SwitchingDirectRunner', 'direct', '')
_EMBEDDED = 'FnApiRunner'
_SUBPROCESSES = 'multi_processing'


def options() -> Any:
  """Returns the pipeline options from Beam's flags.

  By default, a pipeline runs on this machine, in one thread per processor. Long or native computations already have
  their own subprocesses. Worker subprocesses of the runner are refused: the embedded runner waits forever for a worker
  subprocess that died (Apache Beam 2.77).

  Returns:
    PipelineOptions.

  Raises:
    UsageError: Apache Beam is not installed, or a flag is unknown or invalid.
  """
  try:
    from apache_beam.options import pipeline_options
  except ImportError as e:
    raise errors.UsageError(f'Apache Beam: not installed ({e}); run pip install "albert-hub-export[beam]"') from e
  words = cli.others_flags()
  for before, word in zip(['', *words], words, strict=False):
    if not word.startswith('-') and (not before.startswith('--') or '=' in before):
      raise errors.UsageError(f'{word!r}: not a flag; see --help')
  given = pipeline_options.PipelineOptions(words)
  complaint = io.StringIO()
  try:
    with _silent(), contextlib.redirect_stderr(complaint):
      known = given.get_all_options(drop_default=True)
      unknown = sorted(given.get_all_options(drop_default=True, retain_unknown_options=True).keys() - known.keys())
  except SystemExit:
    raise errors.UsageError(
      f'{complaint.getvalue().strip().rpartition("error: ")[2]}; see Beam\'s pipeline options'
    ) from None
  embedded = known.get('runner', '') in (*_DIRECT, _EMBEDDED)
  if unknown and embedded:  # other runners have options of their own
    raise errors.UsageError(
      f'--{unknown[0]}: unknown flag (neither of this command nor of Beam); see --help and Beam\'s pipeline options'
    )
  if not embedded:
    return given
  if known.get('direct_running_mode') == _SUBPROCESSES:
    raise errors.UsageError(
      f'--direct_running_mode={_SUBPROCESSES}: not supported (the runner waits forever for a worker that died); '
      'leave the flag out'
    )
  if known.get('direct_num_workers', 1) < 0:
    raise errors.UsageError(f'--direct_num_workers={known["direct_num_workers"]}: negative; give the number of workers')
  defaults = {'direct_running_mode': 'multi_threading', 'direct_num_workers': len(os.sched_getaffinity(0))}
  return pipeline_options.PipelineOptions(
    words, runner=_EMBEDDED, **{name: value for name, value in defaults.items() if not _has_flag(words, name)}
  )


def run(build: Callable[[Any], None], options: Any) -> Any:
  """Builds a pipeline, runs it, and waits for its end.

  Args:
    build: function that adds the steps to a Pipeline.
    options: PipelineOptions from `options`.

  Returns:
    Beam's PipelineResult.

  Raises:
    UsageError: Beam refuses the options.
    RunError: the pipeline failed.
  """
  import apache_beam as beam

  with _silent():
    try:
      pipeline = beam.Pipeline(options=options)
    except (ValueError, ImportError) as e:  # for example an unknown runner
      raise errors.UsageError(f'pipeline: invalid options ({_last_line(e)}); see Beam\'s pipeline options') from e
    build(pipeline)
    try:
      result = pipeline.run()
      state = result.wait_until_finish()
    except Exception as e:  # runners raise errors of many types
      raise errors.RunError(f'pipeline: failed ({_last_line(e)}); see the runner\'s log, then run it again') from e
  if str(state) != beam.runners.runner.PipelineState.DONE:
    raise errors.RunError(f'pipeline: failed (state {state}); see the runner\'s log, then run it again')
  return result


def is_embedded(options: Any) -> bool:
  """Returns whether all workers run in this process."""
  from apache_beam.options import pipeline_options

  return options.view_as(pipeline_options.StandardOptions).runner == _EMBEDDED


@contextlib.contextmanager
def own_temporary_files() -> Iterator[None]:
  """Redirects temporary files to one directory and removes it, since Beam leaves temporary files.

  The next run removes the directory of a killed run.
  """
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


def _has_flag(words: Sequence[str], name: str) -> bool:
  return any(word.split('=')[0] == f'--{name}' for word in words)


def _last_line(e: Exception) -> str:
  """Returns the last line of a worker's error; the lines before it are a traceback."""
  lines = [line for line in str(e).splitlines() if line.strip()]
  return errors.without_class_path(lines[-1]) if lines else type(e).__name__


@contextlib.contextmanager
def looking(look: Callable[[], None], seconds: float) -> Iterator[None]:
  """Calls `look` in a separate thread, every `seconds` seconds until the context ends."""
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


class _MainThreadStream(io.TextIOBase):
  """Forwards text of the main thread only: Beam's threads print the errors that `run` raises."""

  def __init__(self, stream: Any):
    self._stream = stream

  def write(self, text: str) -> int:
    return self._stream.write(text) if threading.current_thread() is threading.main_thread() else len(text)

  def flush(self) -> None:
    self._stream.flush()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
  """Suppresses logs and prints of Beam and its workers, unless --verbosity requests them."""
  from absl import logging as absl_logging

  if absl_logging.get_verbosity() >= absl_logging.INFO:
    yield
    return
  level, stream, hook = logging.root.manager.disable, sys.stderr, threading.excepthook
  logging.disable(logging.CRITICAL)
  sys.stderr, threading.excepthook = _MainThreadStream(stream), lambda arguments: None
  yield
  # Not restored after an error, since Beam's threads then continue for a while.
  logging.disable(level)
  sys.stderr, threading.excepthook = stream, hook
