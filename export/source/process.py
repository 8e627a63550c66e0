"""Runs the allowed part of a TF1 Hub module's graph in a subprocess, and returns its outputs and gradients.

A crash in native code ends the subprocess and not the export. The subprocess runs in parallel with its parent, under
resource limits and in a sandbox (`sandbox`). It can start before there is a graph, because importing TensorFlow takes
seconds.

  python -m export.source.process WORK_DIRECTORY LIMITS
"""

import contextlib
import dataclasses
import json
import pathlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from converters import errors
from converters.io import temp_dirs
from converters.reference import inputs as proof_inputs
from export.source import graph as source_graph
from export.source import policy as source_policy
from export.source import sandbox
from export.source import session as source_session
from export.ui import trace


class Run:
  """A source graph that runs in a subprocess."""

  def __init__(
    self, module: pathlib.Path, process: subprocess.Popen[bytes], directory: pathlib.Path, limits: sandbox.Limits
  ):
    self._module = module
    self._limits = limits
    self.process = process
    self.directory = directory

  def outputs(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Waits for the outputs, and returns them in float32 and in float64.

    Returns:
      Two dicts by name: 'tokens/pooled_output' and so on, with the layers as 'tokens/layer_0' and so on.

    Raises:
      UntrustedGraphError: the graph was not run.
      SourceError: the run failed, or its subprocess was killed.
    """
    path = self.directory / _OUTPUTS
    if not path.exists() and self.process.stdout.read(1) != _READY:  # type: ignore[union-attr]
      self._finish()
    with self._reading(), self._load(path) as outputs:
      return _group(outputs, _FLOAT32), _group(outputs, _FLOAT64)

  def gradient(self) -> Mapping[str, np.ndarray]:
    """Waits for the end, and returns the float64 derivatives of the scalar by TF1 variable name.

    Each has the shape of its variable, and is read on access. A variable that does not affect the scalar has none.

    Raises:
      UntrustedGraphError: as in `outputs`.
      SourceError: as in `outputs`.
    """
    self._finish()
    with self._reading():
      return _Arrays(self.directory / _GRADIENT, self._load)

  def training_outputs(self) -> dict[str, np.ndarray]:
    """Waits for the end, and returns the float64 outputs of the training graph for the scalar's batch.

    The names are those of `outputs`. Dropout keeps every unit; see `widen`.

    Raises:
      UntrustedGraphError: as in `outputs`.
      SourceError: as in `outputs`.
    """
    self._finish()
    with self._reading(), self._load(self.directory / _TRAINING) as outputs:
      return dict(outputs)

  def add_to(self, profile: trace.Profile) -> None:
    """Adds the time spans of the subprocess to a profile, after outputs and gradient were read."""
    profile.load(self.directory / _PROFILE)

  def _load(self, path: pathlib.Path) -> Any:
    with self._reading():
      return np.load(path, mmap_mode='r', allow_pickle=False)

  @contextlib.contextmanager
  def _reading(self) -> Iterator[None]:
    """Turns missing or truncated files of the subprocess into SourceError."""
    try:
      yield
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as e:
      raise errors.SourceError(f'{self._module}: the outputs of its graph cannot be read ({e}); try again') from e

  def _finish(self) -> None:
    """Waits for the end of the subprocess, and raises if it failed."""
    status = self.process.wait()
    if status == 0:
      return
    lines = (self.directory / _STDERR).read_text(errors='replace').strip().splitlines() or ['no output on stderr']
    if status == sandbox.REFUSED:
      raise errors.UntrustedGraphError(lines[-1])
    number = sandbox.signal_of(status)
    cause = f'signal {number}' if number else lines[-1]
    raise errors.SourceError(
      f'{self._module}: running saved_model.pb failed ({cause}); fetch the module again, or raise option max_run_gib '
      f'or option max_run_seconds if it needs more than {self._limits.memory >> 30} GiB or {self._limits.cpu_seconds} s'
    )


class _Arrays(Mapping[str, np.ndarray]):
  """Arrays from `_save`, memory-mapped on access.

  An .npz would cost a checksum of every byte on both sides.
  """

  def __init__(self, directory: pathlib.Path, load: Callable[[pathlib.Path], np.ndarray]):
    self._load = load
    self._paths = {
      name: directory / f'{number}.npy' for number, name in enumerate(json.loads((directory / _NAMES).read_text()))
    }

  def __getitem__(self, name: str) -> np.ndarray:
    return self._load(self._paths[name])

  def __iter__(self) -> Iterator[str]:
    return iter(self._paths)

  def __len__(self) -> int:
    return len(self._paths)


def _group(arrays: Mapping[str, np.ndarray], group: str) -> dict[str, np.ndarray]:
  return {name.removeprefix(f'{group}/'): arrays[name] for name in arrays if name.startswith(f'{group}/')}


def _save(directory: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  directory.mkdir()
  for number, value in enumerate(arrays.values()):
    np.save(directory / f'{number}.npy', value)
  (directory / _NAMES).write_text(json.dumps(list(arrays)))


class Child:
  """A subprocess from `prepare` that imports TensorFlow and waits for a graph."""

  def __init__(self, process: subprocess.Popen[bytes], directory: pathlib.Path, trust: source_policy.Trust):
    self.process = process
    self.directory = directory
    self._trust = trust

  def run(
    self, module: pathlib.Path, batch: proof_inputs.Batch, signatures: Sequence[str], scalar: proof_inputs.Scalar
  ) -> Run:
    """Runs signatures of a module; can be called once.

    Args:
      module: directory of the module.
      batch: the inputs.
      signatures: names in `interface.SIGNATURES`, each in the module.
      scalar: scalar to differentiate, in the metagraph of its mode.

    Raises:
      UntrustedGraphError: the graph has an operation that is not on the allow-list.
    """
    source_graph.check(module / 'saved_model.pb', self._trust.graph)
    inputs = {f'batch/{key}': value for key, value in batch.for_source.items()}
    inputs |= {f'scalar/{key}': value for key, value in scalar.batch.for_source.items()}
    inputs |= {f'factors/{key}': value for key, value in scalar.factors.items()}
    np.savez(self.directory / _INPUTS, **dict[str, Any](inputs))
    weights = sum(path.stat().st_size for path in (module / 'variables').iterdir())
    # The subprocess writes the outputs, and the derivatives by each weight in float64.
    limits = dataclasses.replace(_limits(self._trust), file_bytes=4 * weights + (1 << 28))
    job = {
      'module': str(module.absolute()),
      'tags': _TRAINING_TAGS if scalar.training else [],
      'signatures': list(signatures),
      'trusted': self._trust.graph,
      'limits': dataclasses.asdict(limits),
    }
    (self.directory / _JOB).write_text(json.dumps(job))
    stdin = self.process.stdin
    assert stdin is not None
    with contextlib.suppress(BrokenPipeError):  # the subprocess has died, which `Run.outputs` reports
      stdin.write(_READY)
      stdin.close()
    return Run(module, self.process, self.directory, limits)


@contextlib.contextmanager
def prepare(trust: source_policy.Trust = source_policy.Trust()) -> Iterator[Child]:
  """Starts a subprocess that can run one graph, and kills it at the end of the context.

  Args:
    trust: options for running the graph.
  """
  with temp_dirs.directory('albert_parity_') as directory, contextlib.ExitStack() as stack:
    limits = json.dumps(dataclasses.asdict(_limits(trust)))
    command = sandbox.command([sys.executable, '-m', __name__, str(directory), limits], directory)
    stderr = stack.enter_context(open(directory / _STDERR, 'wb'))
    process = stack.enter_context(
      subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=sandbox.environment(directory)
      )
    )
    stack.callback(process.kill)
    yield Child(process, directory, trust)


@contextlib.contextmanager
def start(
  module: pathlib.Path,
  batch: proof_inputs.Batch,
  signatures: Sequence[str],
  scalar: proof_inputs.Scalar,
  trust: source_policy.Trust = source_policy.Trust(),
) -> Iterator[Run]:
  """Starts a subprocess that runs signatures of a module; see `Child.run`."""
  with prepare(trust) as child:
    yield child.run(module, batch, signatures, scalar)


def _limits(trust: source_policy.Trust) -> sandbox.Limits:
  """Returns the limits before the graph is known; files are limited to the memory size."""
  return sandbox.Limits(trust.memory_gib << 30, trust.cpu_seconds, trust.memory_gib << 30)


# Files in the directory that both processes share.
_JOB, _INPUTS, _OUTPUTS, _GRADIENT, _STDERR, _PROFILE = (
  'job.json',
  'inputs.npz',
  'outputs.npz',
  'gradient',
  'stderr',
  'profile.json',
)
_TRAINING = 'training.npz'
_NAMES = 'names.json'  # names of the arrays in a directory
_FLOAT32, _FLOAT64 = 'float32', 'float64'  # groups of outputs
_TRAINING_TAGS = ['train']
_READY = b'.'  # to the subprocess: the job is written; from it: the outputs are written


def _run(work_directory: str, limits: str) -> None:
  directory = pathlib.Path(work_directory)
  sandbox.die_with_parent()
  sandbox.Limits(**json.loads(limits)).apply()
  profile = trace.Profile()
  with profile.span('import TensorFlow'):
    import tensorflow as tf  # noqa: F401
  if sys.stdin.buffer.read(1) != _READY:
    return  # the parent has ended without a job
  job = json.loads((directory / _JOB).read_text())
  sandbox.Limits(**job['limits']).apply()
  module = pathlib.Path(job['module'])
  with np.load(directory / _INPUTS, allow_pickle=False) as npz:
    inputs = dict(npz)
  with profile.span('check the graph'):
    checked = source_graph.check(module / 'saved_model.pb', job['trusted'])
    graph = source_graph.reduced(checked, job['signatures'])
  with profile.span('run the signatures'):
    outputs = {
      f'{group}/{name}': value
      for group in (_FLOAT32, _FLOAT64)
      for name, value in _outputs(graph, module, inputs, 'batch', group == _FLOAT64).items()
    }
    np.savez(directory / 'unfinished.npz', **dict[str, Any](outputs))
  (directory / 'unfinished.npz').rename(directory / _OUTPUTS)
  sys.stdout.buffer.write(_READY)
  sys.stdout.buffer.flush()
  with profile.span('differentiate'):
    graph = source_graph.reduced(checked, job['signatures'], job['tags'])
    gradient, training = _gradient(graph, module, inputs)
    if job['tags'] != _TRAINING_TAGS:
      graph = source_graph.reduced(checked, job['signatures'], _TRAINING_TAGS)
      training = _outputs(graph, module, inputs, 'scalar', widened=True)
  with profile.span('write the gradient'):
    np.savez(directory / _TRAINING, **dict[str, Any](training))
    _save(directory / _GRADIENT, gradient)
  profile.save(directory / _PROFILE)


def _outputs(
  graph: source_graph.Reduced, module: pathlib.Path, inputs: Mapping[str, np.ndarray], group: str, widened: bool
) -> dict[str, np.ndarray]:
  with _session(graph, module, inputs, group, widened) as session:
    return _flat(session.run(graph.outputs))


def _flat(outputs: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  return {f'{signature}/{name}': value for signature, values in outputs.items() for name, value in values.items()}


def _gradient(
  graph: source_graph.Reduced, module: pathlib.Path, inputs: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Returns the float64 derivatives by variable name, and the float64 outputs of the same graph."""
  import tensorflow as tf

  factors = {
    key.removeprefix('factors/'): value.astype(np.float64)
    for key, value in inputs.items()
    if key.startswith('factors/')
  }
  with _session(graph, module, inputs, 'scalar', widened=True) as session:

    def scalar(signature: str, names: Sequence[str]) -> Any:
      outputs = {name: session.graph.get_tensor_by_name(graph.outputs[signature][name]) for name in names}
      return tf.add_n(
        [tf.reduce_sum(tf.reshape(value, [-1]) * factors[name].ravel()) for name, value in outputs.items()]
      )

    def derivatives(scalar: Any, handles: Sequence[str]) -> dict[str, Any]:
      # Each layer uses each variable once. Summing in pairs avoids holding all derivatives at once.
      values = tf.gradients(
        scalar,
        [session.graph.get_tensor_by_name(handle) for handle in handles],
        aggregation_method=tf.AggregationMethod.EXPERIMENTAL_TREE,
      )
      return {
        handle: tf.convert_to_tensor(value) for handle, value in zip(handles, values, strict=True) if value is not None
      }

    signature = 'mlm' if 'mlm_logits' in factors else 'tokens'
    handles = [variable.handle for variable in graph.variables]
    results = derivatives(scalar(signature, [name for name in factors if name != 'sop_log_probs']), handles)
    if 'sop_log_probs' in factors:
      results |= derivatives(scalar('sop', ['sop_log_probs']), [handle for handle in handles if handle not in results])
    derivatives_of_variables, outputs = session.run((results, graph.outputs))
    return source_session.whole(graph, derivatives_of_variables), _flat(outputs)


@contextlib.contextmanager
def _session(
  graph: source_graph.Reduced, module: pathlib.Path, inputs: Mapping[str, np.ndarray], group: str, widened: bool
) -> Iterator[Any]:
  """Opens a session with the graph and its variables; a group of the inputs replaces the placeholders."""
  import tensorflow as tf

  config = tf.compat.v1.ConfigProto()
  # For a single run, rewriting the graph takes longer than it saves.
  config.graph_options.rewrite_options.disable_meta_optimizer = True
  given = {tensor: inputs[f'{group}/{key}'] for tensors in graph.inputs.values() for key, tensor in tensors.items()}
  with source_session.start(graph, module, given, config, widened) as session:
    yield session


if __name__ == '__main__':
  sandbox.main(_run)
