"""The published usage runs as documented, from text to a training step."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
import tensorflow_text  # noqa: F401  (registers the preprocessor's operations)
from official.nlp.tools import tokenization
from support import trees

from export.model import saved_model

SENTENCES = [
  'The ferry was late.',
  'A fox crossed the pond, and nobody saw it.',
  'Soon.',
  'Nothing is proved by one example.',
]
LABELS = np.array([0, 1, 0, 1])


def _classifier(preprocessor_path, encoder_path):
  text_input = tf.keras.layers.Input(shape=(), dtype=tf.string)
  encoder_inputs = hub.KerasLayer(preprocessor_path)(text_input)
  encoder = hub.KerasLayer(encoder_path, trainable=True)
  outputs = encoder(encoder_inputs)
  logits = tf.keras.layers.Dense(2)(outputs['pooled_output'])
  model = tf.keras.Model(text_input, logits)
  model.compile('adam', tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
  return model, encoder


def _values(variables):
  return [v.numpy() for v in variables]


def _changed(before, variables):
  return [v.name for old, v in zip(before, variables, strict=True) if not np.array_equal(old, v.numpy())]


def test_version_2_on_a_dict_of_inputs(history):
  encoder_path = f'{history}/tensorflow/albert_en_demo/2'
  encoder_inputs = dict(
    input_word_ids=tf.keras.layers.Input(shape=(None,), dtype=tf.int32),
    input_mask=tf.keras.layers.Input(shape=(None,), dtype=tf.int32),
    input_type_ids=tf.keras.layers.Input(shape=(None,), dtype=tf.int32),
  )
  encoder = hub.KerasLayer(encoder_path, trainable=True)
  outputs = encoder(encoder_inputs)
  pooled_output = outputs['pooled_output']
  sequence_output = outputs['sequence_output']
  layers = [outputs['encoder_outputs'][i] for i in range(3)]
  model = tf.keras.Model(encoder_inputs, [pooled_output, sequence_output, *layers])
  ones = np.ones([2, 5], np.int32)
  results = model.predict(dict(input_word_ids=ones * 9, input_mask=ones, input_type_ids=ones * 0), verbose=0)
  assert [r.shape for r in results] == [(2, 16)] + [(2, 5, 16)] * 4
  assert len(encoder.trainable_variables) == 25
  with open(encoder.resolved_object.sp_model_file.asset_path.numpy(), 'rb') as f:
    assert f.read()


def test_text_to_a_trained_step(preprocessor_path, encoder_path):
  model, encoder = _classifier(preprocessor_path, encoder_path)
  before = _values(encoder.trainable_variables)
  losses = model.fit(tf.constant(SENTENCES), LABELS, epochs=3, verbose=0).history['loss']
  assert losses[-1] < losses[0]
  changed = _changed(before, encoder.trainable_variables)
  # A bias of all keys has a zero gradient: rounding errors may or may not change the bias.
  assert {v.name for v in encoder.trainable_variables} - set(changed) <= {'transformer/self_attention/key/bias:0'}


def test_frozen_encoder_stays(preprocessor_path, encoder_path):
  model, encoder = _classifier(preprocessor_path, encoder_path)
  encoder.trainable = False
  model.compile('adam', 'mse')
  before = _values(encoder.variables)
  model.fit(tf.constant(SENTENCES), np.zeros([4, 2]), verbose=0)
  assert not _changed(before, encoder.variables)


def test_outer_model_saved_and_loaded(preprocessor_path, encoder_path, tmp_path):
  model, _ = _classifier(preprocessor_path, encoder_path)
  model.fit(tf.constant(SENTENCES), LABELS, verbose=0)
  expected = model.predict(tf.constant(SENTENCES), verbose=0)
  model.save(tmp_path / 'saved', save_format='tf')
  model.save(tmp_path / 'saved.h5', save_format='h5')
  for again in (
    tf.keras.models.load_model(tmp_path / 'saved'),
    tf.keras.models.load_model(tmp_path / 'saved.h5', custom_objects={'KerasLayer': hub.KerasLayer}),
  ):
    np.testing.assert_allclose(again.predict(tf.constant(SENTENCES), verbose=0), expected, atol=1e-5)
    again.compile('adam', tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    again.fit(tf.constant(SENTENCES), LABELS, verbose=0)
  raw = tf.saved_model.load(str(tmp_path / 'saved'))
  np.testing.assert_allclose(raw(tf.constant(SENTENCES)), expected, atol=1e-5)


def test_preprocessor_inside_dataset_map(preprocessor_path, encoder_path):
  preprocessor = hub.load(preprocessor_path)
  data = tf.data.Dataset.from_tensor_slices(SENTENCES).batch(2).map(preprocessor, num_parallel_calls=2)
  rows = np.concatenate([batch['input_word_ids'] for batch in data])
  assert np.array_equal(rows, preprocessor(tf.constant(SENTENCES))['input_word_ids'])
  encoder = hub.load(encoder_path)
  assert [encoder(inputs)['pooled_output'].shape for inputs in data] == [(2, 16), (2, 16)]


def test_pair_of_segments(preprocessor_path, encoder_path):
  preprocessor = hub.load(preprocessor_path)
  text_inputs = [tf.keras.layers.Input(shape=(), dtype=tf.string) for _ in range(2)]
  tokenize = hub.KerasLayer(preprocessor.tokenize)
  bert_pack_inputs = hub.KerasLayer(preprocessor.bert_pack_inputs, arguments=dict(seq_length=20))
  encoder_inputs = bert_pack_inputs([tokenize(segment) for segment in text_inputs])
  sop = hub.KerasLayer(hub.load(encoder_path).sop, trainable=True)
  model = tf.keras.Model(text_inputs, [encoder_inputs, sop(encoder_inputs)['sop_log_probs']])
  packed, log_probs = model.predict([tf.constant(SENTENCES), tf.constant(SENTENCES[::-1])], verbose=0)
  assert packed['input_type_ids'].shape == (4, 20) and set(packed['input_type_ids'].ravel()) == {0, 1}
  assert (packed['input_word_ids'] == 3).sum(axis=1).tolist() == [2, 2, 2, 2]
  assert log_probs.shape == (4, 2)


def test_mlm_is_trained(encoder_path):
  encoder = hub.load(encoder_path)
  inputs = {
    name: tf.keras.layers.Input(shape=(None,), dtype=tf.int32)
    for name in ('input_word_ids', 'input_mask', 'input_type_ids', 'masked_lm_positions')
  }
  mlm = hub.KerasLayer(encoder.mlm, trainable=True)
  model = tf.keras.Model(inputs, mlm(inputs)['mlm_logits'])
  model.compile('adam', tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
  assert len(mlm.trainable_variables) == 30
  before, word_embedding = _values(mlm.trainable_variables), encoder.trainable_variables[0].numpy()
  ids = np.array([[2, 4, 9, 3], [2, 8, 4, 3]], np.int32)
  data = dict(
    input_word_ids=ids, input_mask=ids * 0 + 1, input_type_ids=ids * 0, masked_lm_positions=np.array([[1, 0], [2, 0]])
  )
  losses = model.fit(data, np.array([[17, 2], [9, 2]]), epochs=3, verbose=0).history['loss']
  assert losses[-1] < losses[0]
  still = {v.name for v in mlm.trainable_variables} - set(_changed(before, mlm.trainable_variables))
  assert still <= {'transformer/self_attention/key/bias:0', 'pooler_transform/kernel:0', 'pooler_transform/bias:0'}
  assert not np.array_equal(word_embedding, encoder.trainable_variables[0].numpy())  # shared, not copied


@pytest.mark.slow
def test_version_3_with_a_persistent_tape(history):
  encoder = hub.KerasLayer(f'{history}/tensorflow/albert_en_demo/3', trainable=True)
  ones = tf.ones([2, 5], tf.int32)
  with tf.GradientTape(persistent=True) as tape:
    outputs = encoder(dict(input_word_ids=ones * 9, input_mask=ones, input_type_ids=ones * 0), training=True)
    one, two = (tf.reduce_sum(outputs[name] ** 2) for name in ('pooled_output', 'sequence_output'))
  for loss in (one, two, one):
    gradients = tape.gradient(loss, encoder.trainable_variables)
    assert sum(g is not None for g in gradients) >= 23


@pytest.mark.parametrize(
  'strategy', [tf.distribute.MirroredStrategy, pytest.param(tf.distribute.OneDeviceStrategy, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_distribution_strategies(preprocessor_path, encoder_path, strategy):
  devices = [d.name for d in tf.config.list_logical_devices('CPU')]
  assert len(devices) == 2
  with (made := strategy(devices if strategy is tf.distribute.MirroredStrategy else devices[1])).scope():
    model, encoder = _classifier(preprocessor_path, encoder_path)
  before = _values(encoder.trainable_variables)
  model.fit(tf.constant(SENTENCES), LABELS, batch_size=2, verbose=0)
  assert made.num_replicas_in_sync == (2 if strategy is tf.distribute.MirroredStrategy else 1)
  assert len(_changed(before, encoder.trainable_variables)) >= 24


def test_version_1_as_published(history):
  """The list interface, with text tokenized by the model's SentencePiece asset outside the graph."""
  names = ('input_word_ids', 'input_mask', 'segment_ids')
  inputs = [tf.keras.layers.Input(shape=(12,), dtype=tf.int32, name=name) for name in names]
  encoder = hub.KerasLayer(f'{history}/tensorflow/albert_en_demo/1', trainable=True)
  pooled_output, sequence_output = encoder(inputs)
  model = tf.keras.Model(inputs=inputs, outputs=[pooled_output, sequence_output])
  assert [output.shape.as_list() for output in model.outputs] == [[None, 16], [None, 12, 16]]

  tokenizer = tokenization.FullSentencePieceTokenizer(encoder.resolved_object.sp_model_file.asset_path.numpy().decode())
  tokens = ['[CLS]', *tokenizer.tokenize('the ferry was late.')[:10], '[SEP]']
  ids = tokenizer.convert_tokens_to_ids(tokens)
  assert ids[0] == 2 and ids[-1] == 3
  rows = [np.array([row + [0] * (12 - len(ids))], np.int32) for row in (ids, [1] * len(ids), [0] * len(ids))]
  pooled, sequence = model.predict(rows, verbose=0)
  # Equal to version 3 for the same ids, since all versions have the same weights.
  outputs = hub.load(f'{history}/tensorflow/albert_en_demo/3')(
    dict(zip(('input_word_ids', 'input_mask', 'input_type_ids'), map(tf.constant, rows), strict=True))
  )
  # Keras and eager calls may sum in another order.
  np.testing.assert_allclose(pooled, outputs['pooled_output'], atol=4e-6)
  np.testing.assert_allclose(sequence, outputs['sequence_output'], atol=4e-6)

  before = _values(encoder.trainable_variables)
  model.compile('adam', 'mse')
  model.fit(rows, [np.ones([1, 16]), np.ones([1, 12, 16])], verbose=0)
  assert len(_changed(before, encoder.trainable_variables)) >= 24


@pytest.mark.parametrize('version', [1, 2, 3, 4])
def test_preprocessor_as_published(history, version):
  path = f'{history}/tensorflow/albert_en_demo_preprocess/{version}'
  text_input = tf.keras.layers.Input(shape=(), dtype=tf.string)
  encoder_inputs = hub.KerasLayer(path)(text_input)
  assert {name: (value.dtype, value.shape.as_list()) for name, value in encoder_inputs.items()} == dict.fromkeys(
    ('input_word_ids', 'input_mask', 'input_type_ids'), (tf.int32, [None, 128])
  )
  preprocessor = hub.load(path)
  special = preprocessor.tokenize.get_special_tokens_dict()
  assert {name: int(value) for name, value in special.items() if name != 'vocab_size'} == {
    'padding_id': 0,
    'start_of_sequence_id': 2,
    'end_of_segment_id': 3,
    'mask_id': 4,
  }
  assert all(value.dtype == tf.int32 and value.shape == [] for value in special.values())
  # New in version 3.
  assert ('vocab_size' in special) == (version >= 3) and int(special.get('vocab_size', 200)) == 200
  # New in version 2.
  assert version == 1 or not {op for op in saved_model.ops(pathlib.Path(path)) if 'Assert' in op}
  packed = preprocessor.bert_pack_inputs(
    [preprocessor.tokenize(tf.constant(SENTENCES))] * 2, seq_length=tf.constant(16)
  )
  assert packed['input_word_ids'].shape == (4, 16) and packed['input_type_ids'].numpy().max() == 1
  ids = preprocessor(tf.constant(SENTENCES))['input_word_ids'].numpy()
  assert (ids[:, 0] == 2).all() and ((ids == 3).sum(axis=1) == 1).all()


def test_too_long_a_sequence_names_the_limit(history):
  encoder = hub.load(f'{history}/tensorflow/albert_en_demo/3')
  longest = trees.record(history / 'tensorflow/albert_en_demo/3')['config']['max_position_embeddings']
  values = tf.ones([1, longest + 1], tf.int32)
  with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=f'at_most_{longest}_positions'):
    encoder({'input_word_ids': values, 'input_mask': values, 'input_type_ids': values})
