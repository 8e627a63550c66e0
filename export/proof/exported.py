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
    values: how many numbers those are.
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
    self.values = sum(v.shape.num_elements() for v in self._loaded.variables)

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
      with as_it_stands():
        served = self._loaded.signatures['serving_default'](**_tensors(batch))
      again = {f'serving_default/{name}': served[name].numpy() for name in ('pooled_output', 'sequence_output')}
      again['default/pooled_output'] = served['default'].numpy()
    encoded: Mapping[str, Any] | None = None
    for signature in (s for s in signatures if s != 'serving_default'):
      values = self._head(signature, batch, encoded) if encoded is not None and not training else None
      if values is None:
        values = self._call(signature, batch, training)
      if signature == 'tokens':
        encoded = values
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
    with as_it_stands(), tf.GradientTape() as tape:
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
    head = _body(self._loaded.sop, scalar.training)
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
    with as_it_stands():
      return gradient()

  def _head(self, signature: str, batch: batch_lib.Batch, encoded: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Runs a head on what the encoder has given for the same batch, if the head begins by calling that very function.

    Args:
      signature: 'mlm' or 'sop'.
      batch: the inputs.
      encoded: the encoder's outputs.

    Returns:
      The outputs, as `_call` would give them; None for a head that is made otherwise.
    """
    import tensorflow as tf
    from tensorflow.core.framework import graph_pb2
    encoder, head = (_function(piece, False) for piece in (self._loaded, self._piece(signature)))
    graph = head.graph.as_graph_def()
    calls = _calls(graph, encoder)
    given = {**_tensors(batch), 'masked_lm_positions': tf.constant(batch.masked_lm_positions)}

    def values(function: Any) -> dict[str, Any]:
      """What each of its placeholders stands for: an input, or a variable's handle."""
      own = len(function.inputs) - len(function.captured_inputs)
      handles = dict(zip((p.name for p in function.inputs[own:]), function.captured_inputs, strict=True))
      return {p.name: handles.get(p.name, given.get(_name(p))) for p in function.inputs}

    theirs, ours = values(head), list(values(encoder).values())
    if any(value is None for value in (*theirs.values(), *ours)) or any(
        name != spec.name for name, spec in head.structured_input_signature[0][0].items()):
      return None  # a call might give it other inputs than those that are called the same here
    if len(calls) != 1 or [id(theirs.get(f'{name}:0')) for name in calls[0].input] != [id(value) for value in ours]:
      return None
    results = tf.nest.flatten(encoded)
    available = {name.removesuffix(':0'): value for name, value in theirs.items()}
    available |= {f'{calls[0].name}:{number}' if number else calls[0].name: value for number, value in enumerate(results)}
    if len(results) != len(encoder.outputs):
      return None

    rest = [node for node in graph.node if node.name not in available]
    used = {tensor for node in rest for tensor in node.input}
    for node in rest:
      node.input[:] = [tensor for tensor in node.input if tensor != f'^{calls[0].name}']
    part = graph_pb2.GraphDef(node=rest, versions=graph.versions, library=graph.library)

    @tf.function(autograph=False)
    def run() -> Any:
      replaced = {name: tf.identity(value) for name, value in available.items() if name in used}
      outputs = tf.graph_util.import_graph_def(part, replaced, [output.name for output in head.outputs])
      return tf.nest.pack_sequence_as(head.structured_outputs, outputs)
    with as_it_stands():
      return run()

  def _piece(self, signature: str) -> Any:
    return self._loaded if signature == 'tokens' else getattr(self._loaded, signature)

  def _call(self, signature: str, batch: batch_lib.Batch, training: bool) -> Mapping[str, Any]:
    import tensorflow as tf
    inputs = _tensors(batch)
    with as_it_stands():
      if self._interface == 'list':
        return dict(zip(_OUTPUTS, self._loaded(list(inputs.values()), training=training), strict=False))
      if signature == 'mlm':
        inputs['masked_lm_positions'] = tf.constant(batch.masked_lm_positions)
      return self._piece(signature)(inputs, training=training)


def _function(piece: Any, training: bool) -> Any:
  """The function of a mode that a call of an exported piece runs."""
  return next(f for f in piece.__call__.concrete_functions if f.structured_input_signature[0][1] is training)


def _body(piece: Any, training: bool) -> Any:
  """The same; or the other mode's, if all that it does is to call that one with what it is given."""
  function, other = _function(piece, training), _function(piece, not training)
  graph = function.graph.as_graph_def()
  nodes, calls = {node.name: node for node in graph.node}, _calls(graph, other)
  if len(calls) != 1 or list(calls[0].input) != [placeholder.op.name for placeholder in function.inputs] or (
      [id(value) for value in function.captured_inputs] != [id(value) for value in other.captured_inputs]):
    return function
  results = [f'{calls[0].name}:{number}' if number else calls[0].name for number in range(len(other.outputs))]
  return other if [nodes[output.op.name].input[0] for output in function.outputs] == results else function


def _calls(graph: Any, function: Any) -> list[Any]:
  """The nodes of a graph that call a function."""
  return [node for node in graph.node if 'f' in node.attr and node.attr['f'].func.name == function.name.decode()]


def _name(variable: Any) -> str:
  return variable.name.removesuffix(':0')


def _tensors(batch: batch_lib.Batch) -> dict[str, Any]:
  import tensorflow as tf
  return {name: tf.constant(getattr(batch, name)) for name in _INPUTS}


def _scalar(outputs: Mapping[str, Any], factors: Mapping[str, np.ndarray]) -> Any:
  import tensorflow as tf
  return tf.add_n([tf.reduce_sum(outputs[name] * value) for name, value in factors.items()])


@contextlib.contextmanager
def as_it_stands() -> Iterator[None]:
  """Runs graphs without rewriting them, which for a single run takes longer than it saves. A setting of the whole process."""
  import tensorflow as tf
  before = tf.config.optimizer.get_experimental_options().get('disable_meta_optimizer', False)
  tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': True})
  try:
    yield
  finally:
    tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': before})
