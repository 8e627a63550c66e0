"""The block of matrix products has the outputs, derivatives and dropout of tf-models' block of einsums."""

import types

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from official.modeling import activations
from official.nlp.modeling import networks

from export.model import encoder as encoder_lib

_INPUTS = ('input_word_ids', 'input_mask', 'input_type_ids')
_SIZES = dict(
  vocab_size=50,
  embedding_width=8,
  hidden_size=24,
  num_layers=2,
  num_attention_heads=3,
  max_sequence_length=16,
  intermediate_size=40,
  dropout_rate=0.0,
  attention_dropout_rate=0.0,
)


def _encoder(**changes):
  """A small AlbertEncoder with random values that depend only on its sizes.

  Dropout halves values, so that two runs are equal.
  """
  encoder = networks.AlbertEncoder(**{**_SIZES, 'activation': activations.gelu, 'dict_outputs': True, **changes})
  rng = np.random.default_rng(1)
  for variable in encoder.variables:
    variable.assign(rng.normal(scale=0.3, size=variable.shape))
  for layer in encoder.submodules:
    if isinstance(layer, tf_keras.layers.Dropout):
      layer.call = lambda inputs, training=None, half=layer.rate > 0: inputs * 0.5 if training and half else inputs
  return encoder


def _outlined(encoder):
  """The exported form of the encoder."""
  sizes = encoder.get_config()
  config = types.SimpleNamespace(
    hidden_size=sizes['hidden_size'],
    embedding_size=sizes['embedding_width'],
    max_position_embeddings=sizes['max_sequence_length'],
    block_of_layer=[0] * sizes['num_layers'],
    pooler=True,
  )
  blocks = [encoder.get_layer('transformer')]
  return encoder_lib.Outlined(types.SimpleNamespace(encoder=encoder, blocks=blocks, config=config))


def _inputs(batch, length):
  rng = np.random.default_rng(2)
  lengths = rng.integers(0, length + 1, [batch, 1])  # includes a row without tokens
  return [
    tf.constant(rng.integers(0, 50, [batch, length]), tf.int32),
    tf.constant(np.arange(length) < lengths, tf.int32),
    tf.constant(rng.integers(-1, 3, [batch, length]), tf.int32),
  ]  # valid types, and others


def _run(encoder, inputs, training, encode):
  """Returns the outputs, and the derivatives of their sum by every variable."""

  @tf.function(autograph=False)
  def call():
    with tf.GradientTape() as tape:
      outputs = encode(inputs, training)
      flat = [outputs['pooled_output'], *outputs['encoder_outputs']]
      total = tf.add_n([tf.reduce_sum(tf.sin(output)) for output in flat])
    return flat, [tf.convert_to_tensor(gradient) for gradient in tape.gradient(total, encoder.trainable_variables)]

  flat, gradients = call()
  return [value.numpy() for value in (*flat, *gradients)]


_QUICK = [
  ({}, 4, 16, True),
  ({}, 0, 5, False),
  (dict(embedding_width=24), 2, 7, True),
  (dict(dropout_rate=0.1, attention_dropout_rate=0.1), 2, 7, True),
]
_SLOW = [
  ({}, 4, 16, False),
  ({}, 1, 1, False),
  (dict(activation=tf.nn.relu), 2, 7, False),
  (dict(num_attention_heads=1), 2, 7, True),
  (dict(dropout_rate=0.1, attention_dropout_rate=0.1), 2, 7, False),
  (dict(intermediate_size=24), 2, 7, False),
]


@pytest.mark.parametrize(
  'changes, batch, length, training', [*_QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in _SLOW)]
)
def test_outputs_and_derivatives_are_those_of_einsums(changes, batch, length, training):
  inputs = _inputs(batch, length)
  encoder = _encoder(**changes)
  right = _run(encoder, inputs, training, lambda values, mode: encoder(values, training=mode))
  encode = _outlined(encoder).encode

  def ours(mode):
    return _run(encoder, inputs, mode, lambda values, mode: encode(dict(zip(_INPUTS, values, strict=True)), mode))

  mine = ours(training)
  assert len(right) == len(mine) == 3 + (23 if 'embedding_width' in changes else 25)
  for one, other in zip(right, mine, strict=True):
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=2e-6 * max(1.0, np.abs(one).max(initial=0)))
  if training and changes.keys() & {'dropout_rate', 'attention_dropout_rate'}:
    assert np.abs(mine[0] - ours(False)[0]).max() > 0.01


def test_a_mask_of_another_shape_is_refused():
  ids, mask, types_of_tokens = _inputs(4, 8)
  encode = _outlined(_encoder()).encode
  specs = {name: tf.TensorSpec([None, None], tf.int32) for name in _INPUTS}
  run = tf.function(lambda inputs: encode(inputs, False), input_signature=[specs], autograph=False)
  run(dict(zip(_INPUTS, (ids, mask, types_of_tokens), strict=True)))
  for wrong in (mask[:1], mask[:, :4], tf.reshape(mask, [8, 4])):
    with pytest.raises(tf.errors.InvalidArgumentError):
      run(dict(zip(_INPUTS, (ids, wrong, types_of_tokens), strict=True)))
