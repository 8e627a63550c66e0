"""Takes out of a SavedModel's graphs what TensorFlow puts in and nobody needs: whoever loads a model reads all of it."""

import functools
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

from tensorflow.core.framework import types_pb2
from tensorflow.python.framework import op_def_registry

from export.graphs import graph_defs

_CALLS = ('PartitionedCall', 'StatefulPartitionedCall')
# Stateful, and change nothing.
_READS = ('ReadVariableOp', 'ResourceGather')
_SHAPES = '_output_shapes'
_NAME = '_user_specified_name'
_GRADIENT = '_gradient_op_type'


def slim(saved_model: Any) -> None:
  """Changes a SavedModel message. What its functions compute and do, and in which order, stays the same.

  * The shape of every output of every operation: TensorFlow infers all of them when it loads a graph, but for those of
  functions' results,
    which stay.
  * That who called a function with a variable called it 'resource'.
  * Waiting for what changes nothing, see `_drop_waiting`.
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
  """Makes what tells of a node whether anything is another thing after it: a variable, a file, a generator of random numbers."""
  library = {function.signature.name: function for function in functions}

  @functools.cache
  def function_changes(name: str) -> bool:
    return any(changes(node) for node in library[name].node_def)

  def changes(node: Any) -> bool:
    if node.op in _CALLS:
      return function_changes(node.attr['f'].func.name)
    operation = op_def_registry.get(node.op)
    return node.op not in _READS and (operation is None or operation.is_stateful)

  return changes


def _drop_waiting(function: Any, changes: Callable[[Any], bool]) -> None:
  """All that a function returns waits for all that it does, in an operation each that hands it on: a third of all operations. Where nothing that is
  waited for changes anything, what is handed on is taken where it comes from.

  Whoever calls the function still waits for all of it: else a variable could be changed before it was read. But not for
  what is waited for anyway.
  """
  nodes = {node.name: node for node in function.node_def}
  arguments = {argument.name for argument in function.signature.input_arg}

  def source(tensor: str) -> str:
    node = nodes.get(graph_defs.node_name(tensor))
    # Not beyond what hands on an argument: if that were what is returned, a derivative would have nothing to go
    # through.
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
