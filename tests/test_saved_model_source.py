"""What this toolchain writes is a source again: releases, archives, fine-tuned releases, and TF2 checkpoints."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from support import commands

from converters import errors
from converters import source as source_lib
from converters import weight_map
from converters.writers import hugging_face as hugging_face_writer
from converters.writers import tf2_checkpoint

FINE_TUNE = """
import os, sys
os.environ['TF_USE_LEGACY_KERAS'] = '1'
import numpy as np, tensorflow as tf, tensorflow_hub as hub, tf_keras
release, output = sys.argv[1:]
inputs = {n: tf_keras.Input([None], dtype=tf.int32, name=n) for n in ('input_word_ids', 'input_mask', 'input_type_ids')}
encoder = hub.KerasLayer(release, trainable=True)
model = tf_keras.Model(inputs, tf_keras.layers.Dense(2, name='classifier')(encoder(inputs)['pooled_output']))
model.compile('adam', 'mse')
model.fit({name: np.ones([4, 8], np.int32) for name in inputs}, np.ones([4, 2]), verbose=0)
model.save(output)
"""


def _tensors(path):
  with source_lib.open_source(str(path)) as source:
    rows = weight_map.rows(source.config, source.parts)
    return source.config, source.parts, source_lib.notes(source), {row.name: source.tensor(row) for row in rows}


@pytest.fixture(scope='module')
def tuned(released, tmp_path_factory):
  """The released encoder in a Keras model, trained for a step and saved by `model.save`."""
  path = tmp_path_factory.mktemp('tuned') / 'model'
  release = released.root / 'tensorflow/albert_en_tiny/2'
  subprocess.run([sys.executable, '-c', FINE_TUNE, str(release), str(path)], check=True, capture_output=True)
  return path


@pytest.mark.parametrize('suffix', ['', '.tar.gz'])
def test_a_release_is_a_source(module, released, suffix):
  config, parts, _, right = _tensors(module)
  assert parts == set(weight_map.Part)
  again, parts_again, notes, found = _tensors(f'{released.root}/tensorflow/albert_en_tiny/2{suffix}')
  assert (again, parts_again, notes) == (config, parts, [])
  assert all(np.array_equal(found[name], value) for name, value in right.items()) and found.keys() == right.keys()


def test_a_fine_tuned_release_is_a_source(module, tuned, tmp_path):
  config, parts, _, before = _tensors(module)
  again, parts_again, notes, after = _tensors(tuned)
  assert again == config and parts_again == parts
  assert notes == ['left out, a head for a task: classifier/bias, classifier/kernel']
  assert not np.array_equal(after['pooler.kernel'], before['pooler.kernel'])
  # The weights are those that Keras computes with.
  kernel = next(v for v in tf.saved_model.load(str(tuned)).variables if v.name == 'pooler_transform/kernel:0')
  assert np.array_equal(after['pooler.kernel'], kernel.numpy())
  with source_lib.open_source(str(tuned)) as source:
    hugging_face_writer.write(source, tmp_path)
  assert all(np.array_equal(value, after[name]) for name, value in _tensors(tmp_path)[3].items())


@pytest.mark.parametrize('part', ['padding_free', 'mlm', 'sop'])
def test_a_saved_part_of_an_encoder_is_a_source(module, released, tmp_path, part):
  holder = tf.Module()
  holder.part = getattr(tf.saved_model.load(str(released.root / 'tensorflow/albert_en_tiny/2')), part)
  tf.saved_model.save(holder, str(tmp_path / 'saved'))
  config, _, _, right = _tensors(module)
  again, parts, _, found = _tensors(tmp_path / 'saved')
  assert again == config and parts >= {weight_map.Part.ENCODER}
  assert all(np.array_equal(right[name], value) for name, value in found.items()) and len(found) >= 25


@pytest.mark.parametrize('suffix', ['', '.tar.gz'])
def test_a_text_model_is_a_source_also_when_saved_again(with_dropout, tmp_path, suffix):
  config, _, _, right = _tensors(with_dropout / 'tensorflow/albert_en_tiny/2')
  release = with_dropout / 'tensorflow/albert_en_tiny_text/2'
  holder = tf.Module()
  holder.text = tf.saved_model.load(str(release))
  tf.saved_model.save(holder, str(tmp_path / 'saved'))
  for path in (f'{release}{suffix}', tmp_path / 'saved'):
    again, parts, _, found = _tensors(path)
    assert again == config and parts == {weight_map.Part.ENCODER}
    assert all(np.array_equal(right[name], value) for name, value in found.items()) and len(found) == 25


def test_the_archive_of_another_kind_of_release_is_named(released, refused):
  refused(released.root / 'tensorflow/albert_en_tiny_preprocess/3.tar.gz', 'this is a preprocessor; give the encoder')


KERAS_3 = """
import os, pathlib, re, sys
os.environ.pop('TF_USE_LEGACY_KERAS', None)
release, output, docs = sys.argv[1:]
layer = re.search(r'import keras.*?(?=\\n\\n\\ntexts)', pathlib.Path(docs).read_text(encoding='utf-8'), re.DOTALL)
exec(layer[0])
import numpy as np
names = ('input_word_ids', 'input_mask', 'input_type_ids')
inputs = {name: keras.Input([None], dtype='int32', name=name) for name in names}
model = keras.Model(inputs, keras.layers.Dense(2, name='classifier')(SavedModel(release)(inputs)['pooled_output']))
model.compile('adam', 'mse')
model.fit({name: np.ones([4, 8], np.int32) for name in inputs}, np.ones([4, 2]), verbose=0)
tf.saved_model.save(model, output)
"""


@pytest.mark.slow
def test_a_model_of_keras_3_is_a_source_when_tensorflow_saved_it(module, released, tmp_path):
  release, docs = released.root / 'tensorflow/albert_en_tiny/2', f"{commands.ROOT}/docs/usage.md"
  arguments = [sys.executable, '-c', KERAS_3, str(release), str(tmp_path / 'saved'), str(docs)]
  process = subprocess.run(arguments, capture_output=True, text=True)
  assert process.returncode == 0, process.stderr[-3000:]
  config, _, _, before = _tensors(module)
  again, parts, _, after = _tensors(tmp_path / 'saved')
  assert again == config and parts >= {weight_map.Part.ENCODER} and after.keys() <= before.keys()
  assert sum(not np.array_equal(before[name], value) for name, value in after.items()) > 20


@pytest.mark.slow
def test_a_fine_tuned_release_is_exported(tuned, release):
  path, outcome = release(tuned, 'albert_tuned', version=1)
  assert outcome.pieces[1].certificate.against == 'reference'
  record = json.loads(path.with_name('1.release.json').read_text())
  assert record['source']['notes'] == ['left out, a head for a task: classifier/bias, classifier/kernel']
  assert 'left out, a head for a task: classifier/bias' in path.with_name('1.md').read_text()


@pytest.mark.parametrize('without', ['', 'albert_config.json', 'encoder.yaml'])
def test_a_checkpoint_of_tf2_is_a_source(module, tmp_path, without):
  config, _, _, right = _tensors(module)
  with source_lib.open_source(str(module)) as source:
    tf2_checkpoint.write(source, tmp_path)
  if without:
    (tmp_path / without).unlink()
  again, parts, notes, found = _tensors(tmp_path)
  assert (again, parts, notes) == (config, {weight_map.Part.ENCODER}, [])
  assert all(np.array_equal(right[name], value) for name, value in found.items()) and len(found) == 25


def test_another_kind_of_release_is_named(released, refused):
  refused(released.root / 'tensorflow/albert_en_tiny_preprocess/3', 'this is a preprocessor; give the encoder')


def test_a_saved_model_of_something_else_is_named(tmp_path, refused):
  tf.saved_model.save(tf.Module(), str(tmp_path / 'model'))
  refused(
    tmp_path / 'model',
    'no SentencePiece model in assets/ .preprocessors and what Keras exports .*; give a TF1 Hub module',
  )


def test_half_a_saved_model_is_named(released, tmp_path, refused):
  own = shutil.copytree(released.root / 'tensorflow/albert_en_tiny/2', tmp_path / 'own')
  (own / 'variables/variables.index').unlink()
  refused(own, 'own: no variables/variables.index; fetch the model again')


def test_two_encoders_in_one_model_are_named(released, tmp_path, refused):
  path = str(released.root / 'tensorflow/albert_en_tiny/2')
  both = tf.Module()
  both.one, both.other = tf.saved_model.load(path), tf.saved_model.load(path)
  tf.saved_model.save(both, str(tmp_path / 'both'))
  refused(tmp_path / 'both', 'two variables are named .*; give the encoder alone', errors.SourceError)
