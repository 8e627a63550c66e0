"""Builds ALBERT as a LiteRT model of builtin operations, from canonical weights.

LiteRT's converter inlines functions, and refuses the calls of a published SavedModel, which are not inlined. So the
graph is made from the weights, like the one for ONNX.
"""

import math
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from converters import albert_config
from converters import interface
from converters.writers import graph_options

_EPSILON = 1e-12  # of every layer norm
_FAR_BELOW = -1e9  # Keras adds this to the attention scores of masked positions, in float32


def build(
  weights: Mapping[str, np.ndarray],
  config: albert_config.AlbertConfig,
  options: graph_options.Options,
  seq_length: int | None = None,
  int8: bool = False,
) -> bytes:
  """Builds the model.

  Its signature `serving_default` takes int32 [batch, seq] `input_word_ids`, `input_mask` and `input_type_ids`, and with
  `mlm` int32 [batch, P] `masked_lm_positions`. It returns float32 `pooled_output` [batch, H] and `sequence_output`
  [batch, seq, H]. Optional outputs are `encoder_outputs_0` and so on, `mlm_logits` [batch, P, V] and `sop_log_probs`
  [batch, 2].

  Args:
    weights: float32 arrays by canonical name, in canonical layout.
    config: config of the model.
    options: outputs; the form is always that with padding.
    seq_length: the only length of the sequence, with a batch of 1; None for any sizes.
    int8: whether kernels and embeddings are quantized; the products' inputs are quantized when they run.
  """
  batch = None if seq_length is None else 1
  module = tf.Module()
  module.weights = {name: tf.Variable(value, trainable=False) for name, value in weights.items()}
  specs = {name: tf.TensorSpec([batch, seq_length], tf.int32, name) for name in interface.ENCODER_INPUTS}
  if options.mlm:
    specs['masked_lm_positions'] = tf.TensorSpec([batch, None], tf.int32, 'masked_lm_positions')
  encode = _Encoder(module.weights, config, options)
  module.call = tf.function(lambda **inputs: encode(inputs), autograph=False)
  with tempfile.TemporaryDirectory() as directory:
    signature = module.call.get_concrete_function(**specs)
    tf.saved_model.save(module, directory, {'serving_default': signature})
    converter = tf.lite.TFLiteConverter.from_saved_model(directory)
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if int8 else []
    return converter.convert()


class _Encoder:
  """Computes the encoder and its heads with TensorFlow."""

  def __init__(self, weights: Mapping[str, Any], config: albert_config.AlbertConfig, options: graph_options.Options):
    self._weights, self._config, self._options = weights, config, options

  def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the outputs by name."""
    table = self._weights
    ids, mask = inputs['input_word_ids'], inputs['input_mask']
    x = tf.gather(table['embeddings.word'], ids) + tf.gather(table['embeddings.token_type'], inputs['input_type_ids'])
    x = self._norm(x + tf.gather(table['embeddings.position'], tf.range(tf.shape(ids)[1])), 'embeddings.norm')
    if self._config.embedding_size != self._config.hidden_size:
      x = self._dense(x, 'embeddings.projection')
    # LiteRT has no slice with two new axes.
    scores = tf.expand_dims(tf.expand_dims(tf.cast(tf.equal(mask, 0), tf.float32) * _FAR_BELOW, 1), 1)
    layers = []
    for number in self._config.block_of_layer:
      group, inner = divmod(number, self._config.inner_group_num)
      x = self._block(x, scores, f'group_{group}.layer_{inner}.' if number else '')
      layers.append(x)
    pooled = tf.tanh(self._dense(x[:, 0], 'pooler'))
    outputs = {'pooled_output': pooled, 'sequence_output': x}
    if self._options.layers:
      outputs |= {f'encoder_outputs_{number}': tf.identity(layer) for number, layer in enumerate(layers)}
    if self._options.mlm:
      y = tf.gather(x, inputs['masked_lm_positions'], batch_dims=1)
      y = self._norm(self._activation(self._dense(y, 'mlm.transform')), 'mlm.norm')
      outputs['mlm_logits'] = _product(y, table['embeddings.word'], table['mlm.output_bias'], transposed=True)
    if self._options.sop:
      logits = _product(pooled, table['sop.kernel'], table['sop.bias'], transposed=True)
      outputs['sop_log_probs'] = tf.nn.log_softmax(logits)
    return outputs

  def _block(self, x: Any, scores: Any, prefix: str) -> Any:
    sizes = tf.shape(x)
    heads, size = self._config.num_attention_heads, self._config.hidden_size // self._config.num_attention_heads
    split = tf.stack([sizes[0], sizes[1], heads, size])
    query, key, value = (
      tf.transpose(tf.reshape(self._dense(x, f'{prefix}attention.{part}'), split), [0, 2, 1, 3])
      for part in ('query', 'key', 'value')
    )
    shares = tf.nn.softmax(tf.matmul(query * (1 / math.sqrt(size)), key, transpose_b=True) + scores)
    context = tf.reshape(tf.transpose(tf.matmul(shares, value), [0, 2, 1, 3]), sizes)
    x = self._norm(self._dense(context, f'{prefix}attention.output') + x, f'{prefix}attention.norm')
    inner = self._activation(self._dense(x, f'{prefix}feed_forward.intermediate'))
    return self._norm(self._dense(inner, f'{prefix}feed_forward.output') + x, f'{prefix}feed_forward.norm')

  def _dense(self, x: Any, name: str) -> Any:
    return _product(x, self._weights[f'{name}.kernel'], self._weights[f'{name}.bias'])

  def _norm(self, x: Any, name: str) -> Any:
    centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    return centred * tf.math.rsqrt(variance + _EPSILON) * self._weights[f'{name}.gamma'] + self._weights[f'{name}.beta']

  def _activation(self, x: Any) -> Any:
    if self._config.activation is albert_config.Activation.GELU_TANH:
      return tf.nn.gelu(x, approximate=True)
    if self._config.activation is albert_config.Activation.GELU_EXACT:
      return tf.nn.gelu(x, approximate=False)
    if self._config.activation is albert_config.Activation.SILU:
      return x * tf.sigmoid(x)
    return tf.nn.relu(x) if self._config.activation is albert_config.Activation.RELU else tf.tanh(x)


def _product(x: Any, kernel: Any, bias: Any, transposed: bool = False) -> Any:
  """Computes a dense layer of x [..., in]; LiteRT has one operation for the product of two dimensions and its bias."""
  rows = x if x.shape.rank == 2 else tf.reshape(x, [-1, x.shape[-1]])
  rows = tf.nn.bias_add(tf.matmul(rows, kernel, transpose_b=transposed), bias)
  if x.shape.rank == 2:
    return rows
  sizes = tf.shape(x)
  return tf.reshape(rows, tf.stack([sizes[0], sizes[1], rows.shape[-1]]))
