"""Compares an encoder's padding-free call with its plain call, for masks that are not padding at the end.

The certificate compares both calls with the source for padding at the end. The source defines no more: its graph has
values at masked positions too. Here the plain call defines what is right.
Derivatives follow from the outputs, because no operation of the published graph stops a gradient.
"""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Mapping

import numpy as np

from converters import albert_config
from converters.reference import inputs as proof_inputs
from converters.reference import measures
from export.validation import exported_encoder
from export.validation import parity


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Relative distances (rms) in float64 of the padding-free call from the plain call, each the largest of all outputs.

  Attributes:
    kept: at the positions that are kept, in rows with an unmasked position.
    all_masked: in the row whose mask is all zero.
  """

  kept: float
  all_masked: float


def kept(mask: np.ndarray) -> np.ndarray:
  """Returns the positions that are not padding, bool [batch, seq], for a mask int [batch, seq].

  They are those that the mask keeps, and all positions of a row whose mask is all zero.
  """
  attended = mask != 0
  return attended | ~attended.any(axis=1, keepdims=True)


def run(
  exported: exported_encoder.Exported,
  config: albert_config.AlbertConfig,
  fault: Callable[[str], None],
) -> tuple[Comparison, dict[str, float]]:
  """Runs both calls of the widened model.

  Args:
    exported: the widened model.
    config: its config.
    fault: called with each fault.

  Returns:
    The comparison, and the distance of each negative control, by name.
  """
  batch = proof_inputs.make_with_holes(config)
  keep = kept(batch.input_mask)
  right, found = _outputs(exported, batch, 'tokens'), _outputs(exported, batch, 'padding_free')
  faults = [f'padding_free/{name} is missing or unexpected' for name in sorted(right.keys() ^ found.keys())]
  faults += [
    f'padding_free/{name} is not zero at padding'
    for name in sorted(right.keys() & found.keys())
    if name != 'pooled_output' and (found[name].shape != right[name].shape or found[name][~keep].any())
  ]
  if faults:
    for text in faults:
      fault(text)
    return Comparison(math.nan, math.nan), {}
  some, none = slice(None, -1), slice(-1, None)
  comparison = Comparison(
    _largest(found, right, keep, some),
    _largest(found, right, keep, none),
  )
  for value, distance, bound in (
    ('an output', comparison.kept, parity.OUTPUT_BOUND),
    ('an output of a row whose mask is all zero', comparison.all_masked, parity.ALL_MASKED_BOUND),
  ):
    if not distance <= bound:
      fault(f'padding_free: {value} is {distance:.1e} from the plain call in float64, more than {bound:.0e}')
  shifted = {name: np.roll(value, 1, axis=0) for name, value in found.items()}
  controls = {'padding-free: rows shifted by one': _largest(shifted, right, keep, some)}
  if batch.input_mask.shape[1] > 1:
    second = (np.arange(batch.input_mask.shape[1]) == 1).astype(np.int32)
    opened = dataclasses.replace(batch, input_mask=np.maximum(batch.input_mask, second))
    controls['padding-free: a masked token attended to'] = _largest(
      _outputs(exported, opened, 'padding_free'), right, keep, some
    )
  for name, distance in controls.items():
    if not parity.CONTROL_FACTOR * parity.OUTPUT_BOUND <= distance < math.inf:
      fault(f'negative control "{name}" is not refused for these weights')
  return comparison, controls


def _outputs(exported: exported_encoder.Exported, batch: proof_inputs.Batch, call: str) -> dict[str, np.ndarray]:
  """Runs a call, and returns `pooled_output`, `sequence_output`, `layer_0` and so on."""
  outputs = exported.outputs(batch, [call])
  return {name.removeprefix(f'{call}/'): value for name, value in outputs.items() if name.startswith(f'{call}/')}


def _largest(found: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray], keep: np.ndarray, rows: slice) -> float:
  """Returns the largest relative distance of all outputs, for some rows at the kept positions."""
  result = 0.0
  for name, value in right.items():
    pair = [array[rows] if name == 'pooled_output' else array[rows][keep[rows]] for array in (found[name], value)]
    result = measures.larger(result, measures.relative(*pair).rms)
  return result
