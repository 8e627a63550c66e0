"""Exports are called as users call them, in float32 and widened to float64."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from converters import errors
from converters.reference import measures
from export.graphs import widen
from export.validation import exported_encoder


def test_widened_it_computes_the_same_in_float64(encoder_path, batch, expecting):
  path, (_, expected) = pathlib.Path(encoder_path), expecting
  signatures = ['tokens', 'mlm', 'sop', 'serving_default']
  in_float32 = exported_encoder.Exported(path, 'dict').outputs(batch, signatures)
  in_float64 = exported_encoder.Exported(path, 'dict', widened=True).outputs(batch, signatures)
  assert in_float32.keys() == in_float64.keys() and len(in_float64) == 3 * (2 + 3 + 1) + 1 + 1 + 2 + 1
  for name, value in in_float64.items():
    assert value.dtype == np.float64 and in_float32[name].dtype == np.float32
    output = name.rpartition('/')[2]
    right = expected.outputs[output]
    assert measures.relative(measures.packed(value, batch.input_mask, output), right).rms < 1e-14, name
    assert 1e-9 < measures.relative(measures.packed(in_float32[name], batch.input_mask, output), right).rms < 1e-5, name


def test_nothing_of_float32_is_left_in_a_widened_model(encoder_path, tmp_path):
  widen.saved_model(pathlib.Path(encoder_path), tmp_path / 'wide')

  def texts(path):
    for meta_graph in saved_model_pb2.SavedModel.FromString((path / 'saved_model.pb').read_bytes()).meta_graphs:
      yield from map(str, (meta_graph.graph_def, meta_graph.object_graph_def, *meta_graph.signature_def.values()))

  assert any('DT_FLOAT\n' in text for text in texts(pathlib.Path(encoder_path)))
  assert not any('DT_FLOAT\n' in text for text in texts(tmp_path / 'wide'))
  wide, narrow = (exported_encoder.Exported(pathlib.Path(encoder_path), 'dict', widened) for widened in (True, False))
  assert wide.variables.keys() == narrow.variables.keys()
  for name, variable in wide.variables.items():
    assert variable.dtype == tf.float64 and np.array_equal(
      variable.numpy(), narrow.variables[name].numpy().astype(np.float64)
    )


def test_operation_without_float64_is_named(tmp_path, batch, monkeypatch):
  root = tf.train.Checkpoint()
  names = ('input_word_ids', 'input_mask', 'input_type_ids')

  @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, name=name) for name in names])
  def serving_default(input_word_ids, input_mask, input_type_ids):
    value = tf.quantization.fake_quant_with_min_max_args(tf.cast(input_word_ids, tf.float32), name='rounded')
    return {'pooled_output': value, 'sequence_output': value, 'default': value}

  tf.saved_model.save(root, str(tmp_path / 'model'), {'serving_default': serving_default})
  monkeypatch.setattr(exported_encoder.op_allow_list, 'check', lambda path: None)
  with pytest.raises(errors.ParityError, match='model: cannot be run in float64 .*rounded'):
    exported_encoder.Exported(tmp_path / 'model', 'dict', widened=True).outputs(batch, ['serving_default'])
