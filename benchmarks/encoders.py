"""Inputs and calls of an encoder's SavedModel, by either tool."""

from collections.abc import Callable

import tensorflow as tf

from benchmarks import timing

INPUTS = ('input_word_ids', 'input_mask', 'input_type_ids')

Encoder = Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]


def make_batch(vocab_size: int, shape: tuple[int, int]) -> dict[str, tf.Tensor]:
  """Returns a deterministic batch, int32 [batch, seq] by input name."""
  return dict(zip(INPUTS, map(tf.constant, timing.tokens(vocab_size, shape)), strict=True))


def call(encoder: Encoder, batch: dict[str, tf.Tensor]) -> None:
  """Calls an encoder, and waits for its pooled output."""
  encoder(batch)['pooled_output'].numpy()
