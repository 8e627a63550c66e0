"""What of TensorFlow runs and differentiates graphs, for processes that do nothing else.

`import tensorflow` imports the whole of its Python API, which takes 1.7 s of processor time, twice as long as all that is needed here.
The modules that the API takes its names from are imported instead: TensorFlow's own affair, so they are those of the version that is pinned.
"""

import importlib.util
import sys
import types
from typing import Any


def load() -> Any:
  """Imports it. From now on `import tensorflow` gives the same in this process.

  Returns:
    TensorFlow, or as much of it, under the names of its API.
  """
  if 'tensorflow' in sys.modules:
    return sys.modules['tensorflow']
  spec = importlib.util.find_spec('tensorflow')
  assert spec is not None
  # Under this name, the modules in the package are found, and its own is not run.
  package = sys.modules['tensorflow'] = importlib.util.module_from_spec(spec)
  from tensorflow.core.protobuf import config_pb2
  from tensorflow.python.client import session
  from tensorflow.python.framework import constant_op
  from tensorflow.python.framework import importer
  from tensorflow.python.framework import ops
  from tensorflow.python.ops import array_ops
  from tensorflow.python.ops import gradients_impl  # registers the derivatives of all operations
  from tensorflow.python.ops import gradients_util
  from tensorflow.python.ops import math_ops
  from tensorflow.python.ops import tensor_math_operator_overrides  # noqa: F401  (so that a tensor can be multiplied with *)
  for name, value in {
      'add_n': math_ops.add_n, 'AggregationMethod': gradients_util.AggregationMethod, 'constant': constant_op.constant,
      'convert_to_tensor': ops.convert_to_tensor, 'gradients': gradients_impl.gradients_v2, 'Graph': ops.Graph,
      'graph_util': types.SimpleNamespace(import_graph_def=importer.import_graph_def), 'reduce_sum': math_ops.reduce_sum,
      'reshape': array_ops.reshape, 'compat': types.SimpleNamespace(v1=types.SimpleNamespace(
          ConfigProto=config_pb2.ConfigProto, Session=session.Session))}.items():
    setattr(package, name, value)
  return package
