"""A live ALBERT -> the object that is saved: its calls, its subobjects, its asset.

The contract is that of tensorflow/albert_en_*/2 and the Reusable SavedModel interface
(tensorflow.org/hub/reusable_saved_models).
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from official.nlp.modeling import layers

from converters import build_encoder
from export.model import transformer_block

_INPUTS = ('input_word_ids', 'input_mask', 'input_type_ids')
_Tensors = Mapping[str, Any]


def exportable(albert: build_encoder.Albert, sp_model_file: str, interface: str = 'dict') -> tuple[Any, dict[str, Any]]:
  """Makes the object to hand to `saved_model.write`.

  Args:
    albert: the model. Its transformer block is outlined in the process: use it for nothing else afterwards.
    sp_model_file: path of the SentencePiece model, which becomes an asset of that name.
    interface: 'dict' as below; or 'list', as in version 1 of the published models: root([input_word_ids, input_mask,
      segment_ids], training=False) returns [pooled_output, sequence_output], and there are no heads.

  Returns:
    The root object, and its signatures by name.

    root(inputs, training=False), where `inputs` is a dict of int32 [batch, seq] `input_word_ids`, `input_mask` and
    `input_type_ids`, returns a dict of float32 `pooled_output` [batch, H], `sequence_output` [batch, seq, H],
    `encoder_outputs`, a list of one [batch, seq, H] a layer, and `default`, the pooled output.
    root.mlm(inputs, training=False) takes `masked_lm_positions` int32 [batch, P] too, and returns `mlm_logits`
    [batch, P, V] too. root.sop returns `sop_log_probs` [batch, 2] too. Both are there only if `albert` has the head.
    root.sp_model_file is the asset.
  """
  outlined = Outlined(albert)
  specs = _specs()
  encode = traced(outlined.encode, specs, albert.config.has_dropout)

  @tf.function(input_signature=[specs[name] for name in _INPUTS], autograph=False)
  def serving_default(input_word_ids, input_mask, input_type_ids):
    outputs = encode.call(dict(zip(_INPUTS, (input_word_ids, input_mask, input_type_ids), strict=True)), False)
    return {name: outputs[name] for name in ('default', 'pooled_output', 'sequence_output')}

  signatures = {'serving_default': serving_default}

  if interface == 'list':

    def encode_list(inputs: Sequence[Any], training: bool) -> list[Any]:
      outputs = encode.call(dict(zip(_INPUTS, inputs, strict=True)), training)
      return [outputs['pooled_output'], outputs['sequence_output']]

    root = callable_object(traced(encode_list, list(specs.values()), encode.modes_differ), outlined.encoder.variables)
  else:
    root = callable_object(encode, outlined.encoder.variables)
  root.sp_model_file = tf.saved_model.Asset(sp_model_file)
  if interface == 'list':
    return root, signatures

  if albert.mlm_head is not None:
    mlm_head = albert.mlm_head

    def mlm(inputs: _Tensors, training: bool) -> dict[str, Any]:
      outputs = encode.call({name: inputs[name] for name in _INPUTS}, training)
      return dict(outputs, mlm_logits=mlm_head(outputs['sequence_output'], inputs['masked_lm_positions']))

    positions = tf.TensorSpec([None, None], tf.int32, name='masked_lm_positions')
    root.mlm = callable_object(
      traced(mlm, dict(specs, masked_lm_positions=positions), encode.modes_differ),
      _distinct(outlined.encoder.variables + mlm_head.variables),
    )

  if albert.sop_head is not None:
    sop_head = albert.sop_head

    def sop(inputs: _Tensors, training: bool) -> dict[str, Any]:
      outputs = encode.call(inputs, training)
      return dict(outputs, sop_log_probs=tf.nn.log_softmax(sop_head(outputs['pooled_output'])))

    root.sop = callable_object(
      traced(sop, specs, encode.modes_differ), _distinct(outlined.encoder.variables + sop_head.variables)
    )

  return root, signatures


def traces(root: Any, modes_differ: bool) -> 'Traced':
  """The traces of the encoder that `exportable` made with the 'dict' interface: whoever calls them puts none into the graph again."""
  return Traced(root.__call__, _specs(), modes_differ)


def _specs() -> dict[str, Any]:
  return {name: tf.TensorSpec([None, None], tf.int32, name=name) for name in _INPUTS}


class Outlined:
  """AlbertEncoder with its shared transformer block as one graph function per training mode, called once a layer.

  AlbertEncoder inlines the block L times, and Keras' own saving does so once more for every wrapper. The wiring around
  the block stays AlbertEncoder's own, but for how the mask and the type embeddings are computed.

  The block's kernels are read once, and handed on from layer to layer. Their derivatives go the same way back, and each
  layer adds its own: if the layers read the variables, all L derivatives would be held until their sum is made.
  Fine-tuning
  an ALBERT-xxlarge takes less than half the memory so.
  """

  def __init__(self, albert: build_encoder.Albert):
    self.encoder = albert.encoder
    self._training = False
    self._kernels: list[Any] = []  # as they are handed on
    block = self.encoder.get_layer('transformer')
    self._products = products = transformer_block.MatrixProducts(block)
    mask = next(layer for layer in self.encoder.layers if isinstance(layer, layers.SelfAttentionMask))
    mask.call = products.adder
    types = self.encoder.get_layer('type_embeddings')
    # AlbertEncoder's own is the only product of two matrices without a bias, and making code for its first one takes
    # oneDNN 25 ms.
    types.call = lambda ids: tf.matmul(tf.one_hot(ids, types.embeddings.shape[0]), types.embeddings)

    hidden = albert.config.hidden_size
    kernels = [tf.TensorSpec(kernel.shape) for kernel in products.kernels()]
    block_inputs = [tf.TensorSpec([None, None, hidden]), tf.TensorSpec([None, 1, 1, None]), kernels]

    # Takes what the last layer hands on. If nobody did, graph rewriting would make a function of its own of the last
    # call, and the first call of a model would wait for that.
    @_kept([tf.TensorSpec([None, hidden]), tf.TensorSpec([None, None, hidden]), kernels])
    def end(pooled_output, sequence_output, kernels):
      return pooled_output, sequence_output

    self._end = end

    # One function per mode: each is traced with its dropout, or without.
    def block_function(training: bool) -> Any:
      @_kept(block_inputs)
      def block(inputs, adder, kernels):
        return products.call(inputs, adder, kernels, training)

      return block

    functions = {training: block_function(training) for training in (False, True)}

    def call_block(inputs: Any) -> Any:
      # Each of L calls names what it captures and what it is handed: by the scope that it is in, which is therefore
      # short.
      with tf.name_scope('block/'):
        outputs, self._kernels = functions[self._training](*inputs, self._kernels)
        return outputs

    block.call = call_block

  def encode(self, inputs: _Tensors, training: bool) -> dict[str, Any]:
    self._training = training
    # All other variables of the block together are as large as a few rows of a kernel, and every one handed on is an
    # argument more of L calls.
    self._kernels = self._products.kernels()
    outputs = self.encoder([inputs[name] for name in _INPUTS], training=training)
    pooled_output, sequence_output = self._end(outputs['pooled_output'], outputs['sequence_output'], self._kernels)
    return dict(outputs, pooled_output=pooled_output, sequence_output=sequence_output, default=pooled_output)


def _kept(signature: list[Any]) -> Callable[[Callable[..., Any]], Any]:
  """Makes a function that stays a call, and is not inlined."""
  return tf.function(input_signature=signature, autograph=False, experimental_attributes={'_noinline': True})


@dataclasses.dataclass(frozen=True)
class Traced:
  """A tf.function with one trace per training mode.

  Attributes:
    function: what is saved.
    specs: of its inputs.
    modes_differ: whether what is computed depends on the mode.
  """

  function: Any
  specs: Any
  modes_differ: bool

  def call(self, inputs: Any, training: bool) -> Any:
    """Calls the trace that is saved. (Calling `function` on unnamed tensors would make another.)"""
    training = training and self.modes_differ
    return self.function.get_concrete_function(self.specs, training=training)(inputs, training=training)


def traced(call: Callable[[Any, bool], Any], specs: Any, modes_differ: bool) -> Traced:
  """Traces `call(inputs, training)` for inputs of these specs, once per training mode.

  If the modes do not differ, the trace for training only calls the other one: a quarter of an encoder's graph.
  """

  def with_default(inputs, training=False):
    if training and not modes_differ:
      return result.call(inputs, False)
    return call(inputs, training)

  with_default.__name__ = call.__name__  # what the function is called in the graph
  result = Traced(tf.function(with_default, autograph=False), specs, modes_differ)
  for training in (False, True):
    result.function.get_concrete_function(specs, training=training)
  return result


def callable_object(call: Traced, variables: list[Any]) -> Any:
  """An object that hub.KerasLayer can call and train."""
  result = tf.__internal__.tracking.AutoTrackable()
  result.__call__ = call.function
  result.variables = variables
  result.trainable_variables = [v for v in variables if v.trainable]
  result.regularization_losses = []
  return result


def _distinct(variables: list[Any]) -> list[Any]:
  """Without repetitions: MaskedLM lists the encoder's word embedding among its own variables."""
  return list({id(v): v for v in variables}.values())
