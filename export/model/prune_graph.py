"""Removes parts of a SavedModel's graphs that TensorFlow adds and loading does not need."""

import functools
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

from tensorflow.core.framework import types_pb2

from export import _tf_private
from export.graphs import graph_defs

_CALLS = ('PartitionedCall', 'StatefulPartitionedCall')
# Stateful by definition, but without side effects.
_READS = ('ReadVariableOp', 'ResourceGather')
_SHAPES = '_output_shapes'
_NAME = '_user_specified_name'
_GRADIENT = '_gradient_op_type'


def slim(saved_model: Any) -> None:
  """Prunes a SavedModel message in place. Results, side effects and their order stay the same.

  Removed are:

  * shapes of operations' outputs, which TensorFlow infers when it loads a graph; shapes of calls' results stay;
  * the user's name 'resource' of variable arguments;
  * control dependencies on operations without side effects, see `_drop_waiting`.
  """
  for meta_graph in saved_model.meta_graphs:
    functions = meta_graph.graph_def.library.function
    for nodes in (meta_graph.graph_def.node, *(function.node_def for function in functions)):
      for node in nodes:
        if node.op not in _CALLS and _SHAPES in node.attr:
          del node.attr[_SHAPES]
    changes = _changing(functions)
    for function in functions:
      for number, attributes in function.arg_attr.items():
        if function.signature.input_arg[number].type == types_pb2.DT_RESOURCE and _NAME in attributes.attr:
          del attributes.attr[_NAME]
      _drop_waiting(function, changes)


def _changing(functions: Iterable[Any]) -> Callable[[Any], bool]:
  """Returns a predicate for nodes with side effects: on a variable, a file or a random generator."""
  library = {function.signature.name: function for function in functions}

  @functools.cache
  def function_changes(name: str) -> bool:
    return any(changes(node) for node in library[name].node_def)

  def changes(node: Any) -> bool:
    if node.op in _CALLS:
      return function_changes(node.attr['f'].func.name)
    return node.op not in _READS and _tf_private.is_stateful(node.op)

  return changes


def _drop_waiting(function: Any, changes: Callable[[Any], bool]) -> None:
  """Removes control dependencies on operations without side effects.

  TensorFlow puts an Identity behind each result of a function, which waits for all of the function's operations: a
  third of all operations. Where none of these has side effects, the Identity is bypassed. The function's own control
  outputs stay, since a caller must not change a variable before it is read; those that another one implies are removed.
  """
  nodes = {node.name: node for node in function.node_def}
  arguments = {argument.name for argument in function.signature.input_arg}

  def source(tensor: str) -> str:
    node = nodes.get(graph_defs.node_name(tensor))
    # An Identity of an argument stays: a derivative needs an operation between argument and result.
    if node is None or node.op != 'Identity' or node.input[0] in arguments or _GRADIENT in node.attr:
      return tensor
    if any(
      changes(waited)
      for waited in graph_defs.ancestors(function.node_def, (i for i in node.input if i.startswith('^')))
    ):
      return tensor
    return source(node.input[0])

  def upstream(tensors: Iterable[str]) -> set[str]:
    return {node.name for node in graph_defs.ancestors(function.node_def, tensors)}

  for name, tensor in list(function.ret.items()):
    function.ret[name] = source(tensor)
  for node in function.node_def:
    node.input[:] = [tensor if tensor.startswith('^') else source(tensor) for tensor in node.input]
  anyway = upstream(tensor for waited in function.control_ret.values() for tensor in nodes[waited].input)
  for name, waited in list(function.control_ret.items()):
    if waited in anyway:
      del function.control_ret[name]
      function.signature.control_output.remove(name)
  needed = upstream([*function.ret.values(), *function.control_ret.values()])
  kept = [node for node in function.node_def if node.name in needed]
  del function.node_def[:]
  function.node_def.extend(kept)
