"""Tasks of tf-models restore a written checkpoint completely, and train."""

import sys
import types

import pytest
import tensorflow as tf
import yaml
from official.nlp.configs import bert
from official.nlp.configs import encoders

from converters import source as source_lib
from converters import weight_map
from converters.writers import tf2_checkpoint

# Stubs of modules that the tasks of tf-models import for datasets and metrics, and never call here.
_NOT_INSTALLED = ('tensorflow_datasets', 'sklearn', 'seqeval', 'sacrebleu')


@pytest.fixture(scope='module')
def tasks():
  doubles = {name: types.ModuleType(name) for name in _NOT_INSTALLED}
  doubles['sklearn'].metrics = doubles['seqeval'].metrics = None
  with pytest.MonkeyPatch.context() as patch:
    for name, double in doubles.items():
      patch.setitem(sys.modules, name, double)
    from official.nlp.tasks import masked_lm
    from official.nlp.tasks import sentence_prediction

    yield types.SimpleNamespace(masked_lm=masked_lm, sentence_prediction=sentence_prediction)


@pytest.fixture(scope='module')
def written(make_module, tmp_path_factory):
  """A checkpoint's directory, the encoder's config for tf-models, and two of the source's tensors."""
  directory = tmp_path_factory.mktemp('checkpoint') / 'albert'
  with source_lib.open_source(str(make_module())) as source:
    tf2_checkpoint.write(source, directory)
    tensors = [
      source.tensor(row)
      for row in weight_map.rows(source.config, [weight_map.Part.ENCODER])
      if row.tf1.endswith(('word_embeddings', 'pooler/dense/bias'))
    ]
  config = encoders.EncoderConfig(yaml.safe_load((directory / 'encoder.yaml').read_text()))
  return str(directory), config, tensors


def _holds(encoder, tensors):
  values = [variable.numpy() for variable in encoder.variables]
  return all(any(value.shape == tensor.shape and (value == tensor).all() for value in values) for tensor in tensors)


def test_sentence_prediction(tasks, written):
  directory, encoder, tensors = written
  module = tasks.sentence_prediction
  task = module.SentencePredictionTask(
    module.SentencePredictionConfig(init_checkpoint=directory, model=module.ModelConfig(num_classes=2, encoder=encoder))
  )
  model = task.build_model()
  assert not _holds(model.checkpoint_items['encoder'], tensors)
  task.initialize(model)
  assert len(tensors) == 2 and _holds(model.checkpoint_items['encoder'], tensors)
  ids = tf.constant([[2, 9, 8, 3], [2, 7, 6, 3]])
  features = {
    'input_word_ids': ids,
    'input_mask': tf.ones_like(ids),
    'input_type_ids': tf.zeros_like(ids),
    'label_ids': tf.constant([0, 1]),
  }
  optimizer = tf.keras.optimizers.SGD(0.1)
  logs = task.train_step(features, model, optimizer, metrics=[])
  assert float(logs[task.loss]) > 0 and not _holds(model.checkpoint_items['encoder'], tensors)


def test_masked_lm(tasks, written):
  directory, encoder, tensors = written
  task = tasks.masked_lm.MaskedLMTask(
    tasks.masked_lm.MaskedLMConfig(init_checkpoint=directory, model=bert.PretrainerConfig(encoder=encoder))
  )
  model = task.build_model()
  task.initialize(model)
  assert _holds(model.encoder_network, tensors)


def test_a_checkpoint_of_another_size_is_noticed(tasks, written):
  directory, encoder, _ = written
  module = tasks.sentence_prediction
  wider = encoder.replace(albert=encoder.albert.replace(intermediate_size=encoder.albert.intermediate_size + 1))
  task = module.SentencePredictionTask(
    module.SentencePredictionConfig(init_checkpoint=directory, model=module.ModelConfig(num_classes=2, encoder=wider))
  )
  with pytest.raises(ValueError, match='incompatible'):
    task.initialize(task.build_model())
