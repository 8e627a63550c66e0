"""What a source's weights come to in float64: outputs on a batch, and the derivatives of a scalar."""

import math
from collections.abc import Mapping

import numpy as np
import threadpoolctl

from converters import source as source_lib
from converters import weight_map
from export.proof import batch as batch_lib
from export.proof import reference

_SMALL = 1 << 25  # values: 268 MB as float64


class Expected:
  """What both sides should give.

  Attributes:
    layers, pooled_output: as `reference.encode` returns them.
    rows: int [tokens], to which row of the batch each token belongs.
    gradient: of the scalar.
  """

  def __init__(self, source: source_lib.Source, parts: frozenset[weight_map.Part], batch: batch_lib.Batch,
               scalar: batch_lib.Scalar):
    """Reads each weight once, and keeps those of the heads."""
    rows = weight_map.rows(source.config, parts)
    count = sum(math.prod(weight_map.shape(row.shape, source.config)) for row in rows)
    # The reference turns kernels into float64 for every use; those of a small model it is given so.
    dtype = np.float64 if count <= _SMALL else np.float32
    weights = {row.name: source.tensor(row).astype(dtype, copy=False) for row in rows}
    # The source's graph is running beside: threads that wait actively for each other would take its processor.
    with threadpoolctl.threadpool_limits(1, 'blas'):
      self.layers, self.pooled_output = reference.encode(
          weights.__getitem__, source.config, batch.input_word_ids, batch.input_mask, batch.input_type_ids)
      self.gradient = reference.gradient(
          weights.__getitem__, source.config, scalar.batch.input_word_ids, scalar.batch.input_mask, scalar.batch.input_type_ids,
          scalar.batch.masked_lm_positions, scalar.factors)
    self._positions = batch.masked_lm_positions
    self._heads = {name: value for name, value in weights.items() if name.startswith(('mlm.', 'sop.', 'embeddings.word'))}
    self.rows = np.nonzero(batch.input_mask)[0]

  def of(self, name: str, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """What an output should be.

    A head is judged by what it makes of its own side's encoder output: that it makes little of a small error there is not
    its doing, and with a handful of values the ratio of two such errors would be chance.

    Args:
      name: 'tokens/pooled_output', 'mlm/mlm_logits', 'tokens/layer_3' and so on.
      outputs: all outputs of the side that gave it.
    """
    signature, _, output = name.rpartition('/')
    if output == 'mlm_logits':
      return reference.mlm_logits(self._heads.__getitem__, outputs[f'{signature}/sequence_output'], self._positions)
    if output == 'sop_log_probs':
      return reference.sop_log_probs(self._heads.__getitem__, outputs[f'{signature}/pooled_output'])
    if output == 'pooled_output':
      return self.pooled_output
    return self.layers[-1 if output == 'sequence_output' else int(output.removeprefix('layer_'))]
