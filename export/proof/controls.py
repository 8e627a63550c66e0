"""Mistakes made on purpose in the loaded model: a comparison that does not notice them proves nothing."""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np

from converters import errors
from export.proof import batch as batch_lib
from export.proof import expected as expected_lib
from export.proof import exported as exported_lib
from export.proof import parity


@dataclasses.dataclass(frozen=True)
class Control:
  """A wrong conversion, and how far it is from the reference.

  Attributes:
    export: distance of the first layer, or if that does not show it of the output that is furthest beyond what is allowed.
    allowed: what it was allowed.
  """
  export: parity.Distance
  allowed: parity.Distance


def run(exported: exported_lib.Exported, batch: batch_lib.Batch, expected: expected_lib.Expected,
        source: Mapping[str, np.ndarray]) -> dict[str, Control]:
  """Makes each of the mistakes that no shape would show, in the loaded model, and sees it fail.

  Args:
    exported: the model under test; as it was, afterwards.
    batch: the inputs; only the first row, which is the longest and has no padding, is run.
    expected: what the outputs should be.
    source: the source's outputs on the whole batch.

  Returns:
    The controls by name.

  Raises:
    ParityError: a mistake was not noticed: the comparison proves nothing.
  """
  row = batch.first(1)
  length = row.input_mask.size
  theirs = {name: value[:1] if name.endswith('/pooled_output') else value.reshape(-1, value.shape[-1])[:length]
            for name, value in source.items() if name.startswith('tokens/')}

  def failed(outputs: Mapping[str, np.ndarray]) -> list[parity.Check]:
    """The checks of these that do not pass."""
    outputs = {output: value for output, value in outputs.items() if output.startswith('tokens/')}
    own = {name: value for name, value in theirs.items() if name in outputs or name == 'tokens/sequence_output'}
    checks, _ = parity.examine(own, outputs, _FirstRow(expected), row.input_mask)
    return [check for check in checks.values() if not (check.passes or check.export.within(check.allowed))]

  # The first layer shows most mistakes. Where it shows none, or is wrong as it is, all of the model is run.
  looks = [lambda: exported.outputs(row, ['tokens'])]
  first = exported.first_layer(row)
  if first and not failed(first):
    looks.insert(0, lambda: exported.first_layer(row))
  result: dict[str, Control] = {}
  unnoticed = []
  for name, changes in _mistakes(exported.variables):
    before = [(variable, variable.numpy()) for variable, _ in changes]
    try:
      for variable, value in changes:
        variable.assign(value)
      found = next(filter(None, (failed(look()) for look in looks)), [])
    finally:
      for variable, value in before:
        variable.assign(value)
    if found:
      worst = max(found, key=lambda check: check.export.rms / check.allowed.rms)
      result[name] = Control(worst.export, worst.allowed)
    else:
      unnoticed.append(name)
  if unnoticed:
    raise errors.ParityError(f'the comparison does not notice a wrong model ({", ".join(unnoticed)}) in its negative controls: it '
                             'proves nothing for these weights')
  return result


class _FirstRow:
  """What the encoder's outputs should be for the batch's first row."""

  def __init__(self, expected: expected_lib.Expected):
    self._expected = expected

  def of(self, name: str, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    value = self._expected.of(name, outputs)
    return value[:1] if name.endswith('/pooled_output') else value[self._expected.rows == 0]


def _mistakes(variables: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[Any, np.ndarray]]]]:
  """Each mistake with the variables that it changes, and to what."""
  block = 'transformer'

  def swapped(one: str, other: str) -> list[tuple[Any, np.ndarray]]:
    return [(variables[one], variables[other].numpy()), (variables[other], variables[one].numpy())]

  def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> list[tuple[Any, np.ndarray]]:
    value = variables[name].numpy()
    return [(variables[name], change(value))]

  yield 'query and key swapped', swapped(f'{block}/self_attention/query/kernel', f'{block}/self_attention/key/kernel')
  yield 'layer norms swapped', [
      change for part in ('gamma', 'beta')
      for change in swapped(f'{block}/self_attention_layer_norm/{part}', f'{block}/output_layer_norm/{part}')]
  yield 'value kernel transposed', changed(
      f'{block}/self_attention/value/kernel', lambda v: v.reshape(len(v), -1).T.reshape(v.shape))
  yield 'word embedding shifted by a row', changed('word_embeddings/embeddings', lambda v: np.roll(v, 1, axis=0))
