"""Reads the operations in a saved_model.pb and their dependencies, and refuses hidden graphs."""

import collections
import graphlib
import math
import pathlib
import re
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from converters import errors

# Far above the size of any constant of ALBERT. A constant of few bytes can declare a shape that exhausts memory.
_MOST_ELEMENTS = 1 << 28
# Kinds of attributes that can hide a graph or declare a large shape; the others are numbers and types.
_HOLDING = frozenset({'func', 'list', 's', 'shape', 'tensor'})
_OPERATION = re.compile(r'[A-Za-z0-9_.>]+')


def read(saved_model_pb: pathlib.Path) -> Any:
  """Parses a saved_model.pb.

  Raises:
    UntrustedGraphError: the file cannot be read or parsed.
  """
  from google.protobuf import message
  from tensorflow.core.protobuf import saved_model_pb2

  try:
    return saved_model_pb2.SavedModel.FromString(saved_model_pb.read_bytes())
  except (OSError, message.DecodeError) as e:
    raise errors.UntrustedGraphError(
      f'{saved_model_pb}: not a SavedModel ({str(e).splitlines()[0]}); fetch the model again'
    ) from e


def nodes(saved_model: Any) -> Iterator[Any]:
  """Yields the nodes of all metagraphs and of their library functions."""
  for meta_graph in saved_model.meta_graphs:
    yield from meta_graph.graph_def.node
    for function in meta_graph.graph_def.library.function:
      yield from function.node_def


def node_name(tensor: str) -> str:
  """Returns the node name in an input of a node: 'a' for 'a', 'a:1', 'a:value:0' and '^a'."""
  return tensor.removeprefix('^').split(':')[0]


def ancestors(nodes: Iterable[Any], tensors: Iterable[str]) -> Iterator[Any]:
  """Yields, once each, the nodes that tensors depend on, including the nodes of the tensors."""
  by_name = {node.name: node for node in nodes}
  queue = collections.deque(tensors)
  seen = set()
  while queue:
    name = node_name(queue.popleft())
    if name in by_name and name not in seen:
      seen.add(name)
      queue.extend(by_name[name].input)
      yield by_name[name]


def functions(node: Any) -> set[str]:
  """Returns the names of library functions that a node may call: its operation, and functions in its attributes."""
  return {node.op, *(f.name for value in node.attr.values() for f in (value.func, *value.list.func))}


def check_operation(node: Any, allowed: frozenset[str], fault: str, advice: str, file: pathlib.Path) -> None:
  """Raises UntrustedGraphError if the operation of a node is not in `allowed`."""
  if node.op not in allowed:
    raise errors.UntrustedGraphError(f'{file}: operation {node.op} at node {node.name!r} is {fault}; {advice}')


def check_content(saved_model: Any, file: pathlib.Path) -> None:
  """Checks a graph for content that is refused even if the source is trusted.

  Args:
    saved_model: the parsed file.
    file: path of the file, for messages.

  Raises:
    UntrustedGraphError: a constant or an attribute contains another graph, a shape is too large for memory, or a
      library function is recursive.
  """
  for meta_graph in saved_model.meta_graphs:
    for where, attributes in _attributes(meta_graph.graph_def):
      for name, value in attributes.items():
        _check_value(name, value, where, file)
    if cycle := _recursive(meta_graph.graph_def.library):
      raise errors.UntrustedGraphError(
        f'{file}: function {cycle!r} is recursive, unlike those of ALBERT; give a module of an unmodified ALBERT'
      )


def _attributes(graph: Any) -> Iterator[tuple[str, Any]]:
  for node in graph.node:
    yield f'node {node.name!r}', node.attr
  for function in graph.library.function:
    yield f'function {function.signature.name!r}', function.attr
    for attributes in function.arg_attr.values():
      yield f'function {function.signature.name!r}', attributes.attr
    for node in function.node_def:
      yield f'node {node.name!r}', node.attr


def _check_value(name: str, value: Any, where: str, file: pathlib.Path) -> None:
  kind = value.WhichOneof('value')
  if kind not in _HOLDING:
    return

  def held(field: str) -> Sequence[Any]:
    return getattr(value.list, field) if kind == 'list' else [getattr(value, field)] if kind == field else ()

  for inner in held('func'):
    for inner_name, inner_value in inner.attr.items():
      _check_value(inner_name, inner_value, where, file)
  for shape in (*held('shape'), *(tensor.tensor_shape for tensor in held('tensor'))):
    sizes = [dimension.size for dimension in shape.dim]
    # In the shape attribute of an operation, -1 means any size.
    if any(size < -1 for size in sizes) or math.prod(map(abs, sizes)) > _MOST_ELEMENTS:
      raise errors.UntrustedGraphError(
        f'{file}: shape {sizes} at {where} is invalid or too large for ALBERT; fetch the module again'
      )
  if any(map(_is_graph, (*held('s'), *(text for tensor in held('tensor') for text in _texts(tensor))))):
    raise errors.UntrustedGraphError(
      f'{file}: attribute {name} of {where} contains a graph; give a module of an unmodified ALBERT'
    )


def _texts(tensor: Any) -> Iterator[bytes]:
  yield from tensor.string_val
  if tensor.tensor_content:
    yield tensor.tensor_content
  if len(tensor.int_val) > 1 and all(-128 <= number < 256 for number in tensor.int_val):
    yield bytes(number & 255 for number in tensor.int_val)


def _is_graph(text: bytes) -> bool:
  """Returns whether bytes parse as a GraphDef, MetaGraphDef or SavedModel with nodes."""
  from google.protobuf import message
  from tensorflow.core.framework import graph_pb2
  from tensorflow.core.protobuf import meta_graph_pb2
  from tensorflow.core.protobuf import saved_model_pb2

  for kind, graphs in (
    (graph_pb2.GraphDef, lambda m: [m]),
    (meta_graph_pb2.MetaGraphDef, lambda m: [m.graph_def]),
    (saved_model_pb2.SavedModel, lambda m: [g.graph_def for g in m.meta_graphs]),
  ):
    try:
      parsed = kind.FromString(text)
    except message.DecodeError:
      continue
    for graph in graphs(parsed):
      for node in (*graph.node, *(node for function in graph.library.function for node in function.node_def)):
        if node.name and _OPERATION.fullmatch(node.op):
          return True
  return False


def _recursive(library: Any) -> str | None:
  """Returns the name of a function that calls itself directly or indirectly; None if there is none."""
  names = {function.signature.name for function in library.function}
  calls = dict[str, set[str]]()
  for function in library.function:
    calls.setdefault(function.signature.name, set()).update(
      name for node in function.node_def for name in functions(node) if name in names
    )
  try:
    graphlib.TopologicalSorter(calls).prepare()
  except graphlib.CycleError as e:
    return str(min(e.args[1]))
  return None
