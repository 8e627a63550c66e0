"""Writes a directory that ONNX Runtime, Optimum and transformers.js load, and proves it before it returns."""

import dataclasses
import pathlib
import tempfile
import types
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime

from converters import errors
from converters import source as source_lib
from converters import tokenization
from converters.reference import inputs as proof_inputs
from converters.reference import measures
from converters.writers import graph_options
from converters.writers import hugging_face
from converters.writers import int8_certificate
from converters.writers import onnx_graph
from converters.writers import onnx_int8
from converters.writers import proof as proof_lib

Options = graph_options.Options
MODEL, MODEL_INT8 = 'model.onnx', 'model_quantized.onnx'
TEXT, TEXT_INT8 = 'text.onnx', 'text_quantized.onnx'
_SUBDIRECTORY = 'onnx'  # where transformers.js looks for models
_HUGGING_FACE_OUTPUTS = {'pooler_output': 'pooled_output', 'last_hidden_state': 'sequence_output'}


def write(
  source: source_lib.Source,
  directory: pathlib.Path,
  options: Options,
  int8: bool = False,
  corpus: pathlib.Path | None = None,
  text: bool = False,
) -> list[str]:
  """Writes the models, config, tokenizer, card and record into an empty directory.

  `onnx/model.onnx` has the weights, and the names of Hugging Face's libraries. `model.onnx` has the encoder's names,
  and refers to the weights in the other file. With `int8`, both are called `model_quantized.onnx`. With `text`,
  `text.onnx` or `text_quantized.onnx` computes the same outputs from texts, and refers to the same weights.

  Args:
    source: the model.
    directory: the directory to write to.
    options: outputs and form of the graphs.
    int8: whether the kernels and embeddings are quantized. The float32 models are proven first.
    corpus: text file, one text a line, that quantized models are measured on; None for random ids.
    text: whether a model from texts is written. It lacks the masked language model head, which needs positions.

  Returns:
    The parts of the source that are left out.

  Raises:
    OSError: the directory cannot be written.
    PackageError: a package that `text` needs is missing.
    ParityError: a written float32 model differs from the float64 result, or a quantized one is not finite. The model
      from texts has other ids than the reference, or other outputs than the model from ids.
    SourceError: the source lacks a head, is too large for a file, or a tensor cannot be read.
    VocabularyError: `text` is wanted, and the vocabulary has no comma.
  """
  options.check(source)
  if text:
    _import_text()
    tokenization.check_comma(source.sp_model, source.sp_model_name, 'text.onnx', 'leave option with_text out')
  proof = proof_lib.Proof(source, options.parts)
  values: dict[str, Any] = {'format': 'onnx', 'opset': onnx_graph.OPSET, 'ir_version': onnx_graph.IR_VERSION}
  values |= {'options': vars(options), 'quantize': 'int8' if int8 else None}
  with tempfile.TemporaryDirectory(dir=directory) as temporary:
    place = pathlib.Path(temporary) if int8 else directory

    def build(names: onnx_graph.Names, options: Options = options) -> onnx.ModelProto:
      return onnx_graph.build(proof.weights, source.config, options, names)

    _write_pair(build, place, MODEL)
    values['parity'] = {path: proof.check(path, runner(place / path)) for path in (MODEL, f'{_SUBDIRECTORY}/{MODEL}')}
    if int8:
      _write_pair(lambda names: onnx_int8.quantized(build(names)), directory, MODEL_INT8)
      with_layers = build(onnx_graph.Names.ENCODER, dataclasses.replace(options, layers=True))
      (place / MODEL_INT8).write_bytes(onnx_graph.serialize(onnx_int8.quantized(with_layers)))
      texts, described = int8_certificate.batches(source, corpus)
      values['int8'] = {'corpus': described} | int8_certificate.certificate(
        proof, runner(place / MODEL_INT8), runner(place / MODEL), runner(directory / MODEL_INT8), texts
      )
  if text:
    model = build(onnx_graph.Names.ENCODER, dataclasses.replace(options, mlm=False))
    name, encoder = (TEXT_INT8, MODEL_INT8) if int8 else (TEXT, MODEL)
    allowed = {key: measures.Distance(**figure['allowed']) for key, figure in values['parity'][MODEL].items()}
    values['text'] = {
      'file': name,
      **_write_text(onnx_int8.quantized(model) if int8 else model, source, directory, name, encoder, allowed),
    }
  hugging_face.write_config(source, directory, _architecture(options))
  hugging_face.write_tokenizer(source, directory)
  hugging_face.write_card(
    source, directory, 'onnx.md', options=options, record=values, name=MODEL_INT8 if int8 else MODEL
  )
  packages = ('onnx', 'onnxruntime', *(['onnxruntime-extensions'] if text else []))
  proof_lib.write_record(source, directory, proof.weights, packages, values)
  return options.left_out(source)


def _write_pair(build: Callable[[onnx_graph.Names], onnx.ModelProto], directory: pathlib.Path, name: str) -> None:
  """Writes a model with its weights, and one that refers to them; both are checked."""
  (directory / _SUBDIRECTORY).mkdir(exist_ok=True)
  data = onnx_graph.serialize(build(onnx_graph.Names.HUGGING_FACE))
  (directory / _SUBDIRECTORY / name).write_bytes(data)
  thin = onnx_graph.referring(build(onnx_graph.Names.ENCODER), data, f'{_SUBDIRECTORY}/{name}')
  (directory / name).write_bytes(onnx_graph.serialize(thin))
  for path in (directory / name, directory / _SUBDIRECTORY / name):
    onnx.checker.check_model(path, full_check=True)


def _import_text() -> types.ModuleType:
  """Imports the module that needs onnxruntime-extensions.

  Raises:
    PackageError: the package is missing.
  """
  try:
    from converters.writers import onnx_text
  except ImportError as e:
    raise errors.PackageError(
      f'option with_text: the package {e.name} is missing ({e}); run `pip install onnxruntime-extensions`'
    ) from e
  return onnx_text


def _write_text(
  model: onnx.ModelProto,
  source: source_lib.Source,
  directory: pathlib.Path,
  name: str,
  encoder: str,
  allowed: Mapping[str, measures.Distance],
) -> dict[str, Any]:
  """Writes a model from texts, and compares it.

  Args:
    model: the model from ids.
    source: the source.
    directory: the directory.
    name: name of the file.
    encoder: name of the written model from ids.
    allowed: largest distances from it.

  Returns:
    The figures in the form of a record.
  """
  onnx_text = _import_text()
  data = (directory / _SUBDIRECTORY / encoder).read_bytes()
  thin = onnx_graph.referring(onnx_text.with_text(model, source), data, f'{_SUBDIRECTORY}/{encoder}')
  (directory / name).write_bytes(onnx_graph.serialize(thin))
  onnx.checker.check_model(directory / name, full_check=True)
  return onnx_text.check(
    directory / name, directory / encoder, source, allowed, lambda given: session(given, onnx_text.LIBRARY)
  )


def _architecture(options: Options) -> str:
  if options.mlm and options.sop:
    return 'AlbertForPreTraining'
  return 'AlbertForMaskedLM' if options.mlm else 'AlbertModel'


def session(model: pathlib.Path | bytes, library: str | None = None) -> onnxruntime.InferenceSession:
  """Loads a model on the processor, without messages.

  Args:
    model: path or content of the model.
    library: path of a library with more operations.
  """
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 4
  options.add_session_config_entry('session.intra_op.allow_spinning', '0')
  if library is not None:
    options.register_custom_ops_library(library)
  return onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])


def runner(path: pathlib.Path) -> proof_lib.Run:
  """Returns a function that runs a written model, of either names, on a batch of the encoder's."""
  loaded = session(path)
  names = [output.name for output in loaded.get_outputs()]
  inputs = {given.name for given in loaded.get_inputs()}

  def run(batch: proof_inputs.Batch) -> dict[str, np.ndarray]:
    given: dict[str, Any] = {name: value for name, value in vars(batch).items() if name in inputs}
    if not given:
      given = {
        'input_ids': batch.input_word_ids.astype(np.int64),
        'attention_mask': batch.input_mask.astype(np.int64),
        'token_type_ids': batch.input_type_ids.astype(np.int64),
      }
    result = {}
    for name, value in zip(names, loaded.run(names, given), strict=True):
      if name == 'logits':
        where = batch.masked_lm_positions[:, :, np.newaxis]
        result['mlm_logits'] = np.take_along_axis(value, where, axis=1)
      elif name == 'sop_logits':
        result['sop_log_probs'] = value - np.logaddexp(value[:, :1], value[:, 1:])
      elif name.startswith('encoder_outputs_'):
        result['layer_' + name.removeprefix('encoder_outputs_')] = value
      elif name.startswith('hidden_states.'):
        result[f'layer_{int(name.removeprefix("hidden_states.")) - 1}'] = value
      else:
        result[_HUGGING_FACE_OUTPUTS.get(name, name)] = value
    return result

  return run
