"""Runs negative controls: wrong conversions of the loaded model, each of which the comparison must refuse."""

import math
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np

from converters import errors
from converters.reference import inputs as proof_inputs
from converters.reference import measures
from export.validation import exported_encoder
from export.validation import parity


def run(
  exported: exported_encoder.Exported, batch: proof_inputs.Batch, expected: Mapping[str, np.ndarray]
) -> dict[str, float]:
  """Applies each mistake to the loaded model and measures its distance from the expected outputs.

  Args:
    exported: the widened model under test; restored afterwards.
    batch: the inputs; only the first row is run, which is the longest and has no padding.
    expected: outputs of the encoder for the batch, as in `outputs.Expected`.

  Returns:
    Relative distance (rms) by name of the mistake: that of the first layer if it exceeds the bound, else the largest of
    all outputs.

  Raises:
    ParityError: a mistake changes no output by CONTROL_FACTOR times the bound, so the proof is void for these weights.
  """
  row = batch.first(1)
  length = row.input_mask.size

  def worst(outputs: Mapping[str, np.ndarray]) -> float:
    outputs = {key.rpartition('/')[2]: value for key, value in outputs.items()}
    return max(
      (
        measures.relative(value, expected[output][: 1 if output == 'pooled_output' else length]).rms
        for output, value in outputs.items()
      ),
      default=0.0,
    )

  # The first layer shows most mistakes. Running the whole model instead takes two seconds more at large size.
  runs = [exported.first_layer, lambda rows: exported.outputs(rows, ['tokens'])]
  if not worst(exported.first_layer(row)) <= parity.OUTPUT_BOUND:  # wrong without a mistake, so it shows nothing
    runs = runs[1:]
  bound = parity.CONTROL_FACTOR * parity.OUTPUT_BOUND
  result = dict[str, float]()
  for name, changes in mistakes(exported.variables):
    before = [(variable, variable.numpy()) for variable, _ in changes]
    try:
      for variable, value in changes:
        variable.assign(value)
      for run_row in runs:
        result[name] = worst(run_row(row))
        if result[name] >= bound:
          break
    finally:
      for variable, value in before:
        variable.assign(value)
  unnoticed = [name for name, distance in result.items() if not bound <= distance < math.inf]
  if unnoticed:
    raise errors.ParityError(
      f'negative controls: not refused for these weights ({", ".join(unnoticed)}); check that the source is a trained '
      'model'
    )
  return result


def mistakes(variables: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[Any, np.ndarray]]]]:
  """Yields the name of each mistake, and pairs of a variable and its wrong value.

  The shapes of the variables do not change, so no shape check finds these mistakes.
  """
  block = 'transformer'

  def swapped(one: str, other: str) -> list[tuple[Any, np.ndarray]]:
    return [(variables[one], variables[other].numpy()), (variables[other], variables[one].numpy())]

  def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> list[tuple[Any, np.ndarray]]:
    value = variables[name].numpy()
    return [(variables[name], change(value))]

  yield 'query and key swapped', swapped(f'{block}/self_attention/query/kernel', f'{block}/self_attention/key/kernel')
  yield (
    'layer norms swapped',
    [
      change
      for part in ('gamma', 'beta')
      for change in swapped(f'{block}/self_attention_layer_norm/{part}', f'{block}/output_layer_norm/{part}')
    ],
  )
  yield (
    'value kernel transposed',
    changed(f'{block}/self_attention/value/kernel', lambda v: v.reshape(len(v), -1).T.reshape(v.shape)),
  )
  yield 'word embedding shifted by a row', changed('word_embeddings/embeddings', lambda v: np.roll(v, 1, axis=0))
