"""Negative controls: wrong conversions of the loaded model, each of which the comparison must refuse."""

import math
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np

from converters import errors
from export.reference import inputs as proof_inputs
from export.reference import measures
from export.validation import exported_encoder
from export.validation import parity


def run(
  exported: exported_encoder.Exported, batch: proof_inputs.Batch, expected: Mapping[str, np.ndarray]
) -> dict[str, float]:
  """Makes each mistake that no shape would show, in the loaded model, and measures it.

  Args:
    exported: the widened model under test; unchanged afterwards.
    batch: the inputs; the first row, which is the longest and has no padding, is run.
    expected: the encoder's outputs for the batch, as `outputs.Expected` has them.

  Returns:
    The relative distance to what is expected by name of the mistake: of the first layer if it shows the mistake, else
    the largest of all
    outputs.

  Raises:
    ParityError: a mistake changes no output by CONTROL_FACTOR times the bound: the comparison shows nothing for these
      weights.
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

  # The first layer shows most mistakes: at large size, running all of the model instead would take two seconds more.
  looks = [exported.first_layer, lambda rows: exported.outputs(rows, ['tokens'])]
  if (
    not worst(exported.first_layer(row)) <= parity.OUTPUT_BOUND
  ):  # if the first layer is wrong already, the full model is run
    looks = looks[1:]
  bound = parity.CONTROL_FACTOR * parity.OUTPUT_BOUND
  result = dict[str, float]()
  for name, changes in mistakes(exported.variables):
    before = [(variable, variable.numpy()) for variable, _ in changes]
    try:
      for variable, value in changes:
        variable.assign(value)
      for look in looks:
        result[name] = worst(look(row))
        if result[name] >= bound:
          break
    finally:
      for variable, value in before:
        variable.assign(value)
  unnoticed = [name for name, distance in result.items() if not bound <= distance < math.inf]
  if unnoticed:
    raise errors.ParityError(
      f'negative controls: a wrong model is not refused ({", ".join(unnoticed)}): the proof shows nothing for these '
      'weights, check that the source is a trained model'
    )
  return result


def mistakes(variables: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[Any, np.ndarray]]]]:
  """Each mistake with the variables that it changes, and to what."""
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
