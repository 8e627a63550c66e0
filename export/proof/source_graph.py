"""What of a TF1 Hub module's graph may be run.

A module from elsewhere is a program. It is run only if every operation in it is on the allow-list below, or the user trusts it; and what
is run is a reduced copy, with the signatures that are asked for and what restores their variables, and nothing else.
"""

import dataclasses
import graphlib
import pathlib
from collections.abc import Iterable
from typing import Any

from converters import errors
from converters import weight_map
from export.proof import graph_file

# What an ALBERT computes with. Seen in the authors' modules, in both metagraphs, and in others of the family.
_COMPUTING = frozenset(["Add", "AddV2", "All", "Assert", "BatchMatMul", "BatchMatMulV2", "BiasAdd", "Cast", "Const", "Einsum", "ExpandDims", "Fill", "GatherV2", "GreaterEqual", "Identity", "Less", "LessEqual", "LogSoftmax", "MatMul", "Mean", "Mul", "NoOp", "OneHot", "Pack", "Placeholder", "PlaceholderWithDefault", "Pow", "RandomUniform", "Range", "ReadVariableOp", "RealDiv", "Reshape", "ResourceGather", "Rsqrt", "Select", "SelectV2", "Shape", "Slice", "Softmax", "SquaredDifference", "Squeeze", "StopGradient", "StridedSlice", "Sub", "Tanh", "Transpose", "VarHandleOp"])
# What restores variables.
_RESTORING = _COMPUTING | frozenset(['AssignVariableOp', 'RestoreV2'])
# Initial values, and the saver's other half: in every module, and never in what is run.
_LEFT_OUT = frozenset(['MergeV2Checkpoints', 'SaveV2', 'ShardedFilename', 'StaticRegexFullMatch', 'StringJoin',
                       'TruncatedNormal', 'VarIsInitializedOp'])
ALLOWED = _RESTORING | _LEFT_OUT

# Of these, two nodes that differ in nothing but their name do the same, as long as no variable is assigned to.
_PURE = _COMPUTING - {'Placeholder', 'PlaceholderWithDefault', 'RandomUniform', 'VarHandleOp'}

_ADVICE = 'this graph is not run, so nothing can be compared; if you know what it does and who made it, give --trust_source'

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


@dataclasses.dataclass(frozen=True)
class Reduced:
  """The part of a module that may be run.

  Attributes:
    graph_def: the operations that the signatures' outputs and the restoring of variables depend on; library functions only of a
      graph that is trusted.
    inputs, outputs: names of tensors, by signature and then by the signature's names; the layers are outputs of `tokens` as
      'layer_0' and so on, if they were found.
    handles: names of the tensors that stand for the variables, by the variables' names.
    restore, filename: the operation that restores the variables, and the tensor that it takes a checkpoint's prefix from.
  """
  graph_def: Any
  inputs: dict[str, dict[str, str]]
  outputs: dict[str, dict[str, str]]
  handles: dict[str, str]
  restore: str
  filename: str


@dataclasses.dataclass(frozen=True)
class Checked:
  """A module's graph that may be run, at least in parts.

  Attributes:
    saved_model: the parsed file.
    file: where it was read.
    trusted: whether it may have operations that are not on the allow-list.
  """
  saved_model: Any
  file: pathlib.Path
  trusted: bool


def check(saved_model_pb: pathlib.Path, trusted: bool = False) -> Checked:
  """Reads a module's graph, and checks that it may be run at all.

  Args:
    saved_model_pb: the module's graph.
    trusted: whether it may have operations that are not on the allow-list.

  Raises:
    UntrustedGraphError: an operation anywhere in the file is not allowed, or hides another graph; names the node.
  """
  saved_model = graph_file.read(saved_model_pb)
  graph_file.check_content(saved_model, saved_model_pb)
  if not trusted:
    for node in graph_file.nodes(saved_model):
      graph_file.check_operation(node, ALLOWED, 'not on the allow-list', _ADVICE, saved_model_pb)
  return Checked(saved_model, saved_model_pb, trusted)


def reduced(graph: Checked, signatures: Iterable[str], tags: Iterable[str] = ()) -> Reduced:
  """Takes the part of a module's graph that is needed.

  Args:
    graph: from `check`.
    signatures: names of `SIGNATURES`, each in the module.
    tags: of the metagraph: none, or 'train'.

  Raises:
    UntrustedGraphError: an operation is not allowed where it stands, or there is no such metagraph; names the node.
  """
  from tensorflow.core.framework import graph_pb2
  saved_model, saved_model_pb, trusted = graph.saved_model, graph.file, graph.trusted
  whole = next((m for m in saved_model.meta_graphs if set(m.meta_info_def.tags) == set(tags)), None)
  if whole is None:
    raise errors.UntrustedGraphError(
        f'no metagraph with tags {sorted(tags)} in {saved_model_pb}: this is no ALBERT module')
  inputs, outputs = dict[str, dict[str, str]](), dict[str, dict[str, str]]()
  for name in signatures:
    signature = whole.signature_def[name]
    for there, here, wanted in ((signature.inputs, inputs, SIGNATURES[name][0]), (signature.outputs, outputs, SIGNATURES[name][1])):
      for key in wanted:
        if key not in there or there[key].WhichOneof('encoding') != 'name':
          raise errors.UntrustedGraphError(
              f'no plain tensor {key} in signature {name} of {saved_model_pb}: this is no ALBERT module')
      here[name] = {key: there[key].name for key in wanted}
    if name == 'tokens':
      layers = _layers(whole.graph_def, outputs[name]['sequence_output'])
      outputs[name] |= {f'layer_{number}': tensor for number, tensor in enumerate(layers)}

  kept = set()
  endpoints = [tensor for tensors in (*inputs.values(), *outputs.values()) for tensor in tensors.values()]
  saver = whole.saver_def
  for tensors, allowed, where in ((endpoints, _COMPUTING, 'a signature'),
                                  ([saver.restore_op_name, saver.filename_tensor_name], _RESTORING, 'what restores variables')):
    for node in graph_file.ancestors(whole.graph_def.node, tensors):
      if not trusted:
        graph_file.check_operation(node, allowed, f'not allowed in {where}', _ADVICE, saved_model_pb)
      kept.add(node.name)
  for node in whole.graph_def.node:
    prefix = node.input[0].removesuffix(':0') if node.op == 'RestoreV2' and node.input else ''
    if node.name in kept and node.op == 'RestoreV2' and prefix != saver.filename_tensor_name.removesuffix(':0'):
      raise errors.UntrustedGraphError(f'node {node.name!r} restores from {prefix!r} instead of the checkpoint in {saved_model_pb}: {_ADVICE}')
  part = graph_pb2.GraphDef(node=[node for node in whole.graph_def.node if node.name in kept], versions=whole.graph_def.versions)
  if trusted:
    part.library.CopyFrom(whole.graph_def.library)
  handles = {node.attr['shared_name'].s.decode() or node.name: f'{node.name}:0' for node in part.node if node.op == 'VarHandleOp'}
  return Reduced(part, inputs, outputs, handles, saver.restore_op_name, saver.filename_tensor_name)


def merged(graph: Reduced) -> Reduced:
  """The same with every computation once: signatures have one copy of the encoder each.

  Nodes of the operations that an ALBERT computes with are one if they have the same operation, attributes and inputs, in turn; what
  differs anywhere below stays apart, as do random numbers. Inputs of the same name are one.
  """
  from tensorflow.core.framework import graph_pb2
  from tensorflow.core.framework import node_def_pb2
  first: dict[str, str] = {}  # tensor by input name
  same = {tensor: first.setdefault(key, tensor) for tensors in graph.inputs.values() for key, tensor in tensors.items()}
  nodes = {node.name: node for node in graph.graph_def.node}
  one: dict[str, str] = {graph_file.node_name(tensor): graph_file.node_name(kept) for tensor, kept in same.items()}  # which node stands for a node
  seen: dict[bytes, str] = {}
  apart = set(map(graph_file.node_name, (graph.restore, graph.filename, *same)))  # what is fed is what it is fed with
  part = graph_pb2.GraphDef(versions=graph.graph_def.versions, library=graph.graph_def.library)

  def renamed(name: str) -> str:
    bare = graph_file.node_name(name)
    return name.replace(bare, one.get(bare, bare), 1)

  try:
    ordered = [name for name in graphlib.TopologicalSorter(
        {name: {graph_file.node_name(tensor) for tensor in node.input} for name, node in nodes.items()}).static_order() if name in nodes]
  except graphlib.CycleError:  # no ALBERT has loops; a graph that is trusted may
    return graph
  for name in ordered:
    if one.get(name, name) != name:
      continue
    node = node_def_pb2.NodeDef()
    node.CopyFrom(nodes[name])
    node.input[:] = [renamed(tensor) for tensor in node.input]
    node.attr.pop('_class', None)  # which device: there is one; and what it names may be merged away
    if node.op in _PURE and name not in apart:
      key = node_def_pb2.NodeDef()
      key.CopyFrom(node)
      key.name = ''
      if node.op == 'Assert':  # one for one condition: what it would say has names of nodes in it
        key.attr.clear()
        key.input[:] = [tensor for number, tensor in enumerate(node.input) if number == 0 or tensor.startswith('^')]
      one[name] = seen.setdefault(key.SerializeToString(deterministic=True), name)
      if one[name] != name:
        continue
    part.node.append(node)
  return dataclasses.replace(
      graph, graph_def=part, inputs={name: {key: first[key] for key in tensors} for name, tensors in graph.inputs.items()},
      outputs={name: {key: renamed(tensor) for key, tensor in tensors.items()} for name, tensors in graph.outputs.items()},
      handles={name: renamed(tensor) for name, tensor in graph.handles.items()})


def _layers(graph: Any, sequence_output: str) -> list[str]:
  """The outputs of the layers, first to last: the additions that end the layer norm after each feed-forward.

  `tf.nn.batch_normalization` computes x * scale + (beta - mean * scale): one addition of one subtraction from each reading of
  beta. The order of a GraphDef that TF1 wrote is the order in which it was built.
  """
  nodes = list(graph_file.ancestors(graph.node, [sequence_output]))
  names = {node.name for node in nodes if node.op == 'VarHandleOp' and node.name.endswith('inner_group_0/LayerNorm_1/beta')}
  for op in ('ReadVariableOp', 'Sub', 'AddV2'):
    names = {node.name for node in nodes if node.op in (op, 'Add' if op == 'AddV2' else op)
             and names & {name.split(':')[0] for name in node.input}}
  return [f'{node.name}:0' for node in graph.node if node.name in names]
