"""An encoder and its preprocessor -> one object that is saved: text in, vectors out.

It has no sp_model_file as an encoder has: that is for code which tokenizes outside of the graph. Here nothing is left
to tokenize, and the SentencePiece model, which is in the graph twice already, would be in the files for a third time.
"""

from typing import Any

import tensorflow as tf

from export.model import encoder as encoder_lib


def exportable(preprocessor: Any, encoder: Any, modes_differ: bool) -> tuple[Any, dict[str, Any]]:
  """Makes the object to hand to `saved_model.write`.

  Args:
    preprocessor: from `preprocessor.exportable`.
    encoder: from `encoder.exportable` with the 'dict' interface. Its traces are called, and its variables shared.
    modes_differ: whether it has dropout.

  Returns:
    The root object, and its signatures by name.

    root(sentences, training=False), string [batch], returns what the encoder returns for what the preprocessor gives: a
    dict of float32
    `pooled_output` [batch, H], `sequence_output` [batch, 128, H], `encoder_outputs`, a list of one [batch, 128, H] a
    layer, and
    `default`, the pooled output.
  """
  encode = encoder_lib.traces(encoder, modes_differ)
  spec = tf.TensorSpec([None], tf.string, name='sentences')

  def encode_text(sentences: Any, training: bool) -> dict[str, Any]:
    return encode.call(preprocessor.__call__(sentences), training)

  call = encoder_lib.traced(encode_text, spec, modes_differ)

  @tf.function(input_signature=[spec], autograph=False)
  def serving_default(sentences):
    outputs = call.call(sentences, False)
    return {name: outputs[name] for name in ('default', 'pooled_output', 'sequence_output')}

  root = encoder_lib.callable_object(call, encoder.variables)
  root.tokenizer = preprocessor.tokenizer  # its table is loaded with what tracks it
  return root, {'serving_default': serving_default}
