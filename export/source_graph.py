"""Runs a TF1 Hub module's own graph, in a process of its own, to learn what it computes.

A module from elsewhere is a program. It is run only if every operation in it is on the allow-list below; what is run is a
reduced copy, with the signatures that are asked for and what restores their variables, and nothing else that a loader would
run unasked; and that in a child process, so that a fault in native code ends the child and not the export.

  python -m export.source_graph MODULE_DIRECTORY INPUTS.npz OUTPUTS.npz SIGNATURE...
"""

import collections
import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from converters import errors
from converters import weight_map

# What an ALBERT computes with. Seen in the authors' modules, in both metagraphs, and in others of the family.
_COMPUTING = frozenset(["Add", "AddV2", "All", "Assert", "BatchMatMul", "BatchMatMulV2", "BiasAdd", "Cast", "Const", "Einsum", "ExpandDims", "Fill", "GatherV2", "GreaterEqual", "Identity", "Less", "LessEqual", "LogSoftmax", "MatMul", "Mean", "Mul", "NoOp", "OneHot", "Pack", "Placeholder", "PlaceholderWithDefault", "Pow", "RandomUniform", "Range", "ReadVariableOp", "RealDiv", "Reshape", "ResourceGather", "Rsqrt", "Select", "SelectV2", "Shape", "Slice", "Softmax", "SquaredDifference", "Squeeze", "StopGradient", "StridedSlice", "Sub", "Tanh", "Transpose", "VarHandleOp"])
# What restores variables, and gives them initial values that are never computed.
_RESTORING = _COMPUTING | frozenset(['AssignVariableOp', 'RestoreV2', 'TruncatedNormal', 'VarIsInitializedOp'])
# The saver's other half: in every module, and never in what is run.
_SAVING = frozenset(['MergeV2Checkpoints', 'SaveV2', 'ShardedFilename', 'StaticRegexFullMatch', 'StringJoin'])
ALLOWED = _RESTORING | _SAVING

# What is compared of each signature: inputs, outputs.
_TOKENS_INPUTS = ('input_ids', 'input_mask', 'segment_ids')
_TOKENS_OUTPUTS = ('pooled_output', 'sequence_output')
SIGNATURES = {
    'tokens': (_TOKENS_INPUTS, _TOKENS_OUTPUTS),
    'mlm': ((*_TOKENS_INPUTS, 'mlm_positions'), (*_TOKENS_OUTPUTS, 'mlm_logits')),
    'sop': (_TOKENS_INPUTS, (*_TOKENS_OUTPUTS, 'sop_log_probs')),
}


def signatures(parts: Iterable[weight_map.Part]) -> list[str]:
  """The signatures that show what the pieces of a model compute, in a fixed order."""
  wanted = set(parts)
  return ['tokens' if part is weight_map.Part.ENCODER else part.value for part in weight_map.Part if part in wanted]


def reduced(saved_model_pb: pathlib.Path, signatures: Iterable[str], tags: Iterable[str] = ()) -> Any:
  """The part of a module that may be run.

  Args:
    saved_model_pb: the module's graph.
    signatures: names of `SIGNATURES`, each in the module.
    tags: of the metagraph.

  Returns:
    A SavedModel message with one metagraph: the operations that the signatures' outputs and the restoring of variables
    depend on; no library functions, no collections but the variables, no object graph.

  Raises:
    UntrustedGraphError: an operation anywhere in the file is not allowed, or is not allowed where it stands; names the node.
  """
  from tensorflow.core.protobuf import saved_model_pb2
  saved_model = saved_model_pb2.SavedModel.FromString(saved_model_pb.read_bytes())
  for meta_graph in saved_model.meta_graphs:
    graph = meta_graph.graph_def
    for node in (*graph.node, *(n for function in graph.library.function for n in function.node_def)):
      _check(node, ALLOWED, 'not on the allow-list', saved_model_pb)

  whole = next(m for m in saved_model.meta_graphs if set(m.meta_info_def.tags) == set(tags))
  result = saved_model_pb2.SavedModel(saved_model_schema_version=saved_model.saved_model_schema_version)
  part = result.meta_graphs.add()
  part.meta_info_def.tags.extend(whole.meta_info_def.tags)
  part.saver_def.CopyFrom(whole.saver_def)
  part.graph_def.versions.CopyFrom(whole.graph_def.versions)
  endpoints = []
  for name in signatures:
    signature = part.signature_def[name]
    signature.method_name = whole.signature_def[name].method_name
    for there, here, wanted in zip((whole.signature_def[name].inputs, whole.signature_def[name].outputs),
                                   (signature.inputs, signature.outputs), SIGNATURES[name], strict=True):
      for key in wanted:
        if key not in there or there[key].WhichOneof('encoding') != 'name':
          raise errors.UntrustedGraphError(
              f'no plain tensor {key} in signature {name} of {saved_model_pb}: this is no ALBERT module')
        here[key].CopyFrom(there[key])
        endpoints.append(there[key].name)
    if name == 'tokens':
      for number, tensor in enumerate(_layers(whole.graph_def, signature.outputs['sequence_output'].name)):
        layer = signature.outputs[f'layer_{number}']
        layer.name, layer.dtype = tensor, signature.outputs['sequence_output'].dtype
        layer.tensor_shape.unknown_rank = True
        endpoints.append(tensor)
  variables = []
  for key in ('variables', 'trainable_variables'):
    if key in whole.collection_def:
      part.collection_def[key].CopyFrom(whole.collection_def[key])
      variables += _variable_tensors(whole.collection_def[key])

  kept = set()
  for tensors, allowed, where in ((endpoints, _COMPUTING, 'a signature'),
                                  ([whole.saver_def.restore_op_name, *variables], _RESTORING, 'what restores variables')):
    for node in _ancestors(whole.graph_def, tensors):
      _check(node, allowed, f'not allowed in {where}', saved_model_pb)
      kept.add(node.name)
  part.graph_def.node.extend(node for node in whole.graph_def.node if node.name in kept)
  return result


def _layers(graph: Any, sequence_output: str) -> list[str]:
  """The outputs of the layers, first to last: the additions that end the layer norm after each feed-forward.

  `tf.nn.batch_normalization` computes x * scale + (beta - mean * scale): one addition of one subtraction from each reading of
  beta. The order of a GraphDef that TF1 wrote is the order in which it was built.
  """
  nodes = list(_ancestors(graph, [sequence_output]))
  names = {node.name for node in nodes if node.op == 'VarHandleOp' and node.name.endswith('inner_group_0/LayerNorm_1/beta')}
  for op in ('ReadVariableOp', 'Sub', 'AddV2'):
    names = {node.name for node in nodes if node.op in (op, 'Add' if op == 'AddV2' else op)
             and names & {name.split(':')[0] for name in node.input}}
  return [f'{node.name}:0' for node in graph.node if node.name in names]


def _check(node: Any, allowed: frozenset[str], fault: str, file: pathlib.Path) -> None:
  if node.op not in allowed:
    raise errors.UntrustedGraphError(
        f'operation {node.op} at node {node.name!r} is {fault} in {file}: this graph is not run, so nothing can be compared')


def _variable_tensors(collection: Any) -> list[str]:
  from tensorflow.core.framework import variable_pb2
  definitions = [variable_pb2.VariableDef.FromString(value) for value in collection.bytes_list.value]
  return [name for d in definitions
          for name in (d.variable_name, d.initial_value_name, d.initializer_name, d.snapshot_name) if name]


def _ancestors(graph: Any, tensors: Iterable[str]) -> Iterator[Any]:
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
    """Waits for the child, and returns the outputs, as 'tokens/pooled_output' and so on, and the layers as 'tokens/layer_0'.

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
def start(module: pathlib.Path, inputs: Mapping[str, np.ndarray], signatures: Sequence[str]) -> Iterator[Run]:
  """Starts running signatures of a module. The child is gone when the context ends.

  Args:
    module: the module's directory.
    inputs: the signatures' inputs by name, int32.
    signatures: names of `SIGNATURES`, each in the module.
  """
  with tempfile.TemporaryDirectory(prefix='albert_parity_') as name:
    directory = pathlib.Path(name)
    np.savez(directory / 'inputs.npz', **dict[str, Any](inputs))
    command = [sys.executable, '-m', __name__, str(module), str(directory / 'inputs.npz'), str(directory / 'outputs.npz'),
               *signatures]
    environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL='3', PYTHONWARNINGS='ignore',
                       PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          env=environment) as process:
      try:
        yield Run(module, process, directory)
      finally:
        process.kill()


_REFUSED = 3


def _run(module: str, inputs_file: str, outputs_file: str, *signatures: str) -> None:
  graph = reduced(pathlib.Path(module) / 'saved_model.pb', signatures)
  import tensorflow as tf
  import tensorflow_hub as hub
  with np.load(inputs_file, allow_pickle=False) as npz:
    inputs = {name: tf.constant(npz[name]) for name in npz}
  with tempfile.TemporaryDirectory(prefix='reduced_', dir=pathlib.Path(outputs_file).parent) as name:
    copy = pathlib.Path(name)
    (copy / 'saved_model.pb').write_bytes(graph.SerializeToString())
    (copy / 'tfhub_module.pb').write_bytes((pathlib.Path(module) / 'tfhub_module.pb').read_bytes())
    (copy / 'variables').symlink_to(pathlib.Path(module).resolve() / 'variables')
    loaded = hub.load(str(copy), tags=[])
  outputs: dict[str, np.ndarray] = {}
  for name in signatures:
    results = loaded.signatures[name](**{key: inputs[key] for key in SIGNATURES[name][0]})
    outputs |= {f'{name}/{key}': value.numpy() for key, value in results.items()}
  np.savez(outputs_file, **dict[str, Any](outputs))


if __name__ == '__main__':
  try:
    _run(*sys.argv[1:])
  except errors.UntrustedGraphError as refusal:
    print(refusal, file=sys.stderr)
    sys.exit(_REFUSED)
