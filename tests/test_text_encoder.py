"""The text model computes and trains like preprocessor and encoder, and contains each once."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
import tensorflow_text  # noqa: F401  (registers the preprocessor's operations)
from support import trees
from tensorflow.core.protobuf import saved_model_pb2

from converters import errors
from export import spec
from export.graphs import checkpoint_keys
from export.release import compatibility
from export.validation import exported_encoder
from export.validation import preprocessor_certificate
from export.validation import text_certificate

SENTENCES = ['The ferry was late.', 'A fox crossed the pond, and nobody saw it.', 'Soon.', '']


@pytest.fixture(scope='module')
def loaded(text_path):
  return tf.saved_model.load(text_path)


@pytest.fixture(scope='module')
def parts(history):
  """The preprocessor and the encoder of the text model."""
  return [
    tf.saved_model.load(str(history / 'tensorflow' / model / '3'))
    for model in ('albert_en_demo_preprocess', 'albert_en_demo')
  ]


def test_what_it_offers(text_path):
  interface = compatibility.describe(pathlib.Path(text_path))
  assert list(interface.calls) == [''] and interface.trainable == {'': 25}
  assert set(interface.assets) == {'sp_model_file', 'albert_config'}
  assert [trace.inputs for trace in interface.calls['']] == [
    {'': 'string [?]', '(argument 1)': mode} for mode in ('False', 'True')
  ]
  outputs = {
    'default': 'float32 [?, 16]',
    'pooled_output': 'float32 [?, 16]',
    'sequence_output': 'float32 [?, 128, 16]',
  }
  for trace in interface.calls['']:
    assert trace.outputs == outputs | {f'encoder_outputs[{number}]': 'float32 [?, 128, 16]' for number in range(3)}
  assert interface.signatures == {'serving_default': compatibility.Trace({'sentences': 'string [?]'}, outputs)}


@pytest.mark.parametrize('training', [False, True])
def test_gives_what_the_two_give_one_after_the_other(loaded, parts, training):
  sentences = tf.constant([*SENTENCES, *preprocessor_certificate.TEXTS])
  with exported_encoder.as_it_stands():
    ours, theirs = loaded(sentences, training=training), parts[1].padding_free(parts[0](sentences), training=training)
  assert ours.keys() == theirs.keys() and isinstance(ours['encoder_outputs'], list)
  tf.nest.map_structure(np.testing.assert_array_equal, ours, theirs)
  assert ours['sequence_output'].shape == (27, spec.SEQ_LENGTH, 16)


def test_training_defaults_to_false_and_may_be_positional(with_dropout):
  dropping = tf.saved_model.load(str(with_dropout / 'tensorflow/albert_en_tiny_text/2'))
  still, again, drawn = (dropping(tf.constant(SENTENCES), *mode)['sequence_output'] for mode in ((), (False,), (True,)))
  assert np.array_equal(still, again) and not np.allclose(still, drawn, atol=1e-3)


def test_signature_takes_sentences(loaded):
  served = loaded.signatures['serving_default'](sentences=tf.constant(SENTENCES))
  assert sorted(served) == ['default', 'pooled_output', 'sequence_output']
  # Not the same bits: Grappler optimizes a signature's graph as a whole.
  np.testing.assert_allclose(served['sequence_output'], loaded(tf.constant(SENTENCES))['sequence_output'], atol=1e-6)


def test_gradient_is_that_of_the_two(loaded, parts):
  gradients = []
  for model, inputs in ((loaded, tf.constant(SENTENCES)), (parts[1].padding_free, parts[0](tf.constant(SENTENCES)))):
    with tf.GradientTape() as tape:
      outputs = model(inputs, training=True)
      loss = tf.reduce_sum(outputs['pooled_output'] ** 2) + tf.reduce_sum(outputs['sequence_output'] ** 3)
    gradients.append(
      {
        v.name: tf.convert_to_tensor(g)
        for v, g in zip(model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True)
      }
    )
  assert len(gradients[0]) == 25 and gradients[0].keys() == gradients[1].keys()
  for name, value in gradients[0].items():
    np.testing.assert_allclose(value, gradients[1][name], rtol=1e-4, atol=1e-3)


def _classifier(text_path):
  text_input = tf.keras.layers.Input(shape=(), dtype=tf.string)
  encoder = hub.KerasLayer(text_path, trainable=True)
  model = tf.keras.Model(text_input, tf.keras.layers.Dense(2)(encoder(text_input)['pooled_output']))
  model.compile('adam', tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
  return model, encoder


def test_a_layer_on_text_is_trained_saved_and_loaded(text_path, tmp_path):
  model, encoder = _classifier(text_path)
  before = {v.name: v.numpy() for v in encoder.trainable_variables}
  assert len(before) == 25
  losses = model.fit(tf.constant(SENTENCES), np.array([0, 1, 0, 1]), epochs=3, verbose=0).history['loss']
  assert losses[-1] < losses[0]
  # A bias of all keys has a zero gradient: rounding errors may or may not change the bias.
  still = {v.name for v in encoder.trainable_variables if np.array_equal(before[v.name], v)}
  assert still <= {'transformer/self_attention/key/bias:0'}
  expected = model.predict(tf.constant(SENTENCES), verbose=0)
  model.save(tmp_path / 'saved', save_format='tf')
  again = tf.keras.models.load_model(tmp_path / 'saved')
  np.testing.assert_allclose(again.predict(tf.constant(SENTENCES), verbose=0), expected, atol=1e-5)


def _functions(path):
  return (
    saved_model_pb2.SavedModel.FromString((pathlib.Path(path) / 'saved_model.pb').read_bytes())
    .meta_graphs[0]
    .graph_def.library.function
  )


def test_everything_is_in_the_graph_once(text_path, history, sp_model):
  blocks = [f for f in _functions(text_path) if any(n.op == 'Softmax' for n in f.node_def)]
  assert [sum(n.op == 'Softmax' for n in f.node_def) for f in blocks] == [1]  # without dropout both modes are equal
  names = {f.signature.name for f in blocks}
  assert sum(n.attr['f'].func.name in names for f in _functions(text_path) for n in f.node_def) == 3  # layers
  assert (pathlib.Path(text_path) / 'saved_model.pb').read_bytes().count(sp_model) == 2
  sizes = [
    (history / 'tensorflow' / model / '3/saved_model.pb').stat().st_size
    for model in ('albert_en_demo_text', 'albert_en_demo', 'albert_en_demo_preprocess')
  ]
  assert sizes[0] < sizes[1] + sizes[2]


def test_it_holds_the_encoders_weights_and_no_heads(text_path):
  assert set(checkpoint_keys.read(pathlib.Path(text_path))) == {
    v.name.removesuffix(':0') for v in tf.saved_model.load(text_path).variables
  }
  record = trees.record(pathlib.Path(text_path))
  encoder = trees.record(pathlib.Path(text_path).parents[1] / 'albert_en_demo/3')
  digests = {weight['source']: weight['sha256'] for weight in encoder['weights']}
  assert len(record['weights']) == 25 and all(
    digests[weight['source']] == weight['sha256'] for weight in record['weights']
  )
  assert record['encoder'] == encoder['release'] and record['preprocessor'] == encoder['preprocessor']


def test_lists_are_refused(release, module):
  with pytest.raises(errors.UsageError, match='option with_text: not available with the list interface'):
    release(module, version=1, interface='list', with_text=True)
  with pytest.raises(errors.UsageError, match='albert_en_tiny_text is the name of the model of option with_text'):
    release(module, preprocessor='albert_en_tiny_text/3', with_text=True)


@pytest.mark.slow
def test_a_model_of_short_sequences_packs_to_its_own_length(make_module, release):
  path, _ = release(make_module(max_position_embeddings=100), with_text=True)
  text = path.parents[1] / 'albert_en_tiny_text/2'
  assert json.loads(text.with_name('2.release.json').read_text())['seq_length'] == 100
  outputs = tf.saved_model.load(str(text))(tf.constant(['the ferry was late']))
  assert outputs['sequence_output'].shape == (1, 100, 16)


@pytest.fixture
def changed_weights(monkeypatch):
  """Saves text models with other weights than their encoder."""
  from export.model import text_encoder

  made = text_encoder.exportable

  def wrong(preprocessor, encoder, *more):
    root, signatures = made(preprocessor, encoder, *more)
    encoder.variables[0].assign(encoder.variables[0] * 1.001)  # the encoder is saved, and this model is not yet
    return root, signatures

  monkeypatch.setattr(text_encoder, 'exportable', wrong)


def test_a_wrong_one_is_not_published(release, module, changed_weights):
  with pytest.raises(errors.ParityError, match='layer_0 is .* from its parts'):
    release(module, with_text=True)
  assert trees.leftovers(release.root) == []


@pytest.mark.slow
def test_one_with_other_weights_is_not_published_whatever_its_parity(release, module, monkeypatch, changed_weights):
  monkeypatch.setattr(text_certificate, 'check', lambda *arguments: text_certificate.Certificate(0, {}, False))
  with pytest.raises(errors.IntegrityError, match="word_embeddings/embeddings differs from the source's"):
    release(module, with_text=True)
  assert trees.leftovers(release.root) == []


def test_an_encoder_that_is_published_gets_one_with_its_own_preprocessor(release, released, module):
  shutil.copytree(released.root, release.root)
  before = trees.tree_bytes(release.root)
  with pytest.raises(
    errors.PublishError,
    match='albert_en_tiny/2 in .*: its preprocessor is tensorflow/albert_en_tiny_preprocess/3, .*; '
    'give option preprocessor=albert_en_tiny_preprocess/3',
  ):
    release(module, preprocessor='albert_en_tiny_preprocess/2', with_text=True)
  assert trees.tree_bytes(release.root) == before
