"""The padding-free call computes what the plain call computes, and leaves padding out."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from test_transformer_block import _encoder
from test_transformer_block import _outlined

from converters import errors
from converters.reference import inputs as proof_inputs
from converters.reference import measures
from export.model import encoder as encoder_lib
from export.model import padding_free
from export.validation import exported_encoder
from export.validation import padding_free_check

_INPUTS = ('input_word_ids', 'input_mask', 'input_type_ids')
MASKS = {
  'padding at the end': [[1] * 8, [1] * 5 + [0] * 3, [1] + [0] * 7],
  'holes': [[1, 0, 1, 1, 0, 0, 1, 1], [1, 1, 1, 0, 0, 0, 0, 1], [1] * 8],
  'padding at the start': [[0, 0, 1, 1, 1, 1, 1, 1], [0] * 7 + [1], [0, 1, 1, 0, 0, 0, 0, 0]],
  'all masked': [[0] * 8, [1] * 3 + [0] * 5, [0] * 8],
  'one token': [[1]],
  'no padding': [[1] * 8] * 3,
  'values other than 1': [[1, 2, 2, 1, 0, 0, 0, 0], [5, 0, 5, 0, 0, 0, 0, 0], [0, 1, 0, 3, 1, 0, 0, 0]],
}


def _batch(mask, seed=2):
  mask = np.asarray(mask, np.int32)
  rng = np.random.default_rng(seed)
  return {
    'input_word_ids': tf.constant(rng.integers(0, 50, mask.shape), tf.int32),
    'input_mask': tf.constant(mask),
    'input_type_ids': tf.constant(rng.integers(0, 2, mask.shape), tf.int32),
  }


def _run(encode, inputs, variables, training):
  """Returns the outputs with zeros at padding, and the derivatives of a scalar of them."""
  keep = tf.constant(padding_free_check.kept(inputs['input_mask'].numpy())[:, :, np.newaxis], tf.float32)

  @tf.function(autograph=False)
  def call():
    with tf.GradientTape() as tape:
      outputs = encode(inputs, training)
      kept = [outputs['pooled_output'], *(keep * layer for layer in outputs['encoder_outputs'])]
      scalar = tf.add_n([tf.reduce_sum(tf.sin(value)) for value in kept])
    return outputs, kept, [tf.convert_to_tensor(gradient) for gradient in tape.gradient(scalar, variables)]

  return tf.nest.map_structure(lambda value: value.numpy(), call())


@pytest.mark.parametrize('mask', MASKS.values(), ids=MASKS)
@pytest.mark.parametrize('training', [pytest.param(False, marks=pytest.mark.slow), True])
def test_outputs_and_derivatives_are_those_of_the_plain_call(mask, training):
  encoder, inputs = _encoder(dropout_rate=0.1, attention_dropout_rate=0.1), _batch(mask)
  outlined = _outlined(encoder)
  _, right, derivatives = _run(outlined.encode, inputs, encoder.trainable_variables, training)
  outputs, found, ours = _run(outlined.encode_padding_free, inputs, encoder.trainable_variables, training)
  padding = ~padding_free_check.kept(inputs['input_mask'].numpy())
  assert len(outputs['encoder_outputs']) == 2 and not any(layer[padding].any() for layer in outputs['encoder_outputs'])
  assert np.array_equal(outputs['sequence_output'], outputs['encoder_outputs'][-1])
  assert np.array_equal(outputs['default'], outputs['pooled_output'])
  for one, other in zip([*right, *derivatives], [*found, *ours], strict=True):
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=3e-6 * max(1.0, np.abs(one).max(initial=0)))


def test_an_embedding_as_wide_as_the_layers_needs_no_projection():
  encoder, inputs = _encoder(embedding_width=24), _batch(MASKS['holes'])
  outlined = _outlined(encoder)
  right, found = (encode(inputs, False) for encode in (outlined.encode, outlined.encode_padding_free))
  np.testing.assert_allclose(found['pooled_output'], right['pooled_output'], atol=2e-6)


@pytest.fixture(scope='module')
def loaded(encoder_path):
  return tf.saved_model.load(encoder_path)


def test_an_empty_batch_has_empty_outputs(loaded):
  outputs = loaded.padding_free(_batch(np.zeros([0, 8])))
  assert outputs['pooled_output'].shape == (0, 16) and outputs['sequence_output'].shape == (0, 8, 16)


def test_other_ids_at_padding_change_nothing(loaded):
  inputs, others = (_batch(MASKS['holes'], seed) for seed in (2, 3))
  mixed = {name: tf.where(inputs['input_mask'] != 0, inputs[name], others[name]) for name in _INPUTS}
  assert not np.array_equal(mixed['input_word_ids'], inputs['input_word_ids'])
  one, other = (loaded.padding_free(given)['sequence_output'].numpy() for given in (inputs, mixed))
  assert np.array_equal(one, other)


def test_the_longest_sequence_and_no_longer(loaded, config):
  longest = config.max_position_embeddings
  inputs = _batch(np.ones([1, longest]))
  right, found = (call(inputs)['sequence_output'].numpy() for call in (loaded, loaded.padding_free))
  np.testing.assert_allclose(found, right, atol=2e-5)
  for call in (loaded, loaded.padding_free):  # also if the mask leaves only padding beyond the limit
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=f'at_most_{longest}_positions'):
      call(_batch(np.arange(longest + 1) < 3 * np.ones([1, 1])))


def test_inputs_of_different_shapes_are_refused(loaded):
  inputs = _batch(MASKS['holes'])
  for name in _INPUTS:
    for wrong in (inputs[name][:1], inputs[name][:, :4], tf.reshape(inputs[name], [8, 3])):
      with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):  # by static or by dynamic shapes
        loaded.padding_free(dict(inputs, **{name: wrong}))


def test_the_signature_passes_the_call_on(loaded):
  inputs = _batch(MASKS['holes'])
  right, found = loaded.padding_free(inputs), loaded.signatures['serving_padding_free'](**inputs)
  assert sorted(found) == ['default', 'pooled_output', 'sequence_output']
  assert all(np.array_equal(found[name], right[name]) for name in found)


def test_it_shares_the_variables_of_the_encoder(loaded):
  for name in ('variables', 'trainable_variables'):
    ours, plain = getattr(loaded.padding_free, name), getattr(loaded, name)
    assert len(ours) == 25 and all(one is other for one, other in zip(ours, plain, strict=True))


def test_encoders_of_version_1_have_no_such_call(history):
  loaded = tf.saved_model.load(str(history / 'tensorflow/albert_en_demo/1'))
  assert not hasattr(loaded, 'padding_free') and sorted(loaded.signatures) == ['serving_default']


def _wrong_packing(**changes):
  """Returns a `Packing.of_mask` with other values in some fields."""
  right = padding_free.Packing.of_mask

  def of_mask(mask):
    packing = right(mask)
    for name, change in changes.items():
      object.__setattr__(packing, name, change(getattr(packing, name)))
    return packing

  return of_mask


WRONG = {
  'nothing is masked': (dict(scores=lambda value: value * 0.0), 'padding_free'),
  'rows are shifted by one': (dict(places=lambda value: tf.concat([value[-1:], value[:-1]], axis=0)), 'padding_free'),
}


@pytest.mark.parametrize('case', WRONG)
def test_a_wrong_packing_is_refused(prove, module, monkeypatch, case):
  changes, message = WRONG[case]
  monkeypatch.setattr(padding_free.Packing, 'of_mask', _wrong_packing(**changes))
  with pytest.raises(errors.ParityError, match=message):
    prove(module)


def _of_mask_without(rule):
  """Returns a `Packing.of_mask` that keeps other positions."""

  def of_mask(mask):
    if rule == 'position 0':  # moves the mask of rows that begin with padding, as if position 0 could be left out
      first = tf.cast(tf.equal(tf.reduce_max(mask, axis=1, keepdims=True), 1), tf.int32)
      mask = tf.concat([tf.maximum(mask[:, :1], first), mask[:, 1:]], axis=1)
    else:  # an all-masked row attends to its first position only
      none = tf.equal(tf.reduce_max(mask, axis=1, keepdims=True), 0)
      mask = tf.where(none & tf.equal(tf.range(tf.shape(mask)[1]), 0), 1, mask)
    return right(mask)

  right = padding_free.Packing.of_mask
  return of_mask


@pytest.mark.parametrize('rule', ['position 0', 'all masked'])
def test_only_other_masks_than_padding_at_the_end_show_this(prove, module, monkeypatch, rule):
  monkeypatch.setattr(padding_free.Packing, 'of_mask', _of_mask_without(rule))
  with pytest.raises(errors.ParityError, match=r'padding_free: |padding_free/\w+ is not zero'):
    prove(module, mlm=False, sop=False)


def test_values_at_padding_are_refused(prove, module, monkeypatch):
  encode = encoder_lib.Outlined.encode_padding_free

  def wrong(self, inputs, training):
    outputs = encode(self, inputs, training)
    return dict(outputs, encoder_outputs=[outputs['encoder_outputs'][0] + 1e-30, *outputs['encoder_outputs'][1:]])

  monkeypatch.setattr(encoder_lib.Outlined, 'encode_padding_free', wrong)
  with pytest.raises(errors.ParityError, match='padding_free/layer_0 is not zero at padding'):
    prove(module, mlm=False, sop=False)


def test_a_missing_call_is_refused(prove, module, monkeypatch):
  exportable = encoder_lib.exportable

  def without(*args):
    root, signatures = exportable(*args)
    del root.padding_free
    del signatures['serving_padding_free']
    return root, signatures

  monkeypatch.setattr(encoder_lib, 'exportable', without)
  with pytest.raises(errors.ParityError, match='padding_free/pooled_output is missing in the export'):
    prove(module, mlm=False, sop=False)


def test_the_certificate_has_the_comparison(prove, module):
  _, certificate = prove(module)
  found = certificate.padding_free
  assert 0 <= found.kept < 1e-12 and 0 <= found.all_masked < 1e-5
  assert {name: distance > 1e-3 for name, distance in certificate.controls.items() if 'padding-free' in name} == {
    'padding-free: rows shifted by one': True,
    'padding-free: a masked token attended to': True,
  }


def test_the_published_derivatives_are_those_of_the_plain_call(encoder_path, config):
  exported = exported_encoder.Exported(pathlib.Path(encoder_path), 'dict', widened=True)
  batch = proof_inputs.make_with_holes(config)
  keep = padding_free_check.kept(batch.input_mask)[:-1]
  rng = np.random.default_rng(3)
  factors = {
    'pooled_output': rng.standard_normal((len(keep), config.hidden_size), np.float32),
    'sequence_output': rng.standard_normal((*keep.shape, config.hidden_size), np.float32) * keep[:, :, np.newaxis],
  }
  scalar = proof_inputs.Scalar(batch.first(len(keep)), factors, training=False)
  right, found = (exported.gradient(scalar, call)[0] for call in ('tokens', 'padding_free'))
  assert right.keys() == found.keys() and len(right) == 25
  for name, value in right.items():
    kernel = right.get(f'{name.removesuffix("bias")}kernel', value)  # the derivative by a bias may cancel
    assert measures.distance(found[name].numpy(), value.numpy()).rms < 1e-11 * measures.rms(kernel.numpy()), name


def _pooled(masked):
  """Returns a Keras model that averages the encoder's outputs over all positions, or over tokens only."""

  def build(call):
    inputs = {name: tf_keras.layers.Input([None], dtype=tf.int32, name=name) for name in _INPUTS}
    sequence = call(inputs)['sequence_output']
    mask = inputs['input_mask'] > 0 if masked else None
    pooled = tf_keras.layers.GlobalAveragePooling1D()(sequence, mask=mask)
    return tf_keras.Model(inputs, tf_keras.layers.Dense(1)(pooled))

  return build


@pytest.mark.parametrize('masked', [True, False])
def test_pooling_needs_the_mask(encoder_path, masked):
  """Unmasked pooling averages padding too, which is zero in one call only."""
  import tensorflow_hub as hub

  loaded = hub.load(encoder_path)
  models = [_pooled(masked)(hub.KerasLayer(call, trainable=True)) for call in (loaded, loaded.padding_free)]
  models[1].set_weights(models[0].get_weights())
  one, other = (model(_batch(MASKS['padding at the end'])).numpy() for model in models)
  assert np.allclose(one, other, atol=1e-5) == masked


@pytest.mark.parametrize(
  'policy', ['float32', *(pytest.param(name, marks=pytest.mark.slow) for name in ('mixed_float16', 'mixed_bfloat16'))]
)
def test_it_trains_in_keras(encoder_path, policy):
  import tensorflow_hub as hub

  inputs = _batch(MASKS['padding at the end'])
  tf_keras.mixed_precision.set_global_policy(policy)
  try:
    model = _pooled(True)(hub.KerasLayer(hub.load(encoder_path).padding_free, trainable=True))
  finally:
    tf_keras.mixed_precision.set_global_policy('float32')
  assert len(model.trainable_variables) == 25 + 2
  before = model.get_weights()
  model.compile(tf_keras.optimizers.Adam(0.01), 'mse')
  model.fit(inputs, tf.ones([3, 1]), epochs=20, verbose=0)  # float16's loss scale begins too high
  # The pooler and nothing else has no part in the loss.
  same = sum(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))
  assert same == 2


def test_it_runs_in_a_dataset(loaded):
  inputs = _batch(MASKS['holes'])
  dataset = tf.data.Dataset.from_tensor_slices(inputs).batch(2).map(loaded.padding_free)
  found = np.concatenate([outputs['pooled_output'].numpy() for outputs in dataset])
  np.testing.assert_allclose(found, loaded(inputs)['pooled_output'], atol=2e-6)


def test_it_runs_on_replicas(encoder_path):
  strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
  with strategy.scope():
    loaded = tf.saved_model.load(encoder_path)
  inputs = _batch(MASKS['holes'])

  @tf.function
  def step():
    def replica():
      with tf.GradientTape() as tape:
        value = tf.reduce_sum(loaded.padding_free(inputs, training=True)['sequence_output'] ** 2)
      gradient = tape.gradient(value, loaded.trainable_variables[:1])[0]
      return tf.reduce_sum(tf.abs(tf.convert_to_tensor(gradient)))

    return strategy.run(replica)

  one, other = strategy.experimental_local_results(step())
  assert one.numpy() == other.numpy() > 0


def test_xla_refuses_it_and_takes_the_plain_call(loaded):
  inputs = _batch(MASKS['holes'])
  plain = tf.function(lambda values: loaded(values)['pooled_output'], jit_compile=True)
  np.testing.assert_allclose(plain(inputs), loaded(inputs)['pooled_output'], atol=1e-5)
  packed = tf.function(lambda values: loaded.padding_free(values)['pooled_output'], jit_compile=True)
  with pytest.raises(tf.errors.InvalidArgumentError, match='shapes or dimensions be evaluated to concrete values'):
    packed(inputs)


def test_it_is_what_the_text_model_calls(text_path):
  root = pathlib.Path(text_path).parents[1]
  paths = text_path, root / 'albert_en_demo_preprocess/3', root / 'albert_en_demo/3'
  text, preprocessor, encoder = (tf.saved_model.load(str(path)) for path in paths)
  sentences = tf.constant(['One two three.', ''])
  packed = preprocessor(sentences)
  found, right = text(sentences)['sequence_output'].numpy(), encoder.padding_free(packed)['sequence_output'].numpy()
  np.testing.assert_allclose(found, right, atol=2e-6)
  padding = packed['input_mask'].numpy() == 0
  assert padding.any() and not found[padding].any() and encoder(packed)['sequence_output'].numpy()[padding].any()
