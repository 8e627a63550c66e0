"""Makes the common inputs of source and export: a batch, and a scalar of the outputs to differentiate."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from converters import albert_config
from converters import weight_map

LENGTH = 8
SHORT_LENGTH = 6
SHORT_ROWS = 2


@dataclasses.dataclass(frozen=True)
class Batch:
  """A batch of the exported model's inputs.

  The rows have different lengths, and some have a second segment.

  Attributes:
    input_word_ids: int32 [batch, seq].
    input_mask: int32 [batch, seq].
    input_type_ids: int32 [batch, seq].
    masked_lm_positions: int32 [batch, 3], zero-padded.
  """

  input_word_ids: np.ndarray
  input_mask: np.ndarray
  input_type_ids: np.ndarray
  masked_lm_positions: np.ndarray

  @property
  def for_source(self) -> dict[str, np.ndarray]:
    """The inputs under the names of the TF1 signatures."""
    return {
      'input_ids': self.input_word_ids,
      'input_mask': self.input_mask,
      'segment_ids': self.input_type_ids,
      'mlm_positions': self.masked_lm_positions,
    }

  def first(self, rows: int) -> 'Batch':
    """Returns the first rows; row 0 is the longest and has no padding."""
    return Batch(*(value[:rows] for value in dataclasses.astuple(self)))


def make(config: albert_config.AlbertConfig, length: int = LENGTH, seed: int = 0) -> Batch:
  """Makes a deterministic batch of four rows of random word ids.

  Args:
    config: config of the model.
    length: length of the longest row, limited to the model's positions.
    seed: seed of the ids.
  """
  length = min(length, config.max_position_embeddings)
  lengths = np.array([length, max(1, 2 * length // 3), max(1, length // 2), max(1, length // 8)])
  second = np.array(
    [length // 2, lengths[1], length // 4, lengths[3]]
  )  # start of the second segment; no second segment at the row's end
  position = np.arange(length)
  mask = (position < lengths[:, np.newaxis]).astype(np.int32)
  types = ((position >= second[:, np.newaxis]) * mask % config.type_vocab_size).astype(np.int32)
  ids = np.random.default_rng(seed).integers(0, config.vocab_size, mask.shape, dtype=np.int32) * mask
  positions = np.stack([lengths - 1, lengths // 2, np.zeros_like(lengths)], axis=1).astype(np.int32)
  return Batch(ids, mask, types, positions)


@dataclasses.dataclass(frozen=True)
class Scalar:
  """A scalar to differentiate: the sum of a model's outputs times constant factors.

  Attributes:
    batch: the inputs, two short rows. Differentiation takes nearly the same time for any batch.
    factors: float32 arrays of the outputs' shapes, by output name. The factors of padding in `sequence_output` are 0.
      The term of `sop_log_probs` is differentiated by the head's own weights only, because the other outputs cover the
      encoder's derivatives.
    training: whether the training mode is differentiated; for a model with dropout, the inference mode is.
  """

  batch: Batch
  factors: dict[str, np.ndarray]
  training: bool

  @property
  def signature(self) -> str:
    """The signature that has all outputs but `sop_log_probs`."""
    return 'mlm' if 'mlm_logits' in self.factors else 'tokens'


def make_scalar(config: albert_config.AlbertConfig, parts: Iterable[weight_map.Part], seed: int = 1) -> Scalar:
  """Makes a deterministic scalar for a model of `parts`, with normally distributed factors."""
  batch = make(config, SHORT_LENGTH, seed).first(SHORT_ROWS)
  rows, length = batch.input_mask.shape
  parts = frozenset(parts)
  shapes: dict[str, tuple[int, ...]] = {
    'pooled_output': (rows, config.hidden_size),
    'sequence_output': (rows, length, config.hidden_size),
  }
  if weight_map.Part.MLM in parts:
    shapes['mlm_logits'] = (*batch.masked_lm_positions.shape, config.vocab_size)
  if weight_map.Part.SOP in parts:
    shapes['sop_log_probs'] = (rows, 2)
  rng = np.random.default_rng(seed)
  factors = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
  factors['sequence_output'] *= batch.input_mask[:, :, np.newaxis]
  return Scalar(batch, factors, training=not config.has_dropout)
