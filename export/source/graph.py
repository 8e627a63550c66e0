"""Checks the graph of a TF1 Hub module against an allow-list, and reduces it to the requested signatures.

A module is a program. It is run only if every operation in it is on the allow-list below, or if the user trusts it.
Only a reduced copy is run: the operations that the requested signatures depend on. No saver of the module is run;
`session` assigns the variables from the checkpoint by name. tensorflow_hub's exporter writes no SaverDef anyway.
"""

import dataclasses
import pathlib
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

from converters import errors
from converters import interface
from export.graphs import graph_defs

# Operations of ALBERT, found in both metagraphs of the authors' modules and in other modules of the family.
_COMPUTING = frozenset(
  [
    "Add",
    "AddV2",
    "All",
    "Assert",
    "BatchMatMul",
    "BatchMatMulV2",
    "BiasAdd",
    "Cast",
    "ConcatV2",
    "Const",
    "Einsum",
    "Erf",
    "ExpandDims",
    "Fill",
    "GatherV2",
    "GreaterEqual",
    "Identity",
    "Less",
    "LessEqual",
    "LogSoftmax",
    "MatMul",
    "Mean",
    "Mul",
    "NoOp",
    "OneHot",
    "Pack",
    "Placeholder",
    "PlaceholderWithDefault",
    "Pow",
    "RandomUniform",
    "Range",
    "ReadVariableOp",
    "Relu",
    "RealDiv",
    "Reshape",
    "ResourceGather",
    "Rsqrt",
    "Select",
    "SelectV2",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "SquaredDifference",
    "Squeeze",
    "StopGradient",
    "StridedSlice",
    "Sub",
    "Tanh",
    "Transpose",
    "VarHandleOp",
  ]
)
# Operations that occur in modules and are never run: initial values and their assignment, TF1 weight decay, and savers
# (written by tf.compat.v1.saved_model.Builder).
_LEFT_OUT = frozenset(
  [
    'AssignVariableOp',
    'L2Loss',
    'MergeV2Checkpoints',
    'RandomStandardNormal',
    'RestoreV2',
    'SaveV2',
    'ShardedFilename',
    'StaticRegexFullMatch',
    'StringJoin',
    'TruncatedNormal',
    'VarIsInitializedOp',
  ]
)
ALLOWED = _COMPUTING | _LEFT_OUT

_ADVICE = 'give option trust_source=True if you know what the graph does and who made it'


@dataclasses.dataclass(frozen=True)
class Variable:
  """A variable of a graph, and the place of its value in the checkpoint.

  Attributes:
    handle: name of the output tensor of the variable's VarHandleOp.
    name: name of the checkpoint tensor.
    shape: shape of the variable; None if the graph does not state it.
    full_shape: shape of the whole variable, for a partition; else None.
    offset: start of the partition in the whole variable, for a partition; else None.
  """

  handle: str
  name: str
  shape: tuple[int, ...] | None
  full_shape: tuple[int, ...] | None = None
  offset: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Reduced:
  """The part of a module that is run.

  Attributes:
    graph_def: the operations that the signatures' outputs depend on; with library functions only if it is trusted.
    inputs: tensor names, by signature and by name in the signature.
    outputs: tensor names, by signature and by name in the signature; the layers, if found, are outputs 'layer_0' and so
      on of `tokens`.
    variables: variables of the graph.
  """

  graph_def: Any
  inputs: dict[str, dict[str, str]]
  outputs: dict[str, dict[str, str]]
  variables: tuple[Variable, ...]


@dataclasses.dataclass(frozen=True)
class Checked:
  """A checked graph of a module.

  Attributes:
    saved_model: the parsed file.
    file: path of the file.
    trusted: whether operations that are not on the allow-list are accepted.
  """

  saved_model: Any
  file: pathlib.Path
  trusted: bool


def check(saved_model_pb: pathlib.Path, trusted: bool = False) -> Checked:
  """Reads and checks the graph of a module.

  Args:
    saved_model_pb: file with the module's graph.
    trusted: whether to accept operations that are not on the allow-list.

  Raises:
    UntrustedGraphError: an operation in the file is not on the allow-list or hides another graph; names the node.
  """
  saved_model = graph_defs.read(saved_model_pb)
  graph_defs.check_content(saved_model, saved_model_pb)
  if not trusted:
    for node in graph_defs.nodes(saved_model):
      graph_defs.check_operation(node, ALLOWED, 'not on the allow-list', _ADVICE, saved_model_pb)
  return Checked(saved_model, saved_model_pb, trusted)


def reduced(graph: Checked, signatures: Iterable[str], tags: Iterable[str] = ()) -> Reduced:
  """Reduces a module's graph to the operations that signatures depend on.

  Args:
    graph: from `check`.
    signatures: names in `interface.SIGNATURES`, each in the module.
    tags: tags of the metagraph: none, or 'train'.

  Raises:
    UntrustedGraphError: an operation is not allowed in a signature, or the metagraph or a tensor is missing.
  """
  from tensorflow.core.framework import graph_pb2

  saved_model, saved_model_pb, trusted = graph.saved_model, graph.file, graph.trusted
  whole = next((m for m in saved_model.meta_graphs if set(m.meta_info_def.tags) == set(tags)), None)
  if whole is None:
    raise errors.UntrustedGraphError(f'{saved_model_pb}: no metagraph with tags {sorted(tags)}; give an ALBERT module')
  inputs, outputs = dict[str, dict[str, str]](), dict[str, dict[str, str]]()
  for name in signatures:
    signature = whole.signature_def[name]
    for there, here, wanted in (
      (signature.inputs, inputs, interface.SIGNATURES[name].inputs),
      (signature.outputs, outputs, interface.SIGNATURES[name].outputs),
    ):
      keys = [tensor.tf1 for tensor in wanted]
      for key in keys:
        if key not in there or there[key].WhichOneof('encoding') != 'name':
          raise errors.UntrustedGraphError(
            f'{saved_model_pb}: no plain tensor {key} in signature {name}; give an ALBERT module'
          )
      here[name] = {key: there[key].name for key in keys}
    if name == 'tokens':
      layers = _layers(whole.graph_def, outputs[name]['sequence_output'])
      outputs[name] |= {f'layer_{number}': tensor for number, tensor in enumerate(layers)}

  kept = set()
  for node in graph_defs.ancestors(
    whole.graph_def.node, [tensor for tensors in (*inputs.values(), *outputs.values()) for tensor in tensors.values()]
  ):
    if not trusted:
      graph_defs.check_operation(node, _COMPUTING, 'not allowed in a signature', _ADVICE, saved_model_pb)
    kept.add(node.name)
  part = graph_pb2.GraphDef(
    node=[node for node in whole.graph_def.node if node.name in kept], versions=whole.graph_def.versions
  )
  for node in part.node:
    # Devices are those of the author's machine, and _class may name a node that the reduction removed.
    node.device = ''
    node.attr.pop('_class', None)
    if node.op == 'VarHandleOp' and not node.attr['shared_name'].s:
      node.attr['shared_name'].s = node.name.encode()  # else all unnamed variables share one resource
  if trusted:
    part.library.CopyFrom(whole.graph_def.library)
  return Reduced(part, inputs, outputs, tuple(_variables(part, whole, saved_model_pb)))


def _variables(part: Any, whole: Any, saved_model_pb: pathlib.Path) -> Iterator[Variable]:
  """Yields the variables of a reduced graph.

  The place of a partition in its whole variable is in the collections of the metagraph (VariableDef).
  """
  from google.protobuf import message
  from tensorflow.core.framework import variable_pb2

  slices = {}
  collections = whole.collection_def
  for packed in (
    value
    for key in ('variables', 'trainable_variables')
    if key in collections
    for value in collections[key].bytes_list.value
  ):
    try:
      definition = variable_pb2.VariableDef.FromString(packed)
    except message.DecodeError as e:
      raise errors.UntrustedGraphError(
        f'{saved_model_pb}: invalid VariableDef in a collection ({e}); fetch the module again'
      ) from e
    if definition.HasField('save_slice_info_def'):
      slices[graph_defs.node_name(definition.variable_name)] = definition.save_slice_info_def
  for node in part.node:
    if node.op != 'VarHandleOp':
      continue
    name = node.attr['shared_name'].s.decode(errors='replace')
    sizes = [dimension.size for dimension in node.attr['shape'].shape.dim]
    shape = None if node.attr['shape'].shape.unknown_rank or any(size < 0 for size in sizes) else tuple(sizes)
    place = slices.get(node.name)
    if place is None:
      yield Variable(f'{node.name}:0', name, shape)
      continue
    full, offset = tuple(place.full_shape), tuple(place.var_offset)
    if (
      shape is None
      or not len(shape) == len(full) == len(offset)
      or any(not 0 <= begin <= begin + size <= most for begin, size, most in zip(offset, shape, full, strict=True))
    ):
      raise errors.UntrustedGraphError(
        f'{saved_model_pb}: partition {node.name} of shape {shape} extends past its variable (shape {list(full)}, '
        f'offset {list(offset)}); fetch the module again'
      )
    # The exporter saves partitions as slices of one tensor, under the name without /part_0.
    yield Variable(f'{node.name}:0', name.rpartition('/')[0], shape, full, offset)


def _layers(graph: Any, sequence_output: str) -> list[str]:
  """Returns the tensor names of the layers' outputs, first to last.

  A layer ends with the addition of its last layer norm. `tf.nn.batch_normalization` computes
  x * scale + (beta - mean * scale), so each read of beta leads to one subtraction and one addition. TF1 writes the
  nodes of a GraphDef in the order of construction.
  """
  nodes = list(graph_defs.ancestors(graph.node, [sequence_output]))
  names = {
    node.name for node in nodes if node.op == 'VarHandleOp' and node.name.endswith('inner_group_0/LayerNorm_1/beta')
  }
  for op in ('ReadVariableOp', 'Sub', 'AddV2'):
    names = {
      node.name
      for node in nodes
      if node.op in (op, 'Add' if op == 'AddV2' else op) and names & {name.split(':')[0] for name in node.input}
    }
  return [f'{node.name}:0' for node in graph.node if node.name in names]
