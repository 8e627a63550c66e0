"""Writes warmup requests, which TensorFlow Serving runs after it has loaded a model.

The file is a TFRecord of PredictionLog messages (tensorflow.org/tfx/serving/saved_model_warmup), one a signature.
The server runs them on the model that has the file; of a request's model_spec, it uses only the signature.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from converters import albert_config
from converters import interface
from converters.readers import sentencepiece_model
from export import spec

# Below a SavedModel's directory.
FILE = 'assets.extra/tf_serving_warmup_requests'

Requests = Mapping[str, Mapping[str, Any]]

# For models that take text: inputs by name, by signature.
OF_SENTENCES: Requests = {'serving_default': {'sentences': np.array([b'The ferry was late.'])}}


def of_encoder(config: albert_config.AlbertConfig, padding_free: bool) -> Requests:
  """Returns the requests for an encoder.

  Args:
    config: config of the encoder.
    padding_free: whether it has the signature `serving_padding_free`.

  Returns:
    int32 [1, seq] inputs by name, by signature, at the preprocessor's length.
  """
  length = min(spec.SEQ_LENGTH, config.max_position_embeddings)
  cls, sep, mask = (sentencepiece_model.SPECIAL_TOKENS[token] for token in ('[CLS]', '[SEP]', '[MASK]'))
  ids = np.array([[cls, *[mask] * (length - 2), sep]], np.int32)
  inputs = dict(zip(interface.ENCODER_INPUTS, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))
  return {name: inputs for name, call in interface.SERVING.items() if call == 'tokens' or padding_free}


def write(path: pathlib.Path, name: str, requests: Requests) -> None:
  """Adds the file to a SavedModel; equal requests give equal bytes.

  Args:
    path: directory of the SavedModel.
    name: name of the model, as 'albert_en_large'.
    requests: inputs by name, by signature.
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
      writer.write(log.SerializeToString(deterministic=True))  # maps are unordered
