"""Private names of TensorFlow, Keras and tf-models that the export uses, each with the test that fails without it.

requirements/ pins the versions that have them. `make test` checks a new version of a package.
"""

import dataclasses
from typing import Any

# Keeps a call of a function in the graph; an inlined block would be in the graph once for each layer.
# Tested by tests/test_encoder.py, which counts the operations.
NOINLINE = {'_noinline': True}


@dataclasses.dataclass(frozen=True)
class BlockLayers:
  """The layers in a TransformerEncoderBlock of tf-models.

  Attributes:
    dense: query, key, value, attention output, intermediate and output layer, in this order.
    norms: layer norms after the attention and after the feed-forward layers.
    weights_dropout: dropout of the attention weights.
    output_dropout: dropout with ALBERT's `hidden_dropout_prob`.
    activation: between intermediate and output layer.
    heads: number of attention heads.
    head_size: units of one head.
  """

  dense: tuple[Any, ...]
  norms: tuple[Any, Any]
  weights_dropout: Any
  output_dropout: Any
  activation: Any
  heads: int
  head_size: int


def block_layers(block: Any) -> BlockLayers:
  """Returns the layers of a built TransformerEncoderBlock.

  tf-models has no public names for them, and Keras none for those of MultiHeadAttention. Tested by
  tests/test_transformer_block.py, which compares outputs and derivatives with the block's own.
  """
  attention = block._attention_layer
  dense = (
    attention._query_dense,
    attention._key_dense,
    attention._value_dense,
    attention._output_dense,
    block._intermediate_dense,
    block._output_dense,
  )
  return BlockLayers(
    dense,
    (block._attention_layer_norm, block._output_layer_norm),
    attention._dropout_layer,
    # The block's own dropout of the attention output has the rate of the attention weights; ALBERT's has this one.
    block._output_dropout,
    block._intermediate_activation_layer.activation,
    attention._num_heads,
    attention._key_dim,
  )


def trackable() -> Any:
  """Returns an object that tracks its attributes and nothing else; tf.Module adds its own to the SavedModel.

  Tested by tests/test_usage.py.
  """
  import tensorflow as tf

  return tf.__internal__.tracking.AutoTrackable()


def is_stateful(operation: str) -> bool:
  """Returns whether an operation of that name has side effects; True for an unknown one.

  Tested by tests/test_prune_graph.py.
  """
  from tensorflow.python.framework import op_def_registry

  definition = op_def_registry.get(operation)
  return definition is None or definition.is_stateful


def fingerprint(path: str) -> bytes:
  """Returns the serialized FingerprintDef of a SavedModel's directory, after its files were changed.

  Tested by tests/test_saved_model_cli.py and the comparison of release bytes.
  """
  from tensorflow.python.saved_model.pywrap_saved_model import fingerprinting

  return fingerprinting.CreateFingerprintDef(path)


def decode_structure(proto: Any) -> Any:
  """Returns the nested structure of a StructuredValue, which describes a function's inputs or outputs.

  Tested by tests/test_compatibility.py.
  """
  from tensorflow.python.saved_model import nested_structure_coder

  return nested_structure_coder.decode_proto(proto)
