"""Packs the positions of a padded batch that are not padding into rows, and pads rows again.

A dense layer, a layer norm or a residual computes each position by itself, so it can leave out padding. Attention
needs the positions of one text together: there, rows are padded again, to the longest text's number of kept positions.
"""

import dataclasses
from typing import Any

import tensorflow as tf

from export.model import transformer_block


@dataclasses.dataclass(frozen=True)
class Packing:
  """The computed positions of a batch, in the order of texts and positions.

  Attributes:
    positions: row and column of each computed position in the batch, int32 [tokens, 2].
    shown: 1 for the positions that are not padding, 0 for a masked first position, float32 [tokens, 1].
    first: number of the first computed position of each text, int32 [batch].
    sizes: of the batch, int32 [2]: batch, seq.
    places: row and column of each computed position among those of its text, int32 [tokens, 2].
    scores: term that is added to the attention scores, float32 [batch, 1, 1, longest].
  """

  positions: Any
  shown: Any
  first: Any
  sizes: Any
  places: Any
  scores: Any

  @classmethod
  def of_mask(cls, mask: Any) -> 'Packing':
    """Finds the positions to compute.

    They are those that the mask keeps. A text whose mask is all zero keeps all positions, since the plain call attends
    to all of them. Position 0 is always computed, because the pooler reads it. If the mask leaves it out, no position
    attends to it, and its outputs are zero.

    Args:
      mask: int32 [batch, seq], not 0 for the positions that are attended to.
    """
    attended = tf.not_equal(mask, 0)
    kept = attended | ~tf.reduce_any(attended, axis=1, keepdims=True)
    computed = kept | tf.equal(tf.range(tf.shape(mask)[1]), 0)
    positions = tf.cast(tf.where(computed), tf.int32)
    shown = tf.cast(tf.gather_nd(kept, positions), tf.float32)[:, tf.newaxis]
    # The number of computed positions so far; the last column has each text's total.
    counts = tf.cumsum(tf.cast(computed, tf.int32), axis=1)
    first = tf.cumsum(counts[:, -1], exclusive=True)
    longest = tf.reduce_max(tf.pad(tf.reshape(counts, [-1]), [[0, 1]]))  # 0 for an empty batch
    places = tf.stack([positions[:, 0], tf.gather_nd(counts, positions) - 1], axis=1)
    # Places that no position takes get the score of a masked one.
    attention_mask = tf.scatter_nd(places, tf.gather_nd(mask, positions), tf.stack([tf.shape(mask)[0], longest]))
    return cls(positions, shown, first, tf.shape(mask), places, transformer_block.mask_scores(attention_mask))

  def unpack(self, rows: Any) -> Any:
    """Puts rows [tokens, width] into [batch, seq, width], with zeros at padding."""
    return tf.scatter_nd(self.positions, rows * self.shown, tf.concat([self.sizes, tf.shape(rows)[1:]], axis=0))
