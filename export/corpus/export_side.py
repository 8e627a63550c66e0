"""Runs the exported preprocessor and encoder on batches, in a subprocess, through their public interface.

Usage: python -m export.corpus.export_side DIRECTORY LIMITS
"""

import pathlib
import sys
import time
from typing import Any

import numpy as np

from converters import interface
from export.corpus import child
from export.corpus import protocol
from export.graphs import op_allow_list
from export.source import sandbox


def run(directory: str, limits: str) -> None:
  """Answers batches from standard input until it ends.

  Args:
    directory: directory of the subprocess, with its parameters.
    limits: resource limits as JSON; not applied here.
  """
  sandbox.die_with_parent()
  output = protocol.own_output()
  job = child.job(directory)
  import tensorflow as tf
  import tensorflow_text  # noqa: F401  (registers the ops)

  preprocessor, encoder = (
    op_allow_list.load(pathlib.Path(job['preprocessor'])),
    op_allow_list.load(pathlib.Path(job['model'])),
  )
  as_list = job['interface'] == 'list'
  # The heads run the plain call, so that a corpus tests both.
  encode_tokens = getattr(encoder, 'padding_free', encoder)

  def encode(signature: str, packed: dict[str, Any], positions: np.ndarray) -> dict[str, np.ndarray]:
    if as_list:
      values = dict(zip(interface.ENCODER_OUTPUTS, encoder(list(packed.values())), strict=False))
    elif signature == 'mlm':
      values = encoder.mlm({**packed, 'masked_lm_positions': tf.constant(positions)})
    else:
      values = (encoder.sop if signature == 'sop' else encode_tokens)(packed)
    return {name: values[name].numpy() for name in interface.outputs(signature) if name in values}

  def preprocess(texts: list[bytes], length: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    sentences = tf.constant(texts, tf.string)
    tokens = preprocessor.tokenize(sentences)
    packed = dict(preprocessor.bert_pack_inputs([tokens], seq_length=tf.constant(length)))
    arrays = {'ids': tokens.flat_values.numpy(), 'splits': tokens.row_splits.numpy()}
    arrays |= {name: packed[name].numpy() for name in interface.ENCODER_INPUTS}
    # Most users call the preprocessor with its default length.
    arrays |= {f'whole/{name}': value.numpy() for name, value in preprocessor(sentences).items()}
    return arrays, {name: packed[name] for name in interface.ENCODER_INPUTS}

  # The first call of a function optimizes its graph, which must not count as a batch's time.
  _, packed = preprocess([b'a'], 8)
  for signature in job['signatures']:
    encode(signature, packed, np.ones([1, 2], np.int32))
  protocol.write(output, {}, {})
  while (message := protocol.read(sys.stdin.buffer, None)) is not None:
    arrays, figures = message
    start = time.monotonic()
    content, ends = arrays['text'].tobytes(), arrays['ends'].tolist()
    texts = [content[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    answer, packed = preprocess(texts, figures['length'])
    middle = time.monotonic()
    answer |= encode(job['signatures'][figures['signature']], packed, arrays['positions'])
    end = time.monotonic()
    protocol.write(
      output,
      answer,
      {'preprocessor': int(1e6 * (middle - start)), 'encoder': int(1e6 * (end - middle)), 'memory': child.memory()},
    )


if __name__ == '__main__':
  sandbox.main(run)
