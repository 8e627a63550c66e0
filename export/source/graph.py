"""What of a TF1 Hub module's graph may be run.

A module from elsewhere is a program. It is run only if every operation in it is on the allow-list below, or the user
trusts it. A reduced copy is run: the operations that the requested signatures depend on. Nothing in a module restores
its variables: `session` assigns them from the checkpoint, by name. tensorflow_hub's exporter writes no SaverDef, and a
saver in a module would be one more program.
"""

import dataclasses
import pathlib
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

from converters import errors
from converters import weight_map
from export.graphs import graph_defs

# What an ALBERT computes with. Seen in the authors' modules, in both metagraphs, and in others of the family.
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
    "RealDiv",
    "Reshape",
    "ResourceGather",
    "Rsqrt",
    "Select",
    "SelectV2",
    "Shape",
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
# In modules, and never in what is run: initial values and their assignment, weight decay as TF1 trained with it, and
# savers (written by tf.compat.v1.saved_model.Builder).
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

_ADVICE = (
  'this graph is not run, so nothing can be compared; if you know what it does and who made it, give --trust_source'
)

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
class Variable:
  """A variable of a graph, and where its value is in the checkpoint.

  Attributes:
    handle: name of the tensor of the variable's VarHandleOp.
    name: name of the checkpoint's tensor.
    shape: shape of the variable; None if the graph does not state it.
    full_shape, offset: for a partition of a partitioned variable, the shape of the whole and where the partition begins
      in it; else None.
  """

  handle: str
  name: str
  shape: tuple[int, ...] | None
  full_shape: tuple[int, ...] | None = None
  offset: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Reduced:
  """The part of a module that may be run.

  Attributes:
    graph_def: the operations that the signatures' outputs depend on; library functions only of a graph that is trusted.
    inputs, outputs: names of tensors, by signature and then by the signature's names; the layers are outputs of
      `tokens` as
      'layer_0' and so on, if they were found.
    variables: the variables in it.
  """

  graph_def: Any
  inputs: dict[str, dict[str, str]]
  outputs: dict[str, dict[str, str]]
  variables: tuple[Variable, ...]


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
  saved_model = graph_defs.read(saved_model_pb)
  graph_defs.check_content(saved_model, saved_model_pb)
  if not trusted:
    for node in graph_defs.nodes(saved_model):
      graph_defs.check_operation(node, ALLOWED, 'not on the allow-list', _ADVICE, saved_model_pb)
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
      f'no metagraph with tags {sorted(tags)} in {saved_model_pb}: this is no ALBERT module'
    )
  inputs, outputs = dict[str, dict[str, str]](), dict[str, dict[str, str]]()
  for name in signatures:
    signature = whole.signature_def[name]
    for there, here, wanted in (
      (signature.inputs, inputs, SIGNATURES[name][0]),
      (signature.outputs, outputs, SIGNATURES[name][1]),
    ):
      for key in wanted:
        if key not in there or there[key].WhichOneof('encoding') != 'name':
          raise errors.UntrustedGraphError(
            f'no plain tensor {key} in signature {name} of {saved_model_pb}: this is no ALBERT module'
          )
      here[name] = {key: there[key].name for key in wanted}
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
    # Devices are those of the machine that wrote the module, and _class may name a node that is left out.
    node.device = ''
    node.attr.pop('_class', None)
    if node.op == 'VarHandleOp' and not node.attr['shared_name'].s:
      node.attr['shared_name'].s = node.name.encode()  # or all variables without a name would be one
  if trusted:
    part.library.CopyFrom(whole.graph_def.library)
  return Reduced(part, inputs, outputs, tuple(_variables(part, whole, saved_model_pb)))


def _variables(part: Any, whole: Any, saved_model_pb: pathlib.Path) -> Iterator[Variable]:
  """The variables in a reduced graph. Of partitions, the metagraph's collections hold the place in the whole variable (VariableDef)."""
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
        f'no VariableDef in a collection of {saved_model_pb} ({e}): fetch the module again'
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
        f'partition {node.name} of shape {shape} does not lie in its variable in {saved_model_pb} (shape '
        f'{list(full)}, offset {list(offset)}): fetch the module again'
      )
    # The exporter saves partitions as slices of one tensor, under the name without /part_0.
    yield Variable(f'{node.name}:0', name.rpartition('/')[0], shape, full, offset)


def _layers(graph: Any, sequence_output: str) -> list[str]:
  """The outputs of the layers, first to last: the additions that end the layer norm after each feed-forward.

  `tf.nn.batch_normalization` computes x * scale + (beta - mean * scale): one addition of one subtraction from each
  reading of
  beta. The order of a GraphDef that TF1 wrote is the order in which it was built.
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
