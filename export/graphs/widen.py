"""Widens saved graphs from float32 to float64.

A widened graph has the same operations on the same float32 weights and constants, and computes without float32's
rounding. Widening changes types only: every DT_FLOAT in node attributes, constants, function signatures, variables, and
the specs of the object graph.

One operation is replaced: RandomUniform becomes the constant 1 - 2**-53. Dropout then keeps all units and multiplies
them by 1 / (1 - rate), so that training modes can be compared.
"""

import os
import pathlib
import shutil
from typing import Any

import numpy as np

from converters import errors
from converters.io import temp_dirs
from export.graphs import checkpoint_keys

_LARGEST_RANDOM = 1 - 2.0**-53


def graph(graph_def: Any) -> None:
  """Widens a GraphDef and its library functions, in place."""
  from tensorflow.core.framework import types_pb2

  for node in graph_def.node:
    _attributes(node.attr)
  _replace_random(graph_def.node, '')
  for function in graph_def.library.function:
    for node in function.node_def:
      _attributes(node.attr)
    _replace_random(function.node_def, ':output:0')
    for argument in (*function.signature.input_arg, *function.signature.output_arg):
      if argument.type == types_pb2.DT_FLOAT:
        argument.type = types_pb2.DT_DOUBLE
      for variable in argument.handle_data:
        if variable.dtype == types_pb2.DT_FLOAT:
          variable.dtype = types_pb2.DT_DOUBLE
    _attributes(function.attr)
    for attributes in function.arg_attr.values():
      _attributes(attributes.attr)


def load(path: pathlib.Path) -> Any:
  """Loads a TF2 SavedModel of an encoder in float64, with widened graphs and cast float32 variables.

  Args:
    path: directory of the SavedModel.

  Returns:
    The result of tf.saved_model.load.

  Raises:
    ParityError: a variable is missing in the checkpoint.
  """
  import tensorflow as tf

  with temp_dirs.directory('albert_widened_') as directory:
    saved_model(path, directory / 'model')
    # Without the checkpoint: assigning the variables takes less time than writing and reading a float64 checkpoint.
    loaded = tf.saved_model.load(
      os.fspath(directory / 'model'), options=tf.saved_model.LoadOptions(experimental_skip_checkpoint=True)
    )
  reader = tf.train.load_checkpoint(os.fspath(path / 'variables' / 'variables'))
  keys = checkpoint_keys.read(path)
  heads = [getattr(loaded, name) for name in ('mlm', 'sop') if hasattr(loaded, name)]
  for variable in {id(v): v for v in (*loaded.variables, *(v for head in heads for v in head.variables))}.values():
    name = variable.name.removesuffix(':0')
    if name not in keys:
      raise errors.ParityError(
        f'{path}: variable {name} is missing in the checkpoint (object graph); export the model again'
      )
    variable.assign(reader.get_tensor(keys[name]).astype(variable.dtype.as_numpy_dtype))
  return loaded


def saved_model(path: pathlib.Path, output: pathlib.Path) -> None:
  """Writes the widened form of a TF2 SavedModel, without its variables.

  Args:
    path: directory of the SavedModel.
    output: directory to create.
  """
  from tensorflow.core.framework import types_pb2
  from tensorflow.core.protobuf import saved_model_pb2

  output.mkdir()
  if (path / 'assets').exists():
    shutil.copytree(path / 'assets', output / 'assets')
  definition = saved_model_pb2.SavedModel.FromString((path / 'saved_model.pb').read_bytes())
  for meta_graph in definition.meta_graphs:
    graph(meta_graph.graph_def)
    for signature in meta_graph.signature_def.values():
      for tensor in (*signature.inputs.values(), *signature.outputs.values()):
        if tensor.dtype == types_pb2.DT_FLOAT:
          tensor.dtype = types_pb2.DT_DOUBLE
    for node in meta_graph.object_graph_def.nodes:
      if node.WhichOneof('kind') == 'variable' and node.variable.dtype == types_pb2.DT_FLOAT:
        node.variable.dtype = types_pb2.DT_DOUBLE
    for function in meta_graph.object_graph_def.concrete_functions.values():
      _specs(function.canonicalized_input_signature)
      _specs(function.output_signature)
  (output / 'saved_model.pb').write_bytes(definition.SerializeToString())


def _attributes(attributes: Any) -> None:
  import tensorflow as tf
  from tensorflow.core.framework import types_pb2

  for attribute in attributes.values():
    kind = attribute.WhichOneof('value')
    if kind == 'type' and attribute.type == types_pb2.DT_FLOAT:
      attribute.type = types_pb2.DT_DOUBLE
    elif kind == 'list':
      attribute.list.type[:] = [types_pb2.DT_DOUBLE if t == types_pb2.DT_FLOAT else t for t in attribute.list.type]
    elif kind == 'tensor' and attribute.tensor.dtype == types_pb2.DT_FLOAT:
      attribute.tensor.CopyFrom(tf.make_tensor_proto(tf.make_ndarray(attribute.tensor).astype(np.float64)))


def _replace_random(nodes: Any, output: str) -> None:
  """Replaces RandomUniform with a constant just below 1.

  Args:
    nodes: nodes of a graph or a function; changed in place.
    output: suffix of a node's name that names its first output.
  """
  import tensorflow as tf

  for node in [node for node in nodes if node.op == 'RandomUniform']:
    dtype, shape = node.attr['dtype'].type, node.attr['T'].type
    value = nodes.add(name=f'{node.name}/largest', op='Const')
    value.attr['dtype'].type = dtype
    value.attr['value'].tensor.CopyFrom(tf.make_tensor_proto(_LARGEST_RANDOM, dtype=dtype))
    controls = [name for name in node.input if name.startswith('^')]
    inputs = [name for name in node.input if not name.startswith('^')]
    node.ClearField('attr')
    node.op = 'Fill'
    node.input[:] = [*inputs, f'{value.name}{output}', *controls]
    node.attr['T'].type = dtype
    node.attr['index_type'].type = shape


def _specs(value: Any) -> None:
  """Widens the tensor specs in a StructuredValue."""
  from tensorflow.core.framework import types_pb2

  kind = value.WhichOneof('kind')
  if kind in ('tensor_spec_value', 'bounded_tensor_spec_value'):
    spec = getattr(value, kind)
    if spec.dtype == types_pb2.DT_FLOAT:
      spec.dtype = types_pb2.DT_DOUBLE
  elif kind in ('list_value', 'tuple_value'):
    for inner in getattr(value, kind).values:
      _specs(inner)
  elif kind == 'dict_value':
    for inner in value.dict_value.fields.values():
      _specs(inner)
