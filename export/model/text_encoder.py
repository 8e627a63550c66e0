"""Joins an encoder and its preprocessor into one object to save: from text to vectors."""

from typing import Any

import tensorflow as tf

from converters import interface
from export.model import encoder as encoder_lib


def exportable(preprocessor: Any, encoder: Any, modes_differ: bool) -> tuple[Any, dict[str, Any]]:
  """Makes the object for `saved_model.write`.

  Args:
    preprocessor: object from `preprocessor.exportable`.
    encoder: object from `encoder.exportable` with the 'dict' interface. Its padding-free traces are called and its
      variables shared.
    modes_differ: whether the encoder has dropout.

  Returns:
    The root object, and its signatures by name.

    root(sentences, training=False), string [batch], returns the outputs of the encoder's padding-free call for the
    preprocessor's ids. They are a dict of float32: `pooled_output` [batch, H], `sequence_output` [batch, 128, H],
    `encoder_outputs` (a list with one [batch, 128, H] for each layer) and `default` (the pooled output). All but the
    pooled output are zero at padding. Without pooler, `pooled_output` and `default` are missing.
    root.sp_model_file and root.albert_config are the encoder's assets, which make a fine-tuned model a source.
  """
  encode = encoder_lib.traces(encoder.padding_free, modes_differ)
  spec = tf.TensorSpec([None], tf.string, name='sentences')

  def encode_text(sentences: Any, training: bool) -> dict[str, Any]:
    return encode.call(preprocessor.__call__(sentences), training)

  call = encoder_lib.traced(encode_text, spec, modes_differ)

  @tf.function(input_signature=[spec], autograph=False)
  def serving_default(sentences):
    outputs = call.call(sentences, False)
    return {name: outputs[name] for name in interface.served() if name in outputs}

  root = encoder_lib.callable_object(call, encoder.variables)
  root.tokenizer = preprocessor.tokenizer  # the object that tracks a resource loads it
  encoder_lib.share_assets(encoder, root)
  return root, {'serving_default': serving_default}
