"""Makes the common inputs of source and export: a batch, and a scalar of the outputs to differentiate."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from converters import albert_config
from converters import interface
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
    return {tensor.tf1: getattr(self, tensor.name) for tensor in interface.INPUTS}

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


def make_with_holes(config: albert_config.AlbertConfig, seed: int = 2) -> Batch:
  """Makes a deterministic batch whose masks are other than padding at the end.

  The rows: no padding; every third position masked; the first half masked; all but one masked; all masked. Every
  position has a random word id, also the masked ones.
  """
  length = min(LENGTH, config.max_position_embeddings)
  position = np.arange(length)
  keep = [position >= 0, position % 3 != 1, position >= length // 2, position == length - 1, position < 0]
  mask = np.stack(keep).astype(np.int32)
  rng = np.random.default_rng(seed)
  ids = rng.integers(0, config.vocab_size, mask.shape, dtype=np.int32)
  types = rng.integers(0, config.type_vocab_size, mask.shape, dtype=np.int32)
  return Batch(ids, mask, types, np.zeros((len(mask), 1), np.int32))


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
  parts = {weight_map.Part.ENCODER, *parts}
  sizes = {**config.dimensions, 'batch': rows, 'seq': length, 'predictions': batch.masked_lm_positions.shape[1]}
  shapes = {tensor.name: tensor.shape(sizes) for tensor in interface.OUTPUTS if tensor.part in parts}
  if not config.pooler:
    del shapes['pooled_output']
  rng = np.random.default_rng(seed)
  factors = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
  factors['sequence_output'] *= batch.input_mask[:, :, np.newaxis]
  return Scalar(batch, factors, training=not config.has_dropout)
