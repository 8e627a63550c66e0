"""Runs a TF1 Hub module's own graph, in a process of its own, to learn what it computes.

A module from elsewhere is a program. It is run only if every operation in it is on the allow-list below, and in a child
process, so that a fault in native code ends the child and not the export.

  python -m export.source_graph MODULE_DIRECTORY INPUTS.npz OUTPUTS.npz
"""

import collections
import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np

from converters import errors

# What an ALBERT computes with. Seen in the authors' modules, in both metagraphs, and in others of the family.
_COMPUTING = frozenset(["Add", "AddV2", "All", "Assert", "BatchMatMul", "BatchMatMulV2", "BiasAdd", "Cast", "Const", "Einsum", "ExpandDims", "Fill", "GatherV2", "GreaterEqual", "Identity", "Less", "LessEqual", "LogSoftmax", "MatMul", "Mean", "Mul", "NoOp", "OneHot", "Pack", "Placeholder", "PlaceholderWithDefault", "Pow", "RandomUniform", "Range", "ReadVariableOp", "RealDiv", "Reshape", "ResourceGather", "Rsqrt", "Select", "SelectV2", "Shape", "Slice", "Softmax", "SquaredDifference", "Squeeze", "StopGradient", "StridedSlice", "Sub", "Tanh", "Transpose", "VarHandleOp"])
# What stands beside it in every module: initial values, and the saver, whose restoring half the loader runs.
_LOADING = frozenset(['AssignVariableOp', 'RestoreV2', 'TruncatedNormal', 'VarIsInitializedOp'])
_SAVING = frozenset(['MergeV2Checkpoints', 'SaveV2', 'ShardedFilename', 'StaticRegexFullMatch', 'StringJoin'])
ALLOWED = _COMPUTING | _LOADING | _SAVING

# Collections and signatures whose operations a loader runs without being asked.
_RUN_ON_LOAD = ('saved_model_main_op', 'legacy_init_op', '__saved_model_init_op')


def check_ops(saved_model_pb: pathlib.Path) -> None:
  """Checks every node of every metagraph and library function of a SavedModel.

  Raises:
    UntrustedGraphError: an operation is not allowed, or is not allowed where it stands; names the node.
  """
  from tensorflow.core.protobuf import saved_model_pb2
  saved_model = saved_model_pb2.SavedModel.FromString(saved_model_pb.read_bytes())
  for meta_graph in saved_model.meta_graphs:
    graph = meta_graph.graph_def
    for node in (*graph.node, *(n for function in graph.library.function for n in function.node_def)):
      if node.op not in ALLOWED:
        raise _refusal(node, saved_model_pb, 'not on the allow-list')
    for name in _RUN_ON_LOAD:
      if name in meta_graph.collection_def or name in meta_graph.signature_def:
        raise errors.UntrustedGraphError(f'an operation to be run on loading ({name}) in {saved_model_pb}: no ALBERT has one')
    outputs = [t.name for s in meta_graph.signature_def.values() for t in s.outputs.values()]
    for node in _ancestors(graph, outputs):
      if node.op not in _COMPUTING:
        raise _refusal(node, saved_model_pb, 'not allowed in a signature')
    for node in _ancestors(graph, [meta_graph.saver_def.restore_op_name]):
      if node.op in _SAVING:
        raise _refusal(node, saved_model_pb, 'not allowed in what loading runs')


def _refusal(node: Any, file: pathlib.Path, why: str) -> errors.UntrustedGraphError:
  return errors.UntrustedGraphError(
      f'operation {node.op} at node {node.name!r} is {why} in {file}: this graph is not run, so nothing can be compared')


def _ancestors(graph: Any, tensors: list[str]) -> Iterator[Any]:
  nodes = {node.name: node for node in graph.node}
  queue = collections.deque(tensors)
  seen = set()
  while queue:
    name = queue.popleft().lstrip('^').split(':')[0]
    if name in nodes and name not in seen:
      seen.add(name)
      queue.extend(nodes[name].input)
      yield nodes[name]


class Run:
  """A source graph being run in a child process."""

  def __init__(self, module: pathlib.Path, process: subprocess.Popen[bytes], directory: pathlib.Path):
    self._module = module
    self._process = process
    self._directory = directory

  def outputs(self) -> dict[str, np.ndarray]:
    """Waits for the child, and returns the outputs of all signatures under their own names.

    Raises:
      UntrustedGraphError: the graph was not run.
      SourceError: it was, and failed, or killed its process.
    """
    _, stderr = self._process.communicate()
    if self._process.returncode == 0:
      try:
        with np.load(self._directory / 'outputs.npz', allow_pickle=False) as outputs:
          return dict(outputs)
      except (OSError, ValueError, zipfile.BadZipFile) as e:
        raise errors.SourceError(f'no outputs ({e}) from the graph of {self._module}: try again') from e
    lines = stderr.decode(errors='replace').strip().splitlines() or ['nothing on stderr']
    if self._process.returncode == _REFUSED:
      raise errors.UntrustedGraphError(lines[-1])
    cause = f'signal {-self._process.returncode}' if self._process.returncode < 0 else lines[-1]
    raise errors.SourceError(f'running saved_model.pb in {self._module} failed ({cause}): fetch the module again')


@contextlib.contextmanager
def start(module: pathlib.Path, inputs: Mapping[str, np.ndarray]) -> Iterator[Run]:
  """Starts running all signatures of a module. The child is gone when the context ends.

  Args:
    module: the module's directory.
    inputs: every signature's inputs by name, int32.
  """
  with tempfile.TemporaryDirectory(prefix='albert_parity_') as name:
    directory = pathlib.Path(name)
    np.savez(directory / 'inputs.npz', **dict[str, Any](inputs))
    command = [sys.executable, '-m', __name__, str(module), str(directory / 'inputs.npz'), str(directory / 'outputs.npz')]
    environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL='3', PYTHONWARNINGS='ignore',
                       PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          env=environment) as process:
      try:
        yield Run(module, process, directory)
      finally:
        process.kill()


_REFUSED = 3


def _run(module: str, inputs_file: str, outputs_file: str) -> None:
  check_ops(pathlib.Path(module) / 'saved_model.pb')
  import tensorflow as tf
  import tensorflow_hub as hub
  with np.load(inputs_file, allow_pickle=False) as npz:
    inputs = {name: tf.constant(npz[name]) for name in npz}
  loaded = hub.load(module, tags=[])
  outputs = {}
  for name in ('tokens', 'mlm', 'sop'):
    if name in loaded.signatures:
      signature = loaded.signatures[name]
      wanted = signature.structured_input_signature[1]
      outputs.update(signature(**{k: inputs[k] for k in wanted}))
  np.savez(outputs_file, **{name: value.numpy() for name, value in outputs.items()})


if __name__ == '__main__':
  try:
    _run(*sys.argv[1:])
  except errors.UntrustedGraphError as refusal:
    print(refusal, file=sys.stderr)
    sys.exit(_REFUSED)
