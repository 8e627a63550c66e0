"""ALBERT's transformer block, computed in matrix products.

tf-models and Keras write its sums of products as einsums. TensorFlow's kernel for those takes up to half as long again
as that for matrix products, and its graph rewriting does not put bias, activation and residual into it, as it does with
the other. What is computed is the same; it is rounded otherwise.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from official.modeling import activations

# What Keras adds to the scores of what nobody attends to, in float32.
_FAR_BELOW = -1e9


class MatrixProducts:
  """Does what a block of tf-models' TransformerEncoderBlock does."""

  def __init__(self, block: Any):
    """Takes its layers.

    Args:
      block: built, as AlbertEncoder makes it: attention over one axis, layer norms behind the residuals, an activation
        between its two
        dense layers.
    """
    attention = block._attention_layer
    self._dense = (
      attention._query_dense,
      attention._key_dense,
      attention._value_dense,
      attention._output_dense,
      block._intermediate_dense,
      block._output_dense,
    )
    activation = block._intermediate_activation_layer.activation
    self._activation = _gelu if activation is activations.gelu else activation
    self._norms = block._attention_layer_norm, block._output_layer_norm
    # Of the attention weights, of the attention output, and of the feed-forward output. Both outputs have ALBERT's
    # `hidden_dropout_prob`: the block's own layer for the attention output has the rate of the attention weights.
    self._dropouts = attention._dropout_layer, block._output_dropout, block._output_dropout
    self._heads, self._size = attention._num_heads, attention._key_dim

  def kernels(self) -> list[Any]:
    """Reads the kernels, as a float32 [inputs, outputs] each."""
    return [_matrix(layer.kernel.read_value(), layer.bias.shape.rank) for layer in self._dense]

  def adder(self, inputs: Any, mask: Any) -> Any:
    """What is added to scores for a mask, once for all layers.

    Args:
      inputs: the first layer's, float32 [batch, seq, H].
      mask: int32 [batch, seq], 1 for what is attended to.

    Returns:
      float32 [batch, 1, 1, seq].
    """
    # Both sizes are looked at here: graph rewriting makes the addition part of a product, which would take a mask that
    # is too short.
    sizes = tf.shape(inputs)
    batch, length = sizes[0], sizes[1]
    mask = tf.broadcast_to(
      tf.reshape(mask, tf.stack([batch, 1, 1, tf.shape(mask)[1]])), tf.stack([batch, 1, 1, length])
    )
    return (1.0 - tf.cast(mask, tf.float32)) * _FAR_BELOW

  def call(self, inputs: Any, adder: Any, kernels: list[Any], training: bool) -> tuple[Any, list[Any]]:
    """What the block does.

    Args:
      inputs: float32 [batch, seq, H].
      adder: of the mask.
      kernels: the kernels.
      training: whether there is dropout.

    Returns:
      The block's output, float32 [batch, seq, H], and the kernels.
    """
    query, key, value, output, intermediate, last = (
      functools.partial(_product, layer, kernel) for layer, kernel in zip(self._dense, kernels, strict=True)
    )
    after_attention, after_output = (functools.partial(_norm, layer) for layer in self._norms)
    of_weights, of_attention, of_output = (
      functools.partial(layer, training=True) if training and layer.rate else lambda x: x for layer in self._dropouts
    )
    width = inputs.shape[2]
    sizes = tf.shape(inputs)
    batch, length = sizes[0], sizes[1]
    rows = tf.reshape(inputs, [-1, width])
    split = tf.stack([batch, length, self._heads, self._size])

    columns = _columns(rows)
    queries, keys, values = (
      tf.transpose(tf.reshape(product(rows, columns=columns), split), [0, 2, 1, 3]) for product in (query, key, value)
    )
    weights = of_weights(tf.nn.softmax(tf.matmul(queries * self._size**-0.5, keys, transpose_b=True) + adder))
    attention = tf.reshape(tf.transpose(tf.matmul(weights, values), [0, 2, 1, 3]), [-1, width])
    # Sums of a list, whose derivatives are what comes in: those of `+` would hold both operands for their shapes.
    rows = after_attention(tf.add_n([of_attention(output(attention)), rows]))
    inner = intermediate(rows, self._activation, columns=_columns(rows))
    rows = after_output(tf.add_n([of_output(last(inner)), rows]))
    return tf.reshape(rows, sizes), kernels


def _columns(rows: Any) -> Any:
  """Rows as columns, for products that are to have a faster derivative.

  A product's derivative by its input is a product, too: of the incoming derivative, which has few rows, and the
  transposed kernel. oneDNN was seen to
  take four times as long for it as for any other of these sizes (docs/decisions has the figures). Of a product whose
  input is what is transposed, it is
  the kernel as it is, times the incoming derivative transposed. Graph rewriting undoes both transposes where nothing is
  differentiated. In training one
  is left each way, which is why the product with the widest input is not written so, nor the one of what attention
  gives, which shares its input with none.
  """
  return tf.transpose(rows, name='columns')


def _product(
  layer: Any, kernel: Any, rows: Any, activation: Callable[[Any], Any] = lambda x: x, columns: Any = None
) -> Any:
  """A dense layer of rows; computed from them as columns, if they are given."""
  # Graph rewriting sorts operands by their names, and knows GELU in one order only: that of an activation in the scope
  # of the product's bias.
  with tf.name_scope(layer.name):
    bias = layer.bias if layer.bias.shape.rank == 1 else tf.reshape(layer.bias, [-1])
    product = tf.matmul(rows, kernel) if columns is None else tf.matmul(columns, kernel, transpose_a=True)
    return activation(tf.nn.bias_add(product, bias))


def _norm(layer: Any, rows: Any) -> Any:
  """A layer norm of rows: Keras' own wants as many axes as it was built for."""
  with tf.name_scope(layer.name):
    mean, variance = tf.nn.moments(rows, [1], keepdims=True)
    return tf.nn.batch_normalization(rows, mean, variance, layer.beta, layer.gamma, layer.epsilon)


def _gelu(x: Any) -> Any:
  """GELU by its approximation with tanh. tf.nn.gelu takes a power of three, whose derivative is a power of two: a slow operation that graph
  rewriting makes a product of where it sees the exponent, and a block's derivative is a function of its own, which gets
  it from outside."""
  with tf.name_scope('Gelu'):
    return 0.5 * x * (1.0 + tf.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * (x * x)))))


def _matrix(kernel: Any, outputs: int) -> Any:
  """A kernel of one or two axes of inputs, and so many of outputs."""
  return kernel if kernel.shape.rank == 2 else tf.reshape(kernel, [math.prod(kernel.shape[:-outputs]), -1])
