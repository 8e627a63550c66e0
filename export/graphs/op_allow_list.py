"""Loads what was exported: a SavedModel runs in the process that loads it, so only with the operations that exports have."""

import os
import pathlib
from typing import Any

from export.graphs import graph_defs

# What encoders and preprocessors of all versions consist of. A test holds what is exported against it, name by name.
OPERATIONS = frozenset(
  [
    'AddN',
    'AddV2',
    'AssignVariableOp',
    'BatchMatMulV2',
    'BiasAdd',
    'BroadcastTo',
    'CaseFoldUTF8',
    'Cast',
    'ConcatV2',
    'Const',
    'DisableCopyOnRead',
    'Einsum',
    'Equal',
    'ExpandDims',
    'Fill',
    'FloorDiv',
    'GatherV2',
    'GreaterEqual',
    'Identity',
    'Less',
    'LogSoftmax',
    'LogicalAnd',
    'LowerBound',
    'MatMul',
    'Maximum',
    'Mean',
    'Minimum',
    'Mul',
    'NoOp',
    'NormalizeUTF8',
    'OneHot',
    'OnesLike',
    'Pack',
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
    'Select',
    'SelectV2',
    'SentencepieceOp',
    'SentencepieceTokenizeOp',
    'Shape',
    'Size',
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
# ... and what earlier ones did: releases are compared with those before them.
FORMER = frozenset(['LessEqual'])
# What a SavedModel is saved and restored with: only in functions that nothing else calls.
SAVING = frozenset(
  ['MergeV2Checkpoints', 'RestoreV2', 'SaveV2', 'ShardedFilename', 'StaticRegexFullMatch', 'StringJoin']
)
_ADVICE = 'this is not what was published, and it is not run: fetch the release again'


def check(path: pathlib.Path) -> None:
  """Checks the graph of an exported model.

  Args:
    path: the SavedModel.

  Raises:
    UntrustedGraphError: an operation anywhere in it is none that exports have, or hides another graph; names the node.
  """
  file = path / 'saved_model.pb'
  usual = OPERATIONS | FORMER
  saved_model = graph_defs.read(file)
  graph_defs.check_content(saved_model, file)
  for meta_graph in saved_model.meta_graphs:
    savers = _savers(meta_graph)
    for node in meta_graph.graph_def.node:
      graph_defs.check_operation(node, usual, 'none that is exported', _ADVICE, file)
    for function in meta_graph.graph_def.library.function:
      allowed = usual | SAVING if function.signature.name in savers else usual
      for node in function.node_def:
        graph_defs.check_operation(node, allowed, 'none that is exported', _ADVICE, file)


def _savers(meta_graph: Any) -> set[str]:
  """The functions that save and restore variables, and that nothing else calls or offers."""
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
  """Checks an exported model, and loads it.

  Raises:
    UntrustedGraphError: as `check` does.
  """
  import tensorflow as tf

  check(path)
  return tf.saved_model.load(os.fspath(path))
