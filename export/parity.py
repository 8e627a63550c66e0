"""Compares what an exported SavedModel computes with what its source computes.

Both get the same batch; every float output of the source is compared, at the positions that are not padding. (At padding
the two differ by design: the original adds -10000 to masked scores, Keras -1e9.)
"""

import dataclasses
import math
import os
import pathlib
import unicodedata
from collections.abc import Iterable
from collections.abc import Mapping

import numpy as np
import sentencepiece as spm

from converters import config as config_lib
from converters import errors
from converters import vocabulary

# Largest difference allowed, in units of an output's scale (its root mean square, or 1 if that is smaller). An original
# module and AlbertEncoder with the same weights were measured 3.6e-6 apart after 24 layers; a swapped pair of tensors
# moves outputs by more than 1e-2.
TOLERANCE = 1e-5

_COMPARED = ('pooled_output', 'sequence_output', 'mlm_logits', 'sop_log_probs')


@dataclasses.dataclass(frozen=True)
class Difference:
  """One output compared.

  Attributes:
    values: how many floats were compared.
    max_abs: the largest absolute difference.
    allowed: the largest that passes.
  """
  values: int
  max_abs: float
  allowed: float

  @property
  def passes(self) -> bool:
    return self.values > 0 and math.isfinite(self.allowed) and self.max_abs <= self.allowed  # a NaN is not <= anything


@dataclasses.dataclass(frozen=True)
class Batch:
  """A batch in the exported model's terms; each int32. 4 rows of different length, two of them with a second segment.

  Attributes:
    input_word_ids, input_mask, input_type_ids: [4, seq].
    masked_lm_positions: [4, 3], zero-padded.
  """
  input_word_ids: np.ndarray
  input_mask: np.ndarray
  input_type_ids: np.ndarray
  masked_lm_positions: np.ndarray

  @property
  def for_source(self) -> dict[str, np.ndarray]:
    """The same under the names of the TF1 signatures."""
    return {
        'input_ids': self.input_word_ids,
        'input_mask': self.input_mask,
        'segment_ids': self.input_type_ids,
        'mlm_positions': self.masked_lm_positions,
    }


def make_batch(config: config_lib.AlbertConfig, seed: int = 0) -> Batch:
  """A batch of random word ids, the same for the same arguments."""
  length = min(24, config.max_position_embeddings)
  lengths = np.array([length, max(1, 2 * length // 3), max(1, length // 2), max(1, length // 8)])
  second = np.array([length // 2, lengths[1], length // 4, lengths[3]])  # where the second segment begins, if at all
  position = np.arange(length)
  mask = (position < lengths[:, np.newaxis]).astype(np.int32)
  types = ((position >= second[:, np.newaxis]) * mask % config.type_vocab_size).astype(np.int32)
  ids = np.random.default_rng(seed).integers(0, config.vocab_size, mask.shape, dtype=np.int32) * mask
  positions = np.stack([lengths - 1, lengths // 2, np.zeros_like(lengths)], axis=1).astype(np.int32)
  return Batch(ids, mask, types, positions)


def compare(source: Mapping[str, np.ndarray], export: Mapping[str, np.ndarray], mask: np.ndarray) -> dict[str, Difference]:
  """Compares outputs.

  Args:
    source: the outputs of the source's signatures, as `source_graph.Run.outputs` gives them: 'tokens/pooled_output' and so
      on; mlm_logits may be [batch * P, V].
    export: the outputs of the exported model and its heads under the same names.
    mask: int [batch, seq], 0 at padding.

  Returns:
    The comparison by output, without the signature: an output that several of them give is compared with each.

  Raises:
    ParityError: an output is missing on one side, the shapes do not agree, or a difference is too large; lists all.
  """
  faults = []
  differences: dict[str, list[Difference]] = {}
  for name in dict.fromkeys((*source, *export)):
    if name not in source or name not in export:
      faults.append(f'{name} is missing in the {"export" if name in source else "source"}')
      continue
    ours, theirs = (np.asarray(side[name], np.float64) for side in (export, source))
    if ours.size != theirs.size:
      faults.append(f'{name} has shape {list(ours.shape)}, the source\'s {list(theirs.shape)}')
      continue
    theirs = theirs.reshape(ours.shape)
    output = name.rpartition('/')[2]
    if output == 'sequence_output':
      ours, theirs = ours[mask.astype(bool)], theirs[mask.astype(bool)]
    difference = _difference(ours, theirs)
    differences.setdefault(output, []).append(difference)
    if not difference.passes:
      faults.append(f'{name} differs by {difference.max_abs:.2g}, more than {difference.allowed:.2g}')
  if faults or not differences:
    raise errors.ParityError(f'no parity ({"; ".join(faults) or "no outputs"}) in the encoder against its source: this is a '
                             'fault of the conversion, nothing was published')
  return {output: _worst(each) for output, each in differences.items()}


def _difference(ours: np.ndarray, theirs: np.ndarray) -> Difference:
  if not theirs.size:
    return Difference(0, float('nan'), TOLERANCE)
  scale = max(1.0, float(np.sqrt(np.mean(np.square(theirs)))))
  with np.errstate(invalid='ignore'):  # infinity less infinity is a NaN, and fails as one
    return Difference(int(theirs.size), float(np.max(np.abs(ours - theirs))), TOLERANCE * scale)


def _worst(differences: list[Difference]) -> Difference:
  return Difference(sum(d.values for d in differences), max(d.max_abs for d in differences),
                    min(d.allowed for d in differences))


def encoder_outputs(path: pathlib.Path, batch: Batch, signatures: Iterable[str], interface: str) -> dict[str, np.ndarray]:
  """Loads an exported encoder and runs it, and its heads, on a batch.

  Args:
    path: the SavedModel.
    batch: the inputs.
    signatures: 'tokens' for the encoder itself, 'mlm' and 'sop' for its heads.
    interface: 'dict' or 'list'.

  Returns:
    float32 outputs under the names that the source's have: 'tokens/pooled_output' and so on.
  """
  import tensorflow as tf
  loaded = tf.saved_model.load(os.fspath(path))
  inputs = {name: tf.constant(getattr(batch, name)) for name in ('input_word_ids', 'input_mask', 'input_type_ids')}
  if interface == 'list':
    outputs = {'tokens': dict(zip(('pooled_output', 'sequence_output'), loaded(list(inputs.values())), strict=True))}
  else:
    with_positions = dict(inputs, masked_lm_positions=tf.constant(batch.masked_lm_positions))
    outputs = {name: loaded(inputs) if name == 'tokens' else getattr(loaded, name)(with_positions if name == 'mlm' else inputs)
               for name in signatures}
  return {f'{signature}/{name}': value.numpy() for signature, each in outputs.items() for name, value in each.items()
          if name in _COMPARED}


# Every kind of text the published normalization treats in a way of its own.
_SENTENCES = (
    'The bridge was closed, and the ferry was late.',
    'CAFÉ au lait: naïve, 1,200 boats (or 3.5)!',
    '  spaces\tand\nlines  ',
    'Straße, ﬁnale, Ωmega and 東京',
    '“quotes” – dashes — £3 or €4 …',
    '[CLS] is text here, and so is <pad>',
    '',
)


def check_preprocessor(path: pathlib.Path, sp_model: bytes) -> int:
  """Loads an exported preprocessor and compares its ids with a plain-Python statement of the published rule.

  Returns:
    The number of tokens compared.

  Raises:
    ParityError: naming the first text whose ids differ.
  """
  import tensorflow as tf
  import tensorflow_text  # noqa: F401  (registers the ops)
  processor = spm.SentencePieceProcessor(model_proto=sp_model)
  loaded = tf.saved_model.load(os.fspath(path))
  actual = loaded.tokenize(tf.constant(_SENTENCES)).to_list()
  packed = loaded(tf.constant(_SENTENCES))['input_word_ids'].numpy()
  cls, sep = vocabulary.SPECIAL_TOKENS['[CLS]'], vocabulary.SPECIAL_TOKENS['[SEP]']
  count = 0
  for sentence, tokens, row in zip(_SENTENCES, actual, packed, strict=True):
    decomposed = unicodedata.normalize('NFD', sentence)
    plain = ''.join(c for c in decomposed if unicodedata.category(c) != 'Mn')
    # TF-Text's case folding is ICU's NFKC_Casefold.
    expected = processor.encode(unicodedata.normalize('NFKC', unicodedata.normalize('NFKC', plain).casefold()))
    if tokens != expected or row[:len(tokens) + 2].tolist() != [cls, *expected, sep][:len(row)]:
      raise errors.ParityError(
          f'no parity (ids {tokens} instead of {expected}) in the preprocessor for {sentence!r}: this is a fault of the '
          'conversion, nothing was published')
    count += len(tokens)
  return count
