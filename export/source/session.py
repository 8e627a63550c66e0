"""Opens a session on the reduced graph of a TF1 Hub module, with its variables assigned from the checkpoint by name."""

import contextlib
import pathlib
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np

from converters import errors
from export.graphs import widen
from export.source import graph as source_graph


@contextlib.contextmanager
def start(
  graph: source_graph.Reduced,
  module: pathlib.Path,
  given: Mapping[str, Any] | None = None,
  config: Any = None,
  widened: bool = False,
) -> Iterator[Any]:
  """Imports a graph into a session and assigns its variables.

  Args:
    graph: from `source_graph.reduced`.
    module: directory of the TF1 Hub module.
    given: tensor-like values that replace tensors of the graph, by tensor name.
    config: ConfigProto of the session.
    widened: whether to run the graph in float64.

  Yields:
    A tf.compat.v1.Session, whose graph is the default graph.

  Raises:
    UntrustedGraphError: the checkpoint lacks a variable of the graph, or has another shape or dtype for it.
    SourceError: a variable cannot be read, or is not finite.
  """
  import tensorflow as tf
  from tensorflow.core.framework import graph_pb2

  from converters.readers import tf1_variables  # imports TensorFlow

  graph_def, computed = graph.graph_def, tf.float64 if widened else tf.float32
  if widened:
    graph_def = graph_pb2.GraphDef()
    graph_def.CopyFrom(graph.graph_def)
    widen.graph(graph_def)
  variables = tf1_variables.Variables(module / 'variables' / 'variables')
  stored = variables.tensors()
  with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
    replaced = {tensor: tf.constant(value) for tensor, value in (given or {}).items()}
    tf.graph_util.import_graph_def(graph_def, replaced, name='')
    for variable in graph.variables:
      shape, dtype = stored.get(variable.name, (None, None))
      wanted = variable.shape if variable.full_shape is None else variable.full_shape
      if shape is None or dtype != np.float32 or wanted not in (None, shape):
        there = 'missing' if shape is None else f'of shape {list(shape)}, dtype {dtype}'
        raise errors.UntrustedGraphError(
          f'{module / "variables"}: variable {variable.name} is {there} (in the graph: of shape '
          f'{"unknown" if wanted is None else list(wanted)}, dtype float32); fetch the module again'
        )
      value = variables.read(variable.name)
      if variable.offset is not None and variable.shape is not None:
        value = value[
          tuple(slice(begin, begin + size) for begin, size in zip(variable.offset, variable.shape, strict=True))
        ]
      placeholder = tf.compat.v1.placeholder(computed, value.shape)
      handle = session.graph.get_tensor_by_name(variable.handle)
      session.run(
        tf.raw_ops.AssignVariableOp(resource=handle, value=placeholder),
        {placeholder: value.astype(computed.as_numpy_dtype, copy=False)},
      )
    yield session


def whole(graph: source_graph.Reduced, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Merges the values of partitioned variables.

  Args:
    graph: from `source_graph.reduced`.
    values: arrays for some of the graph's variables, by handle.

  Returns:
    Arrays by name of the checkpoint tensor, each of that tensor's shape; zeros for partitions without a value.
  """
  result = dict[str, np.ndarray]()
  for variable in graph.variables:
    if variable.handle not in values:
      continue
    value = values[variable.handle]
    if variable.full_shape is None or variable.offset is None:
      result[variable.name] = value
      continue
    array = result.setdefault(variable.name, np.zeros(variable.full_shape, value.dtype))
    array[tuple(slice(begin, begin + size) for begin, size in zip(variable.offset, value.shape, strict=True))] = value
  return result
