"""Loads exported models, after checking their operations against an allow-list.

A SavedModel runs in the process that loads it, so an unexpected operation is refused.
"""

import os
import pathlib
from typing import Any

from export.graphs import graph_defs

# Operations of encoders and preprocessors of all versions. A test compares them with the exported ones.
OPERATIONS = frozenset(
  [
    'AddN',
    'AddV2',
    'Any',
    'AssignVariableOp',
    'BatchMatMulV2',
    'BiasAdd',
    'BroadcastTo',
    'CaseFoldUTF8',
    'Cast',
    'ConcatV2',
    'Const',
    'Cumsum',
    'DisableCopyOnRead',
    'Einsum',
    'Equal',
    'ExpandDims',
    'Fill',
    'FloorDiv',
    'GatherNd',
    'GatherV2',
    'GreaterEqual',
    'Identity',
    'Less',
    'LogSoftmax',
    'LogicalAnd',
    'LogicalNot',
    'LogicalOr',
    'LowerBound',
    'MatMul',
    'Max',
    'Maximum',
    'Mean',
    'Minimum',
    'Mul',
    'NoOp',
    'NormalizeUTF8',
    'NotEqual',
    'OneHot',
    'OnesLike',
    'Pack',
    'Pad',
    'PartitionedCall',
    'Placeholder',
    'Pow',
    'RaggedRange',
    'RandomUniform',
    'Range',
    'ReadVariableOp',
    'Reshape',
    'ResourceGather',
    'Rsqrt',
    'ScatterNd',
    'Select',
    'SelectV2',
    'SentencepieceOp',
    'SentencepieceTokenizeOp',
    'Shape',
    'Size',
    'Slice',
    'Softmax',
    'SquaredDifference',
    'StatefulPartitionedCall',
    'StaticRegexReplace',
    'StopGradient',
    'StridedSlice',
    'StringJoin',
    'StringStrip',
    'Sub',
    'Tanh',
    'TensorScatterUpdate',
    'Transpose',
    'UnicodeDecode',
    'UnicodeEncode',
    'VarHandleOp',
    'VarIsInitializedOp',
    'Where',
  ]
)
# Activations of models other than the published English ones.
ACTIVATIONS = frozenset(['Erf', 'Relu', 'Sigmoid'])
# Operations of earlier releases, with which new releases are compared.
FORMER = frozenset(['LessEqual'])
# Operations that save and restore variables. They are allowed only in functions that no other node calls.
SAVING = frozenset(
  ['MergeV2Checkpoints', 'RestoreV2', 'SaveV2', 'ShardedFilename', 'StaticRegexFullMatch', 'StringJoin']
)
_ADVICE = 'fetch the release again'


def check(path: pathlib.Path) -> None:
  """Checks the graph of an exported model.

  Args:
    path: directory of the SavedModel.

  Raises:
    UntrustedGraphError: an operation is not on the allow-list or hides another graph; names the node.
  """
  file = path / 'saved_model.pb'
  usual = OPERATIONS | ACTIVATIONS | FORMER
  saved_model = graph_defs.read(file)
  graph_defs.check_content(saved_model, file)
  for meta_graph in saved_model.meta_graphs:
    savers = _savers(meta_graph)
    for node in meta_graph.graph_def.node:
      graph_defs.check_operation(node, usual, 'not on the allow-list of exports', _ADVICE, file)
    for function in meta_graph.graph_def.library.function:
      allowed = usual | SAVING if function.signature.name in savers else usual
      for node in function.node_def:
        graph_defs.check_operation(node, allowed, 'not on the allow-list of exports', _ADVICE, file)


def _savers(meta_graph: Any) -> set[str]:
  """Returns the functions that save and restore variables, and that no other node calls and no object exposes."""
  saver = meta_graph.saver_def
  names = {saver.save_tensor_name.split(':')[0], saver.restore_op_name}
  library = meta_graph.graph_def.library.function
  called = set[str](meta_graph.object_graph_def.concrete_functions)
  saving = set[str]()
  for nodes, functions in ((meta_graph.graph_def.node, names), *((function.node_def, set()) for function in library)):
    for node in nodes:
      (saving if node.name in functions else called).update(graph_defs.functions(node))
  return saving - called


def load(path: pathlib.Path) -> Any:
  """Checks and loads an exported model.

  Args:
    path: directory of the SavedModel.

  Raises:
    UntrustedGraphError: as in `check`.
  """
  import tensorflow as tf

  check(path)
  return tf.saved_model.load(os.fspath(path))
