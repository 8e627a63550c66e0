"""What a source's weights come to: outputs on a batch, and the derivatives of a scalar, in float64, and in float32 as a graph would."""

import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping

import numpy as np

from converters import source as source_lib
from converters import weight_map
from export.proof import batch as batch_lib
from export.proof import reference

_SMALL = 1 << 25  # values: 268 MB as float64
_OUTPUTS = {'mlm': ('mlm_logits',), 'sop': ('sop_log_probs',)}  # of a signature, beside the encoder's


class Unwanted(Exception):
  """Nobody needs the result any more."""


class Expected:
  """What both sides should give.

  Attributes:
    layers, pooled_output, gradient: as `reference.encode_and_differentiate` returns them.
    rows: int [tokens], to which row of the batch each token belongs.
  """

  def __init__(self, source: source_lib.Source, parts: frozenset[weight_map.Part], batch: batch_lib.Batch,
               scalar: batch_lib.Scalar, wanted: Callable[[], bool] = lambda: True, dtype: reference.Float = np.float64):
    """Reads each weight once, and keeps those of the heads.

    Args:
      source, parts: the model.
      batch, scalar: what it is given.
      wanted: asked before every use of a weight; once it says no, it ends.
      dtype: what is computed in.

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
    kept_as = dtype if count <= _SMALL else np.float32
    weights = dict[str, np.ndarray]()
    for row in rows:
      ask()
      weights[row.name] = source.tensor(row).astype(kept_as, copy=False)
    self.layers, self.pooled_output, self.gradient = reference.encode_and_differentiate(
        weight, source.config, _inputs(batch), _inputs(scalar.batch), scalar.batch.masked_lm_positions, scalar.factors, dtype)
    self._batch, self._positions, self._dtype = batch, batch.masked_lm_positions, dtype
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
      return reference.mlm_logits(self._heads.__getitem__, outputs[f'{signature}/sequence_output'], self._positions, self._dtype)
    if output == 'sop_log_probs':
      return reference.sop_log_probs(self._heads.__getitem__, outputs[f'{signature}/pooled_output'], self._dtype)
    if output == 'pooled_output':
      return self.pooled_output
    return self.layers[-1 if output == 'sequence_output' else int(output.removeprefix('layer_'))]

  def outputs(self, signatures: Iterable[str]) -> dict[str, np.ndarray]:
    """All that a source's graph would give: 'tokens/pooled_output' and so on, and the layers as 'tokens/layer_0', [batch, seq, H] with
    zeros at padding."""
    layers = []
    for layer in self.layers:
      whole = np.zeros((*self._batch.input_mask.shape, layer.shape[1]), layer.dtype)
      whole[self._batch.input_mask.astype(bool)] = layer
      layers.append(whole)
    result = {f'tokens/layer_{number}': whole for number, whole in enumerate(layers)}
    for signature in signatures:
      result |= {f'{signature}/pooled_output': self.pooled_output, f'{signature}/sequence_output': layers[-1]}
      for head in _OUTPUTS.get(signature, ()):
        result[f'{signature}/{head}'] = self.of(f'{signature}/{head}', result)
    return result


def _inputs(batch: batch_lib.Batch) -> reference.Inputs:
  return reference.Inputs(batch.input_word_ids, batch.input_mask, batch.input_type_ids)
