"""Measures what int8 costs a model. A quantized model is never equal to its source."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import numpy as np
import sentencepiece as spm

from converters import errors
from converters import source as source_lib
from converters.io import safe_read
from converters.reference import inputs as proof_inputs
from converters.reference import tokenizer
from converters.writers import proof as proof_lib

_LENGTH = 128  # tokens of a text
_LARGEST_CORPUS = 1 << 30  # bytes
_LINES, _ROWS = 256, 16  # texts of a corpus, and of one batch
_CLS, _SEP = 2, 3


def batches(
  source: source_lib.Source, corpus: pathlib.Path | None, most: int | None = None
) -> tuple[list[proof_inputs.Batch], dict[str, Any]]:
  """Returns batches of texts, and their description in the record.

  Args:
    source: the model, whose tokenizer is used.
    corpus: text file, one text a line; None for random ids.
    most: most tokens of a text; None for the model's.

  Raises:
    SourceError: the corpus cannot be read or has no text.
  """
  longest = min(_LENGTH, source.config.max_position_embeddings, most or _LENGTH)
  if corpus is None:
    made = [proof_inputs.make(source.config, longest, seed) for seed in range(4)]
    return [_at_all_positions(batch) for batch in made], {'texts': 'random ids', 'count': 16}
  content, lines = read(corpus)
  processor = spm.SentencePieceProcessor(model_proto=source.sp_model)
  ids = [[_CLS, *tokenizer.ids(processor, line, source.tokenization)[: longest - 2], _SEP] for line in lines]
  described = {'texts': corpus.name, 'sha256': hashlib.sha256(content).hexdigest(), 'count': len(lines)}
  return [_padded(ids[start : start + _ROWS]) for start in range(0, len(ids), _ROWS)], described


def read(corpus: pathlib.Path) -> tuple[bytes, list[str]]:
  """Returns the content of a corpus, and its first 256 lines with text.

  Raises:
    SourceError: it cannot be read or has no text.
  """
  try:
    content = safe_read.read(corpus, _LARGEST_CORPUS)
    lines = [line for line in content.decode('utf-8-sig').split('\n') if line.strip()][:_LINES]
  except (OSError, safe_read.TooLarge, UnicodeDecodeError) as e:
    cause = e.strerror if isinstance(e, OSError) else e
    raise errors.SourceError(f'{corpus}: not a readable text file ({cause}); give another option corpus') from e
  if not lines:
    raise errors.SourceError(f'{corpus}: no text; give another option corpus')
  return content, lines


def _padded(rows: Sequence[Sequence[int]]) -> proof_inputs.Batch:
  length = max(map(len, rows))
  ids = np.array([[*row, *[0] * (length - len(row))] for row in rows], np.int32)
  mask = (np.arange(length) < np.array([[len(row)] for row in rows])).astype(np.int32)
  return _at_all_positions(proof_inputs.Batch(ids, mask, np.zeros_like(ids), ids))


def _at_all_positions(batch: proof_inputs.Batch) -> proof_inputs.Batch:
  """Returns a batch with logits at every position."""
  positions = np.broadcast_to(np.arange(batch.input_mask.shape[1], dtype=np.int32), batch.input_mask.shape)
  return dataclasses.replace(batch, masked_lm_positions=np.ascontiguousarray(positions))


def certificate(
  proof: proof_lib.Proof,
  layers: proof_lib.Run,
  float32: proof_lib.Run,
  int8: proof_lib.Run,
  texts: Iterable[proof_inputs.Batch],
) -> dict[str, Any]:
  """Measures a quantized model.

  Args:
    proof: the float64 results.
    layers: runs the quantized model with the outputs of all layers.
    float32: runs the proven model.
    int8: runs the quantized model.
    texts: batches of texts.

  Returns:
    `distance`: distances from float64 by output, relative to its root mean square. `cosine`: mean and least cosine of
    vectors by int8 and float32, by output, at positions that are not padding. `mlm_top_1`: share of positions where
    both rank the same piece first, if the models have the head.

  Raises:
    ParityError: an output is not finite.
  """
  distances = {
    name: vars(proof.distance(name, value, proof.batch.input_mask)) for name, value in layers(proof.batch).items()
  }
  cosines: dict[str, list[np.ndarray]] = {'pooled_output': [], 'sequence_output': []}
  same: list[np.ndarray] = []
  for batch in texts:
    kept = batch.input_mask.astype(bool)
    exact, ours = float32(batch), int8(batch)
    cosines['pooled_output'].append(_cosine(exact['pooled_output'], ours['pooled_output']))
    cosines['sequence_output'].append(_cosine(exact['sequence_output'][kept], ours['sequence_output'][kept]))
    if 'mlm_logits' in ours:
      same.append(exact['mlm_logits'][kept].argmax(axis=-1) == ours['mlm_logits'][kept].argmax(axis=-1))
  record: dict[str, Any] = {'distance': distances, 'cosine': {}}
  for name, values in cosines.items():
    value = np.concatenate(values)
    record['cosine'][name] = {'mean': round(float(value.mean()), 4), 'least': round(float(value.min()), 4)}
    if not np.isfinite(value).all():
      raise errors.ParityError(
        f'option quantize=int8: {name} has values that are not finite; leave option quantize out'
      )
  if same:
    record['mlm_top_1'] = round(float(np.concatenate(same).mean()), 4)
  return record


def _cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  return np.sum(one * other, axis=-1) / (np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1))
