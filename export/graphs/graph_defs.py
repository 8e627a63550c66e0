"""The operations in a saved_model.pb, what they depend on, and what can be hidden in them."""

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

# No constant of an ALBERT comes near; one that says so in a few bytes takes as much memory as it says.
_MOST_ELEMENTS = 1 << 28
# The kinds of attributes that can hold something: of the others, a number or a type is all there is.
_HOLDING = frozenset({'func', 'list', 's', 'shape', 'tensor'})
_OPERATION = re.compile(r'[A-Za-z0-9_.>]+')


def read(saved_model_pb: pathlib.Path) -> Any:
  """Parses the file.

  Raises:
    UntrustedGraphError: it does not parse.
  """
  from google.protobuf import message
  from tensorflow.core.protobuf import saved_model_pb2

  try:
    return saved_model_pb2.SavedModel.FromString(saved_model_pb.read_bytes())
  except (OSError, message.DecodeError) as e:
    raise errors.UntrustedGraphError(
      f'no SavedModel in {saved_model_pb} ({str(e).splitlines()[0]}): fetch the model again'
    ) from e


def nodes(saved_model: Any) -> Iterator[Any]:
  """The nodes of all metagraphs and of all their library functions."""
  for meta_graph in saved_model.meta_graphs:
    yield from meta_graph.graph_def.node
    for function in meta_graph.graph_def.library.function:
      yield from function.node_def


def node_name(tensor: str) -> str:
  """The node that an input of another one names: 'a' of 'a', 'a:1', 'a:value:0' and '^a'."""
  return tensor.removeprefix('^').split(':')[0]


def ancestors(nodes: Iterable[Any], tensors: Iterable[str]) -> Iterator[Any]:
  """The nodes of a graph or a function that tensors depend on, those that they are of among them; each once."""
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
  """The library functions that a node may call: what it is named after, or has in its attributes."""
  return {node.op, *(f.name for value in node.attr.values() for f in (value.func, *value.list.func))}


def check_operation(node: Any, allowed: frozenset[str], fault: str, advice: str, file: pathlib.Path) -> None:
  """Raises UntrustedGraphError when a node's operation is not an allowed one."""
  if node.op not in allowed:
    raise errors.UntrustedGraphError(f'operation {node.op} at node {node.name!r} is {fault} in {file}: {advice}')


def check_content(saved_model: Any, file: pathlib.Path) -> None:
  """Refuses what no operation may hide, whoever made it.

  Raises:
    UntrustedGraphError: a constant or an attribute holds another graph, a constant has a shape that no memory holds, or
      library functions
      call themselves.
  """
  for meta_graph in saved_model.meta_graphs:
    for where, attributes in _attributes(meta_graph.graph_def):
      for name, value in attributes.items():
        _check_value(name, value, where, file)
    if cycle := _recursive(meta_graph.graph_def.library):
      raise errors.UntrustedGraphError(
        f'function {cycle!r} calls itself in {file}: no ALBERT does, this module is not run'
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
    # In a shape that is no tensor's, -1 stands for any size.
    if any(size < -1 for size in sizes) or math.prod(map(abs, sizes)) > _MOST_ELEMENTS:
      raise errors.UntrustedGraphError(
        f'a shape of {sizes} at {where} in {file}: no ALBERT has one, fetch the module again'
      )
  if any(map(_is_graph, (*held('s'), *(text for tensor in held('tensor') for text in _texts(tensor))))):
    raise errors.UntrustedGraphError(
      f'a graph in attribute {name} of {where} in {file}: no ALBERT hides one, this module is not run'
    )


def _texts(tensor: Any) -> Iterator[bytes]:
  yield from tensor.string_val
  if tensor.tensor_content:
    yield tensor.tensor_content
  if len(tensor.int_val) > 1 and all(-128 <= number < 256 for number in tensor.int_val):
    yield bytes(number & 255 for number in tensor.int_val)


def _is_graph(text: bytes) -> bool:
  """Whether bytes are a GraphDef, or a MetaGraphDef or SavedModel with one."""
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
  """A function that calls itself, by way of others or not; None if none does."""
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
