"""A transformer block computed in matrix products.

tf-models and Keras write its sums of products as einsums. TensorFlow's kernel for those takes up to half as long again as that for matrix
products, and its graph rewriting does not put bias and activation into it, as it does with the other. An ALBERT-base computes its outputs in
two thirds of the time so. What is computed is the same; it is rounded otherwise.
"""

import math
from typing import Any

import tensorflow as tf


class MatrixProducts:
  """Replaces what computes einsums in a block of tf-models' TransformerEncoderBlock.

  To be told the sizes of the inputs, by `begin`, whenever the block is traced.
  """

  def __init__(self, block: Any):
    """Replaces it.

    Args:
      block: built, with an activation between its two dense layers, and attention over one axis.
    """
    self._sizes: list[Any] = []
    self._shapes = dict[tuple[int, ...], Any]()
    self._rows = dict[Any, Any]()
    attention, activation = block._attention_layer, block._intermediate_activation_layer
    for layer in (attention._query_dense, attention._key_dense, attention._value_dense):
      layer.call = self._dense(layer, contracted=1)
    attention._output_dense.call = self._dense(attention._output_dense, contracted=2)
    # Right behind the bias, the activation becomes part of the product: so not where the block has it, after the shape is put back.
    block._intermediate_dense.call = self._dense(block._intermediate_dense, 1, activation.activation)
    activation.call = lambda inputs: inputs
    block._output_dense.call = self._dense(block._output_dense, contracted=1)
    attention._compute_attention = self._attention(attention)

  def begin(self, inputs: Any) -> None:
    """Of the block's inputs, [batch, seq, H]: once a trace, since all shapes begin with these sizes.

    What several products need is in the graph once.
    """
    sizes = tf.shape(inputs)
    self._sizes = [sizes[0], sizes[1]]
    self._shapes.clear()
    self._rows.clear()

  def _shape(self, *sizes: int) -> Any:
    """A shape, as a tensor; one that begins with 0 has the block's batch and seq there."""
    if sizes not in self._shapes:
      self._shapes[sizes] = tf.stack([*self._sizes, *sizes[1:]]) if sizes[0] == 0 else tf.constant(sizes)
    return self._shapes[sizes]

  def _dense(self, layer: Any, contracted: int, activation: Any = None) -> Any:
    """The call of an EinsumDense layer that contracts the last axes of its input with so many first ones of its kernel."""
    shape = layer.kernel.shape.as_list()
    width, rest = math.prod(shape[:contracted]), shape[contracted:]

    def call(inputs: Any) -> Any:
      if inputs.ref() not in self._rows:
        self._rows[inputs.ref()] = tf.reshape(inputs, self._shape(-1, width))
      # Read here, and not before: others may stand in for the kernel.
      kernel = layer.kernel if len(shape) == 2 else tf.reshape(layer.kernel, self._shape(width, -1))
      bias = layer.bias if len(rest) == 1 else tf.reshape(layer.bias, self._shape(-1))
      result = tf.nn.bias_add(tf.matmul(self._rows[inputs.ref()], kernel), bias)
      if activation is not None:
        result = activation(result)
      outputs = tf.reshape(result, self._shape(0, *rest))
      self._rows[outputs.ref()] = result
      return outputs
    return call

  def _attention(self, layer: Any) -> Any:
    """What MultiHeadAttention lets others compute, from projected queries, keys and values, [batch, seq, heads, size] each."""
    def compute(query: Any, key: Any, value: Any, attention_mask: Any = None, training: Any = None) -> tuple[Any, Any]:
      query, key, value = (tf.transpose(tensor, [0, 2, 1, 3]) for tensor in (query * (1.0 / math.sqrt(layer._key_dim)), key, value))
      scores = layer._masked_softmax(tf.matmul(query, key, transpose_b=True), attention_mask)
      outputs = tf.matmul(layer._dropout_layer(scores, training=training), value)
      return tf.transpose(outputs, [0, 2, 1, 3]), scores
    return compute
