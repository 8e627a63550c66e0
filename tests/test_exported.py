"""An export is called as its users call it; of a head that begins with the encoder, the encoder is not run again."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from export import encoder as encoder_lib
from export.proof import exported as exported_lib


@pytest.mark.parametrize('head', ['mlm', 'sop'])
def test_head_on_the_encoders_outputs_is_the_head(encoder_path, batch, head):
  exported = exported_lib.Exported(pathlib.Path(encoder_path), 'dict')
  encoded = exported._call('tokens', batch, False)
  short = exported._head(head, batch, encoded)
  whole = exported._call(head, batch, False)
  assert short.keys() == whole.keys()
  for one, other in zip(tf.nest.flatten(short), tf.nest.flatten(whole), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_head_is_run_on_what_it_is_given(encoder_path, batch):
  exported = exported_lib.Exported(pathlib.Path(encoder_path), 'dict')
  encoded = exported._call('tokens', batch, False)
  other = tf.nest.map_structure(lambda value: value + 1.0, encoded)
  assert np.abs(exported._head('mlm', batch, other)['mlm_logits'] - exported._head('mlm', batch, encoded)['mlm_logits']).max() > 0.01


def _model(head, called=None):
  """Adds up two of its inputs, as float32 [batch, seq], times a variable."""
  weight = tf.Variable(2.0)
  names = ('input_word_ids', 'input_mask', 'input_type_ids')
  specs = {name: tf.TensorSpec([None, None], tf.int32, name=name) for name in names}
  head_specs = {name: tf.TensorSpec([None, None], tf.int32, name=(called or {}).get(name, name)) for name in names}

  @tf.function(autograph=False)
  def encode(inputs, training=False):
    return {'sequence_output': weight * tf.cast(inputs['input_word_ids'] + inputs['input_type_ids'], tf.float32)}

  @tf.function(autograph=False)
  def sop(inputs, training=False):
    encoder = encode.get_concrete_function(specs, training=False)
    return {'sop_log_probs': head(lambda given: encoder(given, training=False), inputs)['sequence_output'] + 1.0}

  @tf.function(autograph=False, input_signature=[specs[name] for name in names])
  def serve(input_word_ids, input_mask, input_type_ids):
    inputs = dict(zip(names, (input_word_ids, input_mask, input_type_ids), strict=True))
    return encode.get_concrete_function(specs, training=False)(inputs, training=False)

  for training in (False, True):
    encode.get_concrete_function(specs, training=training)
    sop.get_concrete_function(head_specs, training=training)
  root, root_sop = (encoder_lib.callable_object(encoder_lib.Traced(function, None, True), [weight]) for function in (encode, sop))
  root.sop = root_sop
  return root, serve


def _loaded(head, path, called=None):
  root, serve = _model(head, called)
  tf.saved_model.save(root, str(path), {'serving_default': serve})
  return exported_lib.Exported(path, 'dict')


def _swapped(inputs):
  return {**inputs, 'input_word_ids': inputs['input_type_ids'], 'input_type_ids': inputs['input_mask']}


@pytest.mark.parametrize('head, shortened', [
    (lambda encoder, inputs: encoder(inputs), True),
    (lambda encoder, inputs: encoder(_swapped(inputs)), False),
    (lambda encoder, inputs: {'sequence_output': encoder(inputs)['sequence_output'] * encoder(_swapped(inputs))['sequence_output']}, False),
    (lambda encoder, inputs: {'sequence_output': tf.cast(inputs['input_mask'], tf.float32)}, False)],
    ids=['the encoder first', 'with other inputs', 'twice', 'without it'])
def test_head_that_is_made_otherwise_is_run_as_a_whole(tmp_path, batch, head, shortened):
  exported = _loaded(head, tmp_path / 'model')
  result = exported._head('sop', batch, exported._call('tokens', batch, False))
  assert (result is not None) == shortened
  if result is not None:
    np.testing.assert_array_equal(result['sop_log_probs'], 2.0 * (batch.input_word_ids + batch.input_type_ids) + 1.0)


@pytest.mark.parametrize('head', [
    lambda encoder, inputs: encoder(inputs),
    # By the names in its graph, this one would give the encoder what is called the same there.
    lambda encoder, inputs: encoder({**inputs, 'input_mask': inputs['input_type_ids'], 'input_type_ids': inputs['input_mask']})])
def test_head_whose_inputs_are_called_otherwise_is_run_as_a_whole(tmp_path, batch, head):
  called = {'input_mask': 'input_type_ids', 'input_type_ids': 'input_mask'}
  exported = _loaded(head, tmp_path / 'model', called)
  assert exported._head('sop', batch, exported._call('tokens', batch, False)) is None


@pytest.mark.parametrize('change, is_the_other', [
    (lambda other, inputs: other(inputs), True),
    (lambda other, inputs: other({**inputs, 'a': inputs['a'] * 2}), False),
    (lambda other, inputs: other({'a': inputs['b'], 'b': inputs['a']}), False),
    (lambda other, inputs: dict(zip('yx', other(inputs).values(), strict=True)), False),
    (lambda other, inputs: {**other(inputs), 'y': tf.stop_gradient(other(inputs)['y'])}, False),
    (lambda other, inputs: {**other(inputs), 'y': -other(inputs)['y']}, False),
    (lambda other, inputs: {'x': inputs['a'], 'y': inputs['b']}, False)])
def test_a_mode_is_the_other_one_only_if_it_does_nothing_but_call_it(tmp_path, change, is_the_other):
  factors = [tf.Variable(2.0), tf.Variable(3.0)]
  specs = {name: tf.TensorSpec([None], tf.float32, name=name) for name in 'ab'}

  def call(inputs, training):
    if training:
      return change(lambda given: function.get_concrete_function(specs, training=False)(given, training=False), inputs)
    return {'x': inputs['a'] * factors[0], 'y': inputs['b'] - factors[1]}
  function = tf.function(lambda inputs, training=False: call(inputs, training), autograph=False)
  root = encoder_lib.callable_object(encoder_lib.Traced(function, specs, True), factors)
  for training in (False, True):
    function.get_concrete_function(specs, training=training)
  tf.saved_model.save(root, str(tmp_path / 'model'))
  loaded = tf.saved_model.load(str(tmp_path / 'model'))
  functions = exported_lib._functions({'it': loaded})
  assert exported_lib._only_calls(functions['it', True], functions['it', False]) is is_the_other
