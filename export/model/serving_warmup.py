"""The requests that TensorFlow Serving runs as soon as it has loaded a model: else the first of its users waits while it starts up.

They are a TFRecord file of PredictionLog messages (tensorflow.org/tfx/serving/saved_model_warmup), one for each
signature here. The server runs them on the model that it finds them in; of a request's model_spec, it heeds the
signature alone.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from converters import albert_config
from converters.readers import sentencepiece_model
from export.model import preprocessor as preprocessor_model

# Below a SavedModel's directory.
FILE = 'assets.extra/tf_serving_warmup_requests'

Requests = Mapping[str, Mapping[str, Any]]

# For what takes text: by signature, its inputs by name.
OF_SENTENCES: Requests = {'serving_default': {'sentences': np.array([b'The ferry was late.'])}}


def of_encoder(config: albert_config.AlbertConfig) -> Requests:
  """For an encoder: by signature, its inputs by name, int32 [1, seq], as long as preprocessors pack if the model takes that many."""
  length = min(preprocessor_model.DEFAULT_SEQ_LENGTH, config.max_position_embeddings)
  cls, sep, mask = (sentencepiece_model.SPECIAL_TOKENS[token] for token in ('[CLS]', '[SEP]', '[MASK]'))
  ids = np.array([[cls, *[mask] * (length - 2), sep]], np.int32)
  return {
    'serving_default': {'input_word_ids': ids, 'input_mask': np.ones_like(ids), 'input_type_ids': np.zeros_like(ids)}
  }


def write(path: pathlib.Path, name: str, requests: Requests) -> None:
  """Adds the file to a SavedModel; the same requests give the same bytes.

  Args:
    path: the SavedModel.
    name: the model's, as 'albert_en_large'.
    requests: by signature, its inputs by name.
  """
  file = path / FILE
  file.parent.mkdir()
  with tf.io.TFRecordWriter(os.fspath(file)) as writer:
    for signature, inputs in requests.items():
      log = prediction_log_pb2.PredictionLog()
      request = log.predict_log.request
      request.model_spec.name, request.model_spec.signature_name = name, signature
      for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
      writer.write(log.SerializeToString(deterministic=True))  # a map has no order of its own
