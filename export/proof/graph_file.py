"""The operations in a saved_model.pb, and what can be hidden in them."""

import math
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from converters import errors

# No constant of an ALBERT comes near; one that says so in a few bytes takes as much memory as it says.
_MOST_ELEMENTS = 1 << 28
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
    raise errors.UntrustedGraphError(f'no SavedModel in {saved_model_pb} ({str(e).splitlines()[0]}): fetch the model again') from e


def nodes(saved_model: Any) -> Iterator[Any]:
  """The nodes of all metagraphs and of all their library functions."""
  for meta_graph in saved_model.meta_graphs:
    yield from meta_graph.graph_def.node
    for function in meta_graph.graph_def.library.function:
      yield from function.node_def


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
    UntrustedGraphError: a constant or an attribute holds another graph, a constant has a shape that no memory holds, or library functions
      call themselves.
  """
  for node in nodes(saved_model):
    for name, value in node.attr.items():
      for tensor in (*([value.tensor] if value.HasField('tensor') else ()), *value.list.tensor):
        sizes = [dimension.size for dimension in tensor.tensor_shape.dim]
        if any(size < 0 for size in sizes) or math.prod(sizes) > _MOST_ELEMENTS:
          raise errors.UntrustedGraphError(f'a tensor of shape {sizes} at node {node.name!r} in {file}: no ALBERT has one, fetch the module again')
      if any(map(_is_graph, _texts(value))):
        raise errors.UntrustedGraphError(f'a graph in attribute {name} of node {node.name!r} in {file}: no ALBERT hides one, this module is '
                                         'not run')
  for meta_graph in saved_model.meta_graphs:
    if cycle := _recursive(meta_graph.graph_def.library):
      raise errors.UntrustedGraphError(f'function {cycle!r} calls itself in {file}: no ALBERT does, this module is not run')


def _texts(value: Any) -> Iterator[bytes]:
  yield value.s
  yield from value.list.s
  for tensor in (value.tensor, *value.list.tensor):
    yield from tensor.string_val
    yield tensor.tensor_content


def _is_graph(text: bytes) -> bool:
  """Whether bytes are a GraphDef, or a MetaGraphDef or SavedModel with one."""
  from google.protobuf import message
  from tensorflow.core.framework import graph_pb2
  from tensorflow.core.protobuf import meta_graph_pb2
  from tensorflow.core.protobuf import saved_model_pb2
  for kind, graphs in ((graph_pb2.GraphDef, lambda m: [m]), (meta_graph_pb2.MetaGraphDef, lambda m: [m.graph_def]),
                       (saved_model_pb2.SavedModel, lambda m: [g.graph_def for g in m.meta_graphs])):
    try:
      parsed = kind.FromString(text)
    except message.DecodeError:
      continue
    for graph in graphs(parsed):
      inner = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
      if inner and all(node.name and _OPERATION.fullmatch(node.op) for node in inner):
        return True
  return False


def _recursive(library: Any) -> str | None:
  """A function that calls itself, by way of others or not; None if none does."""
  calls = {}
  names = {function.signature.name for function in library.function}
  for function in library.function:
    called = (name for node in function.node_def for name in functions(node))
    calls[function.signature.name] = names.intersection(called)
  # What calls nothing that is left cannot be part of a circle.
  while leaves := [name for name, called in calls.items() if not called & calls.keys()]:
    for name in leaves:
      del calls[name]
  return min(calls, default=None)
