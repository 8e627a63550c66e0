"""ALBERT's transformer block, computed in matrix products.

tf-models and Keras write the products of the block as einsums. TensorFlow's kernel for einsums takes up to 1.5 times as
long as the kernel for matrix products. Graph rewriting fuses bias, activation and residual into matrix products only.
The results differ by rounding.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from official.modeling import activations

from export import _tf_private

# Keras adds this to the scores of masked positions, in float32.
_FAR_BELOW = -1e9


def score_mask(inputs: Any, mask: Any) -> Any:
  """Returns the term that is added to attention scores for a mask; one tensor for all layers.

  Args:
    inputs: input of the first layer, float32 [batch, seq, H].
    mask: int32 [batch, seq], 1 for the positions that are attended to.

  Returns:
    float32 [batch, 1, 1, seq].
  """
  # Reshape and broadcast check both sizes: graph rewriting fuses the addition into a product that would take a mask
  # that is too short.
  sizes = tf.shape(inputs)
  batch, length = sizes[0], sizes[1]
  mask = tf.broadcast_to(tf.reshape(mask, tf.stack([batch, 1, 1, tf.shape(mask)[1]])), tf.stack([batch, 1, 1, length]))
  return _scores(mask)


def mask_scores(mask: Any) -> Any:
  """Returns the term that is added to attention scores: float32 [batch, 1, 1, seq] for a mask int32 [batch, seq]."""
  return _scores(mask[:, tf.newaxis, tf.newaxis, :])


def _scores(mask: Any) -> Any:
  return (1.0 - tf.cast(mask, tf.float32)) * _FAR_BELOW


class MatrixProducts:
  """Computes the outputs of a TransformerEncoderBlock of tf-models."""

  def __init__(self, block: Any):
    """Takes the layers of a block.

    Args:
      block: a built block as AlbertEncoder makes it: attention over one axis, layer norms after the residuals, an
        activation between two dense layers.
    """
    layers = _tf_private.block_layers(block)
    self._dense, self._norms = layers.dense, layers.norms
    self._activation = _gelu if layers.activation is activations.gelu else layers.activation
    # Of the attention weights, of the attention output, and of the feed-forward output.
    self._dropouts = layers.weights_dropout, layers.output_dropout, layers.output_dropout
    self._heads, self._size = layers.heads, layers.head_size

  def kernels(self) -> list[Any]:
    """Reads the kernels: float32 [inputs, outputs] each."""
    return [_matrix(layer.kernel.read_value(), layer.bias.shape.rank) for layer in self._dense]

  def call(self, inputs: Any, scores: Any, kernels: list[Any], training: bool) -> tuple[Any, list[Any]]:
    """Computes the block.

    Args:
      inputs: float32 [batch, seq, H].
      scores: term that is added to the attention scores, from `score_mask`.
      kernels: from `kernels`.
      training: whether dropout is applied.

    Returns:
      The block's output, float32 [batch, seq, H], and the kernels.
    """
    sizes = tf.shape(inputs)
    split = tf.stack([sizes[0], sizes[1], self._heads, self._size])
    width = inputs.shape[2]
    rows = self._compute(
      tf.reshape(inputs, [-1, width]),
      lambda rows: tf.reshape(rows, split),
      lambda padded: tf.reshape(padded, [-1, width]),
      scores,
      kernels,
      training,
    )
    return tf.reshape(rows, sizes), kernels

  def call_rows(self, rows: Any, places: Any, scores: Any, kernels: list[Any], training: bool) -> tuple[Any, list[Any]]:
    """Computes the block for rows without padding.

    Args:
      rows: float32 [tokens, H].
      places: text and place of each row for attention, int32 [tokens, 2].
      scores: term that is added to the attention scores, float32 [batch, 1, 1, longest].
      kernels: from `kernels`.
      training: whether dropout is applied.

    Returns:
      The block's output, float32 [tokens, H], and the kernels.
    """
    sizes = tf.shape(scores)
    batch, longest, width = sizes[0], sizes[3], rows.shape[1]
    split = tf.stack([batch, longest, self._heads, self._size])
    rows = self._compute(
      rows,
      lambda rows: tf.reshape(tf.scatter_nd(places, rows, tf.stack([batch, longest, width])), split),
      lambda padded: tf.gather_nd(tf.reshape(padded, tf.stack([batch, longest, width])), places),
      scores,
      kernels,
      training,
    )
    return rows, kernels

  def _compute(
    self,
    rows: Any,
    pad: Callable[[Any], Any],
    unpad: Callable[[Any], Any],
    scores: Any,
    kernels: list[Any],
    training: bool,
  ) -> Any:
    """Computes the block.

    Args:
      rows: float32 [tokens, H].
      pad: function from rows [tokens, H] to [batch, seq, heads, head size], for attention.
      unpad: function from [batch, seq, heads, head size] to rows.
      scores: term that is added to the attention scores, float32 [batch, 1, 1, seq].
      kernels: from `kernels`.
      training: whether dropout is applied.

    Returns:
      float32 [tokens, H].
    """
    query, key, value, output, intermediate, last = (
      functools.partial(product, layer, kernel) for layer, kernel in zip(self._dense, kernels, strict=True)
    )
    after_attention, after_output = (functools.partial(norm, layer) for layer in self._norms)
    of_weights, of_attention, of_output = (
      functools.partial(layer, training=True) if training and layer.rate else lambda x: x for layer in self._dropouts
    )
    columns = _columns(rows)
    queries, keys, values = (
      tf.transpose(pad(project(rows, columns=columns)), [0, 2, 1, 3]) for project in (query, key, value)
    )
    weights = of_weights(tf.nn.softmax(tf.matmul(queries * self._size**-0.5, keys, transpose_b=True) + scores))
    attention = unpad(tf.transpose(tf.matmul(weights, values), [0, 2, 1, 3]))
    # The derivative of AddN needs no operand; that of `+` would keep both for their shapes.
    rows = after_attention(tf.add_n([of_attention(output(attention)), rows]))
    inner = intermediate(rows, self._activation, columns=_columns(rows))
    return after_output(tf.add_n([of_output(last(inner)), rows]))


def _columns(rows: Any) -> Any:
  """Transposes rows, for products with a faster derivative.

  The derivative of a product by its input is the incoming derivative, which has few rows, times the transposed kernel.
  For this product, oneDNN took four times as long as for others of its size (figures in docs/decisions). If the input
  is transposed, the product is the kernel times the transposed incoming derivative. Graph rewriting removes both
  transposes in inference; one of each pair is left in training. The product with the widest input is therefore not
  written so, nor that of the attention output, which shares its input with no other.
  """
  return tf.transpose(rows, name='columns')


def product(
  layer: Any, kernel: Any, rows: Any, activation: Callable[[Any], Any] = lambda x: x, columns: Any = None
) -> Any:
  """Computes a dense layer of rows, from `columns` if they are given."""
  # Graph rewriting sorts operands by name, and recognizes GELU in one order: with the activation in the scope of the
  # product's bias.
  with tf.name_scope(layer.name):
    bias = layer.bias if layer.bias.shape.rank == 1 else tf.reshape(layer.bias, [-1])
    products = tf.matmul(rows, kernel) if columns is None else tf.matmul(columns, kernel, transpose_a=True)
    return activation(tf.nn.bias_add(products, bias))


def norm(layer: Any, rows: Any) -> Any:
  """Computes a layer norm of rows; the Keras layer takes only the rank that it was built for."""
  with tf.name_scope(layer.name):
    mean, variance = tf.nn.moments(rows, [1], keepdims=True)
    return tf.nn.batch_normalization(rows, mean, variance, layer.beta, layer.gamma, layer.epsilon)


def _gelu(x: Any) -> Any:
  """Computes GELU by its approximation with tanh.

  tf.nn.gelu takes a power of three, whose derivative is a power of two: a slow operation. Graph rewriting replaces it
  only where it sees the exponent, and the derivative of a block is a function that gets it as an argument.
  """
  with tf.name_scope('Gelu'):
    return 0.5 * x * (1.0 + tf.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * (x * x)))))


def _matrix(kernel: Any, outputs: int) -> Any:
  """Reshapes a kernel with one or two input axes and `outputs` output axes to a matrix."""
  return kernel if kernel.shape.rank == 2 else tf.reshape(kernel, [math.prod(kernel.shape[:-outputs]), -1])
