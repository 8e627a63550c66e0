"""The proof that an exported encoder computes what its source does: the comparison passes, and fails for wrong encoders."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from converters import errors
from export import parity


class Exported:
  """An exported encoder, loaded from its files."""

  def __init__(self, path: pathlib.Path, interface: str):
    """Loads it.

    Args:
      path: the SavedModel.
      interface: 'dict' or 'list'.
    """
    import tensorflow as tf
    self._loaded = tf.saved_model.load(os.fspath(path))
    self._interface = interface
    self.variables = {v.name.removesuffix(':0'): v for v in self._loaded.variables}

  def outputs(self, batch: parity.Batch, signatures: Sequence[str]) -> dict[str, np.ndarray]:
    """Runs the encoder, and its heads, on a batch.

    Args:
      batch: the inputs.
      signatures: 'tokens' for the encoder itself, 'mlm' and 'sop' for its heads, and 'serving_default'.

    Returns:
      float32 outputs under the names that the source's have: 'tokens/pooled_output' and so on; and the encoder's layers as
      'tokens/layer_0' and so on, what `serving_default` gives as 'serving_default/pooled_output' and so on, and `default` as
      'default/pooled_output'.
    """
    import tensorflow as tf
    inputs = {name: tf.constant(getattr(batch, name)) for name in ('input_word_ids', 'input_mask', 'input_type_ids')}
    again: dict[str, np.ndarray] = {}
    if 'serving_default' in signatures:
      served = self._loaded.signatures['serving_default'](**inputs)
      again = {f'serving_default/{name}': served[name].numpy() for name in ('pooled_output', 'sequence_output')}
      again['default/pooled_output'] = served['default'].numpy()
    result: dict[str, np.ndarray] = {}
    if self._interface == 'list':
      values = self._loaded(list(inputs.values()))
      for name, value in zip(('pooled_output', 'sequence_output'), values, strict=True):
        result[f'tokens/{name}'] = value.numpy()
      return result | again
    with_positions = dict(inputs, masked_lm_positions=tf.constant(batch.masked_lm_positions))
    for signature in (s for s in signatures if s != 'serving_default'):
      call = self._loaded if signature == 'tokens' else getattr(self._loaded, signature)
      values = call(with_positions if signature == 'mlm' else inputs)
      result |= {f'{signature}/{name}': values[name].numpy() for name in parity.COMPARED if name in values}
      if signature == 'tokens':
        again['default/pooled_output'] = values['default'].numpy()
        result |= {f'tokens/layer_{i}': value.numpy() for i, value in enumerate(values['encoder_outputs'])}
    return result | again


@dataclasses.dataclass(frozen=True)
class Control:
  """A wrong conversion, and how far it is from the reference.

  Attributes:
    export: distance of the output that is furthest beyond what is allowed.
    allowed: what it was allowed.
  """
  export: parity.Distance
  allowed: parity.Distance


def run_controls(exported: Exported, batch: parity.Batch, expected: parity.Expected,
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
  row = parity.Batch(*(value[:1] for value in dataclasses.astuple(batch)))
  positions = expected.rows == 0
  length = batch.input_mask.shape[1]
  right = {'pooled_output': expected.pooled_output[:1], 'sequence_output': expected.layers[-1][positions]}
  right |= {f'layer_{number}': layer[positions] for number, layer in enumerate(expected.layers)}
  theirs = {name: source[f'tokens/{name}'].reshape(-1, value.shape[-1])[:1 if name == 'pooled_output' else length]
            for name, value in right.items() if f'tokens/{name}' in source}
  result: dict[str, Control] = {}
  unnoticed = []
  for name, changes in _mistakes(exported.variables):
    before = [(variable, variable.numpy()) for variable, _ in changes]
    try:
      for variable, value in changes:
        variable.assign(value)
      outputs = exported.outputs(row, ['tokens'])
    finally:
      for variable, value in before:
        variable.assign(value)
    checks = [parity.verdict(value, right[output], outputs[f'tokens/{output}'][0], right[output])
              for output, value in theirs.items() if f'tokens/{output}' in outputs]
    failed = [check for check in checks if not (check.passes or check.export.within(check.allowed))]
    if failed:
      worst = max(failed, key=lambda check: check.export.rms / check.allowed.rms)
      result[name] = Control(worst.export, worst.allowed)
    else:
      unnoticed.append(name)
  if unnoticed:
    raise errors.ParityError(f'the comparison does not notice a wrong model ({", ".join(unnoticed)}) in its negative controls: it '
                             'proves nothing for these weights')
  return result


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


@dataclasses.dataclass(frozen=True)
class Certificate:
  """The proof that an export computes what its source does.

  Attributes:
    outputs: the checks by output, the layers as 'layer_0' and so on.
    controls: the wrong conversions that failed them, as they must.
  """
  outputs: dict[str, parity.Check]
  controls: dict[str, Control]

  def as_json(self) -> dict[str, Any]:
    """For the record: figures with three digits."""
    def rounded(value: Any) -> Any:
      if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
      return float(f'{value:.2e}') if isinstance(value, float) else value
    return rounded(dataclasses.asdict(self))


def certify(path: pathlib.Path, interface: str, batch: parity.Batch, signatures: Sequence[str], expected: parity.Expected,
            source_outputs: Callable[[], Mapping[str, np.ndarray]]) -> Certificate:
  """Loads an exported encoder, compares it with its source, and sees the comparison fail for wrong ones.

  Args:
    path: the SavedModel.
    interface: 'dict' or 'list'.
    batch: the inputs.
    signatures: what to compare.
    expected: what the outputs should be.
    source_outputs: gives the source's; called when the export's are there, since the source is run beside.

  Raises:
    ParityError: the export differs, or a wrong one would not.
  """
  exported = Exported(path, interface)
  outputs = exported.outputs(batch, [*signatures, 'serving_default'])
  theirs = dict(source_outputs())
  shown = sum('/layer_' in name for name in theirs)
  if interface == 'list' or shown != len(expected.layers):  # not given by the export, or not found in the source's graph
    theirs = {name: value for name, value in theirs.items() if '/layer_' not in name}
  # What the export gives once more: as `default`, and through its signature.
  theirs |= {name: theirs[f'tokens/{name.rpartition("/")[2]}'] for name in outputs
             if name.startswith(('default/', 'serving_default/'))}
  checks = parity.compare(theirs, outputs, expected, batch.input_mask)
  return Certificate(checks, run_controls(exported, batch, expected, theirs))
