"""What a source's weights come to in float64: outputs on a batch, and the derivatives of a scalar."""

import math
from collections.abc import Callable
from collections.abc import Mapping

import numpy as np

from converters import source as source_lib
from converters import weight_map
from export.proof import batch as batch_lib
from export.proof import reference

_SMALL = 1 << 25  # values: 268 MB as float64


class Unwanted(Exception):
  """Nobody needs the result any more."""


class Expected:
  """What both sides should give.

  Attributes:
    layers, pooled_output, gradient: as `reference.encode_and_differentiate` returns them.
    rows: int [tokens], to which row of the batch each token belongs.
  """

  def __init__(self, source: source_lib.Source, parts: frozenset[weight_map.Part], batch: batch_lib.Batch,
               scalar: batch_lib.Scalar, wanted: Callable[[], bool] = lambda: True):
    """Reads each weight once, and keeps those of the heads.

    Args:
      source, parts: the model.
      batch, scalar: what it is given.
      wanted: asked before every use of a weight; once it says no, it ends.

    Raises:
      Unwanted: `wanted` said no.
    """
    def ask() -> None:
      if not wanted():
        raise Unwanted

    def weight(name: str) -> np.ndarray:
      ask()
      return weights[name]

    rows = weight_map.rows(source.config, parts)
    count = sum(math.prod(weight_map.shape(row.shape, source.config)) for row in rows)
    # The reference turns kernels into float64 for every use; those of a small model it is given so.
    dtype = np.float64 if count <= _SMALL else np.float32
    weights = dict[str, np.ndarray]()
    for row in rows:
      ask()
      weights[row.name] = source.tensor(row).astype(dtype, copy=False)
    self.layers, self.pooled_output, self.gradient = reference.encode_and_differentiate(
        weight, source.config, _inputs(batch), _inputs(scalar.batch), scalar.batch.masked_lm_positions, scalar.factors)
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


def _inputs(batch: batch_lib.Batch) -> reference.Inputs:
  return reference.Inputs(batch.input_word_ids, batch.input_mask, batch.input_type_ids)
