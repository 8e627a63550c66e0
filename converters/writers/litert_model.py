"""Writes a directory that LiteRT (TensorFlow Lite) loads, and proves it before it returns."""

import dataclasses
import os
import pathlib
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf

from converters import errors
from converters import source as source_lib
from converters.reference import inputs as proof_inputs
from converters.writers import graph_options
from converters.writers import hugging_face
from converters.writers import int8_certificate
from converters.writers import litert_graph
from converters.writers import proof as proof_lib

Options = graph_options.Options
MODEL, MODEL_INT8 = 'model.tflite', 'model_quantized.tflite'


def write(
  source: source_lib.Source,
  directory: pathlib.Path,
  options: Options,
  seq_length: int | None = None,
  int8: bool = False,
  corpus: pathlib.Path | None = None,
) -> list[str]:
  """Writes the model, tokenizer, card and record into an empty directory.

  Args:
    source: the model.
    directory: the directory to write to.
    options: outputs of the graph.
    seq_length: the only length of the sequence, with a batch of 1; None for any sizes.
    int8: whether kernels and embeddings are quantized. The float32 model is proven first, and not written.
    corpus: text file, one text a line, that a quantized model is measured on; None for random ids.

  Returns:
    The parts of the source that are left out.

  Raises:
    OSError: the directory cannot be written.
    ParityError: the float32 model differs from the float64 result, or the quantized one is not finite.
    SourceError: the source lacks a head, is too large for a file, or a tensor cannot be read.
  """
  options.check(source)
  most = source.config.max_position_embeddings
  if seq_length is not None and seq_length > most:
    raise errors.SourceError(
      f'option seq_length={seq_length}: more than the {most} positions of {source.handle}; give at most {most}'
    )
  proof = proof_lib.Proof(source, options.parts)
  name = MODEL_INT8 if int8 else MODEL
  values: dict[str, Any] = {'format': 'litert', 'seq_length': seq_length, 'quantize': 'int8' if int8 else None}
  values['options'] = {key: value for key, value in vars(options).items() if key != 'padding_free'}
  with tempfile.TemporaryDirectory(dir=directory) as temporary:
    place = pathlib.Path(temporary) if int8 else directory
    content = litert_graph.build(proof.weights, source.config, options, seq_length)
    (place / MODEL).write_bytes(content)
    values['parity'] = {MODEL: proof.check(MODEL, runner(place / MODEL, seq_length))}
    if int8:
      for path, own in (
        (directory / MODEL_INT8, options),
        (place / MODEL_INT8, dataclasses.replace(options, layers=True)),
      ):
        path.write_bytes(litert_graph.build(proof.weights, source.config, own, seq_length, int8=True))
      texts, described = int8_certificate.batches(source, corpus, seq_length)
      layers, float32, quantized = (
        runner(path, seq_length) for path in (place / MODEL_INT8, place / MODEL, directory / MODEL_INT8)
      )
      values['int8'] = {'corpus': described} | int8_certificate.certificate(proof, layers, float32, quantized, texts)
  hugging_face.write_tokenizer(source, directory)
  hugging_face.write_card(
    source, directory, 'litert.md', options=options, record=values, name=name, seq_length=seq_length
  )
  proof_lib.write_record(source, directory, proof.weights, ('tensorflow-cpu', 'tensorflow'), values)
  return options.left_out(source)


def runner(path: pathlib.Path, seq_length: int | None = None) -> proof_lib.Run:
  """Returns a function that runs a written model on a batch: row by row if it has one length only."""
  interpreter = tf.lite.Interpreter(model_path=str(path), num_threads=os.cpu_count())
  signature = interpreter.get_signature_runner('serving_default')
  names = signature.get_input_details()

  def run_once(batch: proof_inputs.Batch) -> dict[str, np.ndarray]:
    return signature(**{name: value for name, value in vars(batch).items() if name in names})

  def run(batch: proof_inputs.Batch) -> dict[str, np.ndarray]:
    if seq_length is None:
      outputs = run_once(batch)
    else:
      length = batch.input_mask.shape[1]
      fixed = [np.pad(value, [(0, 0), (0, seq_length - length)]) for value in dataclasses.astuple(batch)[:3]]
      rows = [
        run_once(proof_inputs.Batch(*(value[row : row + 1] for value in (*fixed, batch.masked_lm_positions))))
        for row in range(len(batch.input_mask))
      ]
      outputs = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
      outputs = {
        name: value[:, :length] if name == 'sequence_output' or name.startswith('encoder_outputs_') else value
        for name, value in outputs.items()
      }
    return {name.replace('encoder_outputs_', 'layer_'): value for name, value in outputs.items()}

  return run
