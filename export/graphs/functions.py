"""Analyses the function graphs of an exported model, so that shared computations run once."""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from export.graphs import graph_defs

_CALLS = ('PartitionedCall', 'StatefulPartitionedCall')


@dataclasses.dataclass(frozen=True)
class Function:
  """A snapshot of a loaded function, since differentiation changes the graphs of TensorFlow's functions.

  Attributes:
    name: name of the function in calls.
    graph: GraphDef of the function, with the functions that it calls.
    definition: FunctionDef of the function.
    inputs: names of the placeholders: first the arguments, then the captured variables.
    captured: handles of the captured variables.
    outputs: names of the returned tensors.
    structure: nested structure of the returned tensors.
    named: whether the arguments have the names of the placeholders, in the same order.
  """

  name: str
  graph: Any
  definition: Any
  inputs: list[str]
  captured: list[Any]
  outputs: list[str]
  structure: Any
  named: bool

  @classmethod
  def of(cls, concrete: Any) -> 'Function':
    """Returns a snapshot of a ConcreteFunction."""
    import tensorflow as tf

    arguments, by_name = concrete.structured_input_signature
    specs = by_name or arguments[0]
    own = [p.op.name for p in concrete.inputs[: len(concrete.inputs) - len(concrete.captured_inputs)]]
    # The placeholders are in the order of the flattened specs.
    named = (
      isinstance(specs, Mapping)
      and all(name == spec.name for name, spec in specs.items())
      and own == [spec.name for spec in tf.nest.flatten(specs)]
    )
    return cls(
      concrete.name.decode(),
      concrete.graph.as_graph_def(),
      concrete.function_def,
      [p.op.name for p in concrete.inputs],
      list(concrete.captured_inputs),
      [output.name for output in concrete.outputs],
      concrete.structured_outputs,
      named,
    )

  def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the value of each placeholder: an input or a variable handle; None if it is unknown."""
    own = len(self.inputs) - len(self.captured)
    return {name: given.get(name) if self.named else None for name in self.inputs[:own]} | dict(
      zip(self.inputs[own:], self.captured, strict=True)
    )

  def pack(self, results: Iterable[Any]) -> Any:
    """Packs results into the structure that a call returns."""
    import tensorflow as tf

    return tf.nest.pack_sequence_as(self.structure, list(results))


def calls(function: Function, target: Function) -> list[Any]:
  """Returns the nodes of a function that call another function."""
  return [node for node in function.graph.node if node.op in _CALLS and node.attr['f'].func.name == target.name]


def passed_on(function: Function, target: Function) -> tuple[list[int], list[int]] | None:
  """Returns the argument and result mappings of a function that only forwards to `target`.

  The function may call the target through other functions that only forward.

  Returns:
    The index of the function's argument for each argument of the target, and the index of the target's result for each
    result of the function. None if the function does anything else.
  """
  library = {definition.signature.name: definition for definition in function.graph.library.function}

  def of(definition: Any) -> tuple[list[int], list[int]] | None:
    arguments = {argument.name: number for number, argument in enumerate(definition.signature.input_arg)}
    nodes = {node.name: node for node in definition.node_def}

    def origin(tensor: str) -> str:
      while tensor not in arguments and nodes[graph_defs.node_name(tensor)].op == 'Identity':
        tensor = nodes[graph_defs.node_name(tensor)].input[0]
      return tensor

    others = [node for node in definition.node_def if node.op not in ('Identity', 'NoOp')]
    if len(others) != 1 or others[0].op not in _CALLS:
      return None
    given = [arguments.get(origin(tensor)) for tensor in others[0].input if not tensor.startswith('^')]
    returned = [
      origin(definition.ret[result.name]).rpartition(':output:') for result in definition.signature.output_arg
    ]
    if any(number is None for number in given) or any(node != others[0].name for node, _, _ in returned):
      return None
    arguments_of_call, results = (
      [number for number in given if number is not None],
      [int(number) for _, _, number in returned],
    )
    called = others[0].attr['f'].func.name
    if called == target.name:
      return arguments_of_call, results
    inner = of(library[called]) if called in library else None
    return inner and ([arguments_of_call[number] for number in inner[0]], [inner[1][number] for number in results])

  return of(function.definition)


def upto(function: Function, output: str) -> tuple[Any, str]:
  """Returns the part of a function that one of its outputs depends on.

  Returns:
    The graph of the part, and the name of the output tensor in it.
  """
  from tensorflow.core.framework import graph_pb2

  nodes = {node.name: node for node in function.graph.node}
  while nodes[graph_defs.node_name(output)].op == 'Identity':
    output = nodes[graph_defs.node_name(output)].input[0]
  names = {node.name for node in graph_defs.ancestors(function.graph.node, [output])}
  part = [node for node in function.graph.node if node.name in names]
  return graph_pb2.GraphDef(
    node=part, versions=function.graph.versions, library=function.graph.library
  ), output if ':' in output else f'{output}:0'


def after(function: Function, call: Any, available: Iterable[str]) -> Any:
  """Returns the graph of a function after a call.

  Args:
    function: the function.
    call: node of the call.
    available: names of tensors that are given to the graph, including the results of the call.
  """
  from tensorflow.core.framework import graph_pb2

  names = set(available)
  part = graph_pb2.GraphDef(
    node=[node for node in function.graph.node if node.name not in names],
    versions=function.graph.versions,
    library=function.graph.library,
  )
  for node in part.node:
    node.input[:] = [tensor for tensor in node.input if tensor != f'^{call.name}']
  return part


def runner(part: Any, outputs: Iterable[str]) -> Callable[[Mapping[str, Any]], list[Any]]:
  """Makes a part of a function callable.

  Args:
    part: graph of the part.
    outputs: names of the tensors to return.

  Returns:
    A function of the values of the part's placeholders and of tensors that the part does not compute, by name. It
    ignores other values.
  """
  import tensorflow as tf

  nodes, outputs = {node.name for node in part.node}, list(outputs)
  names = nodes | {tensor for node in part.node for tensor in node.input}
  computed = [output for output in outputs if graph_defs.node_name(output) in nodes]

  @tf.function(autograph=False)
  def imported(values: Mapping[str, Any]) -> list[Any]:
    given = {name: value for name, value in values.items() if name in names}
    results = dict(zip(computed, tf.graph_util.import_graph_def(part, given, computed), strict=True))
    # An output may be a result of the call, which the part does not compute.
    return [results[output] if output in results else values[output.removesuffix(':0')] for output in outputs]

  return imported
