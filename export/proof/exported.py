"""An exported encoder, loaded from its files and called as its users call it."""

import contextlib
import pathlib
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from converters import errors
from export.proof import artifact
from export.proof import batch as batch_lib

_INPUTS = ('input_word_ids', 'input_mask', 'input_type_ids')
_OUTPUTS = ('pooled_output', 'sequence_output', 'mlm_logits', 'sop_log_probs')


class Exported:
  """An exported encoder, loaded from its files.

  Attributes:
    variables: the encoder's, by name.
  """

  def __init__(self, path: pathlib.Path, interface: str):
    """Loads it.

    Args:
      path: the SavedModel.
      interface: 'dict' or 'list'.

    Raises:
      UntrustedGraphError: it has operations that no export has.
    """
    self._loaded = artifact.load(path)
    self._interface = interface
    self.variables = {_name(v): v for v in self._loaded.variables}

  def outputs(self, batch: batch_lib.Batch, signatures: Sequence[str], training: bool = False) -> dict[str, np.ndarray]:
    """Runs the encoder, and its heads, on a batch.

    Args:
      batch: the inputs.
      signatures: 'tokens' for the encoder itself, 'mlm' and 'sop' for its heads, and 'serving_default'.
      training: whether to run them as in training; the last is never.

    Returns:
      float32 outputs under the names that the source's have: 'tokens/pooled_output' and so on; and the encoder's layers as
      'tokens/layer_0' and so on, what `serving_default` gives as 'serving_default/pooled_output' and so on, and `default` as
      'default/pooled_output'.
    """
    result: dict[str, np.ndarray] = {}
    again: dict[str, np.ndarray] = {}
    if 'serving_default' in signatures:
      with _as_it_stands():
        served = self._loaded.signatures['serving_default'](**_tensors(batch))
      again = {f'serving_default/{name}': served[name].numpy() for name in ('pooled_output', 'sequence_output')}
      again['default/pooled_output'] = served['default'].numpy()
    for signature in (s for s in signatures if s != 'serving_default'):
      values = self._call(signature, batch, training)
      result |= {f'{signature}/{name}': values[name].numpy() for name in _OUTPUTS if name in values}
      if signature == 'tokens' and self._interface == 'dict':
        again['default/pooled_output'] = values['default'].numpy()
        result |= {f'tokens/layer_{i}': value.numpy() for i, value in enumerate(values['encoder_outputs'])}
    return result | again

  def gradient(self, scalar: batch_lib.Scalar) -> dict[str, Any]:
    """Differentiates a scalar of the outputs.

    Returns:
      The derivatives by variable name, dense float32 tensors of the variables' shapes.

    Raises:
      ParityError: a trainable variable has no derivative.
    """
    import tensorflow as tf
    with _as_it_stands(), _summed_in_pairs(), tf.GradientTape() as tape:
      outputs = self._call(scalar.signature, scalar.batch, scalar.training)
      value = _scalar(outputs, {name: f for name, f in scalar.factors.items() if name != 'sop_log_probs'})
      variables = self._piece(scalar.signature).trainable_variables
      derivatives = dict(zip(map(_name, variables), tape.gradient(value, variables), strict=True))
    if 'sop_log_probs' in scalar.factors:
      head = {_name(v): v for v in self._loaded.sop.trainable_variables if _name(v) not in derivatives}
      derivatives |= zip(head, self._gradient_of_sop_head(scalar, list(head.values())), strict=True)
    without = [name for name in derivatives if derivatives[name] is None]
    if without:
      raise errors.ParityError(f'no gradient by {", ".join(without)} in the encoder: it would not train, the conversion is at fault')
    return {name: tf.convert_to_tensor(value) for name, value in derivatives.items()}

  def _gradient_of_sop_head(self, scalar: batch_lib.Scalar, variables: list[Any]) -> list[Any]:
    """Differentiates by the head's own variables, without going back through the encoder for a second time."""
    import tensorflow as tf
    head = next(f for f in self._loaded.sop.__call__.concrete_functions if f.structured_input_signature[0][1] is scalar.training)
    position = {id(value): number for number, value in enumerate(head.captured_inputs)}

    @tf.function(autograph=False)
    def gradient() -> list[Any]:
      # A tape would see one call, and differentiate everything in it. Here its operations stand one by one.
      given = _tensors(scalar.batch)
      captured = [tf.identity(value) for value in head.captured_inputs]
      values = [*(given[_name(placeholder)] for placeholder in head.inputs[:len(given)]), *captured]
      output = tf.nest.pack_sequence_as(head.structured_outputs, head.outputs)['sop_log_probs']
      log_probs, = tf.graph_util.import_graph_def(
          head.graph.as_graph_def(), {p.name: value for p, value in zip(head.inputs, values, strict=True)}, [output.name])
      value = _scalar({'sop_log_probs': log_probs}, {'sop_log_probs': scalar.factors['sop_log_probs']})
      return tf.gradients(value, [captured[position[id(variable.handle)]] for variable in variables])
    with _as_it_stands():
      return gradient()

  def _piece(self, signature: str) -> Any:
    return self._loaded if signature == 'tokens' else getattr(self._loaded, signature)

  def _call(self, signature: str, batch: batch_lib.Batch, training: bool) -> Mapping[str, Any]:
    import tensorflow as tf
    inputs = _tensors(batch)
    with _as_it_stands():
      if self._interface == 'list':
        return dict(zip(_OUTPUTS, self._loaded(list(inputs.values()), training=training), strict=False))
      if signature == 'mlm':
        inputs['masked_lm_positions'] = tf.constant(batch.masked_lm_positions)
      return self._piece(signature)(inputs, training=training)


def _name(variable: Any) -> str:
  return variable.name.removesuffix(':0')


def _tensors(batch: batch_lib.Batch) -> dict[str, Any]:
  import tensorflow as tf
  return {name: tf.constant(getattr(batch, name)) for name in _INPUTS}


def _scalar(outputs: Mapping[str, Any], factors: Mapping[str, np.ndarray]) -> Any:
  import tensorflow as tf
  return tf.add_n([tf.reduce_sum(outputs[name] * value) for name, value in factors.items()])


@contextlib.contextmanager
def _as_it_stands() -> Iterator[None]:
  import tensorflow as tf
  before = tf.config.optimizer.get_experimental_options().get('disable_meta_optimizer', False)
  tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': True})
  try:
    yield
  finally:
    tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': before})


@contextlib.contextmanager
def _summed_in_pairs() -> Iterator[None]:
  """A shared block's variables have one derivative a layer: summed in pairs, they are not all held at once.

  For ALBERT-xxlarge that makes a peak of 4.8 GB of 12.2.
  """
  import tensorflow as tf
  default = tf.AggregationMethod.DEFAULT
  tf.AggregationMethod.DEFAULT = tf.AggregationMethod.EXPERIMENTAL_TREE
  try:
    yield
  finally:
    tf.AggregationMethod.DEFAULT = default
