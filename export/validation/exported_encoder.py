"""Loads an exported encoder from its files and calls it as users do."""

import collections
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from converters import errors
from converters import interface as interface_lib
from converters.reference import inputs as proof_inputs
from export.graphs import functions as graph_functions
from export.graphs import graph_defs
from export.graphs import op_allow_list
from export.graphs import widen


class Exported:
  """An encoder loaded from its exported files.

  Attributes:
    loaded: the loaded SavedModel.
    variables: variables of the encoder, by name.
    functions: functions of 'tokens', 'padding_free', 'mlm' and 'sop', by name and training mode.
  """

  def __init__(self, path: pathlib.Path, interface: str, widened: bool = False):
    """Loads the encoder.

    Args:
      path: directory of the SavedModel.
      interface: 'dict' or 'list'.
      widened: whether to load it in float64.

    Raises:
      UntrustedGraphError: the graph has an operation that is not on the allow-list.
      ParityError: the graph cannot be widened; names the operation.
    """
    if not widened:
      self.loaded = op_allow_list.load(path)
    else:
      op_allow_list.check(path)
      with _in_float64(path):
        self.loaded = widen.load(path)
    self._path, self._interface, self._widened = path, interface, widened
    self.variables = {_name(v): v for v in self.loaded.variables}
    # Before any differentiation, which changes the functions' graphs.
    self.functions = _functions(
      {
        name: self._piece(name)
        for name in (*interface_lib.SIGNATURES, interface_lib.PADDING_FREE)
        if name == 'tokens' or hasattr(self.loaded, name)
      }
    )
    self._signatures = {
      name: graph_functions.Function.of(self.loaded.signatures[name])
      for name in interface_lib.SERVING
      if name in self.loaded.signatures
    }
    self._first_layer: Callable[[Mapping[str, Any]], list[Any]] | None = None

  def outputs(
    self, batch: proof_inputs.Batch, signatures: Sequence[str], training: bool = False
  ) -> dict[str, np.ndarray]:
    """Runs the encoder and its heads on a batch.

    Args:
      batch: the inputs.
      signatures: 'tokens' for the encoder, 'padding_free' for its padding-free call, 'mlm' and 'sop' for its heads, and
        'serving_default' and 'serving_padding_free'.
      training: whether to run the training mode, which the serving signatures do not have.

    Returns:
      Outputs under the source's names: 'tokens/pooled_output' and so on, layers as 'tokens/layer_0' and so on. Outputs
      of the signatures are 'serving_default/pooled_output' and so on. The output `default` of a call is
      'default/tokens/pooled_output' and so on. Missing outputs are left out.

    Raises:
      ParityError: an operation cannot be run in float64; names it.
    """
    result: dict[str, np.ndarray] = {}
    encoded = dict[str, Mapping[str, Any]]()
    for signature in (s for s in signatures if s == 'tokens' or hasattr(self.loaded, s)):
      values = self._head(signature, batch, encoded['tokens']) if 'tokens' in encoded else None
      if values is None:
        values = self.call(signature, batch, training)
      if not training:
        encoded[signature] = values
      result |= self._named(signature, values)
    for signature in (s for s in signatures if s in interface_lib.SERVING):
      served = self._served(signature, batch, encoded.get(interface_lib.SERVING[signature]))
      result |= {
        f'{signature}/{name}': served[name].numpy() for name in interface_lib.ENCODER_OUTPUTS if name in served
      }
      if 'default' in served:
        result[f'default/{signature}/pooled_output'] = served['default'].numpy()
    return result

  def stopped_gradients(self) -> list[str]:
    """Returns the names of nodes that stop or change a gradient.

    The mean of a layer norm does not count, because its derivative is zero. In a graph without such nodes, the
    derivatives follow from the outputs.
    """
    saved_model = graph_defs.read(self._path / 'saved_model.pb')
    found = []
    for meta_graph in saved_model.meta_graphs:
      for nodes in (
        meta_graph.graph_def.node,
        *(function.node_def for function in meta_graph.graph_def.library.function),
      ):
        read_by = collections.defaultdict[str, set[str]](set)
        for node in nodes:
          for tensor in node.input:
            read_by[graph_defs.node_name(tensor)].add(node.op)
        found += [
          node.name for node in nodes if node.op == 'StopGradient' and read_by[node.name] != {'SquaredDifference'}
        ]
        found += [node.name for node in nodes if node.attr['_gradient_op_type'].s.startswith(b'CustomGradient')]
    return found

  def modes_are_one(self, signature: str) -> bool:
    """Returns whether the training mode of 'tokens', 'mlm' or 'sop' only calls the inference mode, by its graph."""
    calm, training = (self.functions.get((signature, mode)) for mode in (False, True))
    return calm is not None and training is not None and _only_calls(training, calm)

  def _named(self, signature: str, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    result = {f'{signature}/{name}': values[name].numpy() for name in interface_lib.OUTPUT_NAMES if name in values}
    result |= {f'{signature}/layer_{i}': value.numpy() for i, value in enumerate(values.get('encoder_outputs', ()))}
    if 'default' in values:
      result[f'default/{signature}/pooled_output'] = values['default'].numpy()
    return result

  def first_layer(self, batch: proof_inputs.Batch) -> dict[str, np.ndarray]:
    """Runs the encoder on a batch up to its first layer.

    Returns:
      The first layer under its name in `outputs`; empty for a model without layer outputs, or if the inputs cannot be
      matched by name.
    """
    encoder = self.functions.get(('tokens', False))
    if self._interface == 'list' or encoder is None or not encoder.named:
      return {}
    if self._first_layer is None:
      part, layer = graph_functions.upto(encoder, encoder.pack(encoder.outputs)['encoder_outputs'][0])
      self._first_layer = graph_functions.runner(part, [layer])
    with as_it_stands(), self._running():
      return {'tokens/layer_0': self._first_layer(encoder.values(_tensors(batch)))[0].numpy()}

  def gradient(
    self, scalar: proof_inputs.Scalar, signature: str | None = None
  ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Differentiates a scalar of the outputs.

    Args:
      scalar: the scalar and its inputs.
      signature: the call that has the scalar's outputs; None for `scalar.signature`.

    Returns:
      The derivatives by variable name, as dense tensors with the variables' shapes; and the differentiated outputs
      under their names in `outputs`, without those of the head `sop`.

    Raises:
      ParityError: a trainable variable has no derivative, or an operation cannot be run in float64.
    """
    import tensorflow as tf

    signature = signature or scalar.signature
    with as_it_stands(), self._running(), tf.GradientTape(watch_accessed_variables=False) as tape:
      variables = self._piece(signature).trainable_variables
      tape.watch(variables)
      outputs = self.call(signature, scalar.batch, scalar.training)
      value = _scalar(outputs, {name: f for name, f in scalar.factors.items() if name != 'sop_log_probs'})
      derivatives = dict(zip(map(_name, variables), tape.gradient(value, variables), strict=True))
    if 'sop_log_probs' in scalar.factors:
      head = {_name(v): v for v in self.loaded.sop.trainable_variables if _name(v) not in derivatives}
      derivatives |= zip(head, self._gradient_of_sop_head(scalar, list(head.values())), strict=True)
    without = [name for name in derivatives if derivatives[name] is None]
    if without:
      raise errors.ParityError(f'encoder: no gradient by {", ".join(without)}; report this fault of the conversion')
    return {name: tf.convert_to_tensor(value) for name, value in derivatives.items()}, self._named(signature, outputs)

  def _gradient_of_sop_head(self, scalar: proof_inputs.Scalar, variables: list[Any]) -> list[Any]:
    """Differentiates by the head's own variables, without a second backward pass through the encoder."""
    import tensorflow as tf

    calm, head = (self.functions.get(('sop', training)) for training in (False, scalar.training))
    if calm is not None and head is not None and _only_calls(head, calm):
      head = calm
    if head is None or not head.named:
      raise errors.ParityError(
        'sop head: no gradient (it has several calls, or other input names than its graph); report this fault of the '
        'conversion'
      )
    position = {id(value): number for number, value in enumerate(head.captured)}

    @tf.function(autograph=False)
    def gradient() -> list[Any]:
      # A tape would differentiate the whole call. The imported graph has its operations one by one.
      captured = [tf.identity(value) for value in head.captured]
      values = dataclasses.replace(head, captured=captured).values(_tensors(scalar.batch))
      (log_probs,) = tf.graph_util.import_graph_def(head.graph, values, [head.pack(head.outputs)['sop_log_probs']])
      value = _scalar({'sop_log_probs': log_probs}, {'sop_log_probs': scalar.factors['sop_log_probs']})
      return tf.gradients(value, [captured[position[id(variable.handle)]] for variable in variables])

    with as_it_stands(), self._running():
      return gradient()

  def _served(self, signature: str, batch: proof_inputs.Batch, encoded: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Runs a serving signature, or reuses the outputs of the call that it only passes on."""
    import tensorflow as tf

    served, call, given = (
      self._signatures.get(signature),
      self.functions.get((interface_lib.SERVING[signature], False)),
      _tensors(batch),
    )
    passed_on = graph_functions.passed_on(served, call) if served and call and encoded is not None else None
    if served and call and passed_on is not None:
      theirs, ours = (list(function.values(given).values()) for function in (served, call))
      if all(value is not None for value in (*theirs, *ours)) and [id(theirs[number]) for number in passed_on[0]] == [
        id(value) for value in ours
      ]:
        results = tf.nest.flatten(encoded)
        return served.pack(results[number] for number in passed_on[1])
    if served is None:
      return {}
    with as_it_stands(), self._running():
      return self.loaded.signatures[signature](**given)

  def _head(self, signature: str, batch: proof_inputs.Batch, encoded: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Runs a head on the encoder's outputs of the batch, if the head begins with a call of the encoder.

    Args:
      signature: 'mlm' or 'sop'.
      batch: the inputs.
      encoded: outputs of the encoder for the batch.

    Returns:
      The outputs, as `call` returns them; None for any other head.
    """
    import tensorflow as tf

    encoder, head = (self.functions.get((name, False)) for name in ('tokens', signature))
    if encoder is None or head is None:
      return None
    given = {**_tensors(batch), 'masked_lm_positions': tf.constant(batch.masked_lm_positions)}
    theirs, ours, calls = head.values(given), encoder.values(given).values(), graph_functions.calls(head, encoder)
    if any(value is None for value in (*theirs.values(), *ours)):
      return None
    if len(calls) != 1 or [id(theirs.get(name)) for name in calls[0].input] != [id(value) for value in ours]:
      return None
    (call,) = calls
    results = {
      f'{call.name}:{number}' if number else call.name: value for number, value in enumerate(tf.nest.flatten(encoded))
    }
    with as_it_stands(), self._running():
      return head.pack(
        graph_functions.runner(graph_functions.after(head, call, theirs | results), head.outputs)(theirs | results)
      )

  def _piece(self, signature: str) -> Any:
    return self.loaded if signature == 'tokens' else getattr(self.loaded, signature)

  def call(self, signature: str, batch: proof_inputs.Batch, training: bool) -> Mapping[str, Any]:
    """Calls 'tokens', 'padding_free', 'mlm' or 'sop' on a batch, and returns the outputs by name."""
    import tensorflow as tf

    inputs = _tensors(batch)
    with as_it_stands(), self._running():
      if self._interface == 'list':
        return dict(
          zip(interface_lib.OUTPUT_NAMES, self.loaded(list(inputs.values()), training=training), strict=False)
        )
      if signature == 'mlm':
        inputs['masked_lm_positions'] = tf.constant(batch.masked_lm_positions)
      return self._piece(signature)(inputs, training=training)

  def _running(self) -> contextlib.AbstractContextManager[None]:
    return _in_float64(self._path) if self._widened else contextlib.nullcontext()


@contextlib.contextmanager
def _in_float64(path: pathlib.Path) -> Iterator[None]:
  """Turns a failure in float64 into a ParityError that names the operation."""
  import tensorflow as tf

  try:
    yield
  except (tf.errors.OpError, ValueError, TypeError) as e:
    line = next((line for line in str(e).splitlines() if line.strip()), type(e).__name__)
    raise errors.ParityError(
      f'{path.parent.name}/{path.name}: cannot be run in float64 ({line}); report the operation'
    ) from e


def _functions(pieces: Mapping[str, Any]) -> dict[tuple[str, bool], graph_functions.Function]:
  """Returns the functions of exported pieces by name and training mode, for modes with exactly one function."""
  result = {}
  for name, piece in pieces.items():
    for training in (False, True):
      found = [f for f in piece.__call__.concrete_functions if f.structured_input_signature[0][1] == training]
      if len(found) == 1:
        result[name, training] = graph_functions.Function.of(found[0])
  return result


def _only_calls(function: graph_functions.Function, other: graph_functions.Function) -> bool:
  """Returns whether a function only calls another one with its own arguments."""
  everything = list(range(len(other.inputs))), list(range(len(other.outputs)))
  same = [id(value) for value in function.captured] == [id(value) for value in other.captured]
  return same and graph_functions.passed_on(function, other) == everything


def _name(variable: Any) -> str:
  return variable.name.removesuffix(':0')


def _tensors(batch: proof_inputs.Batch) -> dict[str, Any]:
  import tensorflow as tf

  return {name: tf.constant(getattr(batch, name)) for name in interface_lib.ENCODER_INPUTS}


def _scalar(outputs: Mapping[str, Any], factors: Mapping[str, np.ndarray]) -> Any:
  import tensorflow as tf

  return tf.add_n(
    [tf.reduce_sum(outputs[name] * tf.cast(value, outputs[name].dtype)) for name, value in factors.items()]
  )


@contextlib.contextmanager
def as_it_stands() -> Iterator[None]:
  """Disables graph rewriting for the whole process; for a single run, it takes longer than it saves."""
  import tensorflow as tf

  before = tf.config.optimizer.get_experimental_options().get('disable_meta_optimizer', False)
  tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': True})
  try:
    yield
  finally:
    tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': before})
