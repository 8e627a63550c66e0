"""Makes the object to save from an ALBERT in memory: its calls, subobjects and assets.

The contract is that of tensorflow/albert_en_*/2 and the Reusable SavedModel interface
(tensorflow.org/hub/reusable_saved_models).
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from converters import build_encoder
from converters import interface as interface_lib
from export import _tf_private
from export.model import padding_free
from export.model import transformer_block

_Tensors = Mapping[str, Any]


def exportable(
  albert: build_encoder.Albert, sp_model_file: str, interface: str = 'dict', config_file: str | None = None
) -> tuple[Any, dict[str, Any]]:
  """Makes the object for `saved_model.write`.

  Args:
    albert: the model.
    sp_model_file: path of the SentencePiece model, which becomes an asset of that name.
    interface: 'dict' as below; or 'list', as in version 1 of the published models: root([input_word_ids, input_mask,
      segment_ids], training=False) returns [pooled_output, sequence_output], and there are no heads.
    config_file: path of an albert_config.json, which becomes another asset; None for no such asset.

  Returns:
    The root object, and its signatures by name.

    root(inputs, training=False) takes a dict of int32 [batch, seq]: `input_word_ids`, `input_mask`, `input_type_ids`.
    It returns a dict of float32: `pooled_output` [batch, H], `sequence_output` [batch, seq, H], `encoder_outputs` (a
    list with one [batch, seq, H] for each layer) and `default` (the pooled output). A model without pooler has neither
    `pooled_output` nor `default`.
    root.padding_free(inputs, training=False) has the same inputs and outputs, with zeros at padding. It computes only
    positions where the mask is 1, and agrees with the root there. It exists with the 'dict' interface.
    root.mlm(inputs, training=False) has the additional input `masked_lm_positions` int32 [batch, P] and the additional
    output `mlm_logits` [batch, P, V]. root.sop has the additional output `sop_log_probs` [batch, 2]. Both exist only if
    `albert` has the head.
    root.sp_model_file and root.albert_config are the assets; each subobject has them too.
  """
  outlined = Outlined(albert)
  specs = _specs()
  encode = traced(outlined.encode, specs, albert.config.has_dropout)

  signatures = {'serving_default': _serving(encode)}

  if interface == 'list':

    def encode_list(inputs: Sequence[Any], training: bool) -> list[Any]:
      outputs = encode.call(dict(zip(interface_lib.ENCODER_INPUTS, inputs, strict=True)), training)
      return [outputs[name] for name in interface_lib.ENCODER_OUTPUTS]

    root = callable_object(traced(encode_list, list(specs.values()), encode.modes_differ), outlined.variables)
  else:
    root = callable_object(encode, outlined.variables)
  root.sp_model_file = tf.saved_model.Asset(sp_model_file)
  if config_file is not None:
    root.albert_config = tf.saved_model.Asset(config_file)
  if interface == 'list':
    return root, signatures

  encode_padding_free = traced(outlined.encode_padding_free, specs, encode.modes_differ)
  root.padding_free = callable_object(encode_padding_free, outlined.variables)
  signatures['serving_padding_free'] = _serving(encode_padding_free)

  if albert.mlm_head is not None:
    mlm_head = albert.mlm_head

    def mlm(inputs: _Tensors, training: bool) -> dict[str, Any]:
      outputs = encode.call({name: inputs[name] for name in interface_lib.ENCODER_INPUTS}, training)
      return dict(outputs, mlm_logits=mlm_head(outputs['sequence_output'], inputs['masked_lm_positions']))

    positions = tf.TensorSpec([None, None], tf.int32, name='masked_lm_positions')
    root.mlm = callable_object(
      traced(mlm, dict(specs, masked_lm_positions=positions), encode.modes_differ),
      _distinct(outlined.variables + mlm_head.variables),
    )

  if albert.sop_head is not None:
    sop_head = albert.sop_head

    def sop(inputs: _Tensors, training: bool) -> dict[str, Any]:
      outputs = encode.call(inputs, training)
      return dict(outputs, sop_log_probs=tf.nn.log_softmax(sop_head(outputs['pooled_output'])))

    root.sop = callable_object(
      traced(sop, specs, encode.modes_differ), _distinct(outlined.variables + sop_head.variables)
    )

  for part in [getattr(root, name) for name in ('padding_free', 'mlm', 'sop') if hasattr(root, name)]:
    share_assets(root, part)
  return root, signatures


def share_assets(encoder: Any, other: Any) -> None:
  """Gives an encoder's assets to another object of its weights.

  A Keras model of that object alone is then saved with them, and so is a source of this toolchain.
  """
  for name in ('sp_model_file', 'albert_config'):
    if hasattr(encoder, name):
      setattr(other, name, getattr(encoder, name))


def _serving(call: 'Traced') -> Any:
  """Returns the signature of a call of the encoder without dropout."""

  @tf.function(input_signature=list(_specs().values()), autograph=False)
  def serving(input_word_ids, input_mask, input_type_ids):
    inputs = dict(zip(interface_lib.ENCODER_INPUTS, (input_word_ids, input_mask, input_type_ids), strict=True))
    outputs = call.call(inputs, False)
    return {name: outputs[name] for name in interface_lib.served() if name in outputs}

  return serving


def traces(callable_: Any, modes_differ: bool) -> 'Traced':
  """Returns the traces of the encoder that `exportable` made with the 'dict' interface, or of its `padding_free`.

  A caller that uses them adds no further trace to the graph.
  """
  return Traced(callable_.__call__, _specs(), modes_differ)


def _specs() -> dict[str, Any]:
  return {name: tf.TensorSpec([None, None], tf.int32, name=name) for name in interface_lib.ENCODER_INPUTS}


class Outlined:
  """AlbertEncoder's computation, with each transformer block as one graph function per training mode.

  AlbertEncoder inlines its block L times, and Keras' own saving does so once more for every wrapper. Here a block is
  in the graph once, and called once a layer.

  A block's kernels are read once and passed from layer to layer. Their derivatives are passed back the same way, and
  each layer adds its own. If the layers read the variables, all L derivatives would be kept until their sum is made:
  fine-tuning an ALBERT-xxlarge would take more than twice the memory.

  Attributes:
    encoder: the AlbertEncoder, which owns the variables of embeddings, first block and pooler.
    variables: all variables of the encoder.
  """

  def __init__(self, albert: build_encoder.Albert):
    """Makes the graph functions of the blocks.

    Args:
      albert: a built model.
    """
    self.encoder = albert.encoder
    self.variables = _distinct([*albert.encoder.variables, *(v for block in albert.blocks for v in block.variables)])
    self._config = albert.config
    self._blocks = [transformer_block.MatrixProducts(block) for block in albert.blocks]
    hidden = albert.config.hidden_size
    self._functions = [_block_functions(block, hidden) for block in self._blocks]
    self._functions_of_rows = [_block_functions_of_rows(block, hidden) for block in self._blocks]
    kernels = [[tf.TensorSpec(kernel.shape) for kernel in block.kernels()] for block in self._blocks]

    # Uses the kernels that the last layers return. Without a use, graph rewriting would make a function of its own for
    # a block's last call, and the first call of a model would take longer.
    @_kept([tf.TensorSpec([None, hidden]), tf.TensorSpec([None, None, hidden]), kernels])
    def end(pooled_output, sequence_output, kernels):
      return pooled_output, sequence_output

    @_kept([tf.TensorSpec([None, None, hidden]), kernels])
    def end_without_pooler(sequence_output, kernels):
      return sequence_output

    self._end = end if albert.config.pooler else end_without_pooler

  def encode(self, inputs: _Tensors, training: bool) -> dict[str, Any]:
    """Computes the encoder.

    Args:
      inputs: int32 [batch, seq] by name.
      training: whether dropout is applied.

    Returns:
      The outputs of `exportable`'s root, by name.
    """
    x = self._embed(inputs, training)
    scores = transformer_block.score_mask(x, inputs['input_mask'])
    # Only the kernels: all other variables of a block together are as large as a few rows of one, and each would be
    # another argument of L calls.
    kernels = [block.kernels() for block in self._blocks]
    layers = []
    for number in self._config.block_of_layer:
      x, kernels[number] = self._run_block(number, x, scores, kernels[number], training)
      layers.append(x)
    return self._outputs(x[:, 0], layers, kernels)

  def encode_padding_free(self, inputs: _Tensors, training: bool) -> dict[str, Any]:
    """Computes the encoder without padding.

    Args:
      inputs: int32 [batch, seq] by name.
      training: whether dropout is applied.

    Returns:
      The outputs of `encode`, with zeros at padding.
    """
    packing = padding_free.Packing.of_mask(inputs['input_mask'])
    rows = self._embed_rows(packing, inputs, training)
    kernels = [block.kernels() for block in self._blocks]
    layers = []
    for number in self._config.block_of_layer:
      with tf.name_scope('block/'):
        run = self._functions_of_rows[number][training]
        rows, kernels[number] = run(rows, packing.places, packing.scores, kernels[number])
      layers.append(packing.unpack(rows))
    return self._outputs(tf.gather(rows, packing.first), layers, kernels)

  def _outputs(self, first: Any, layers: list[Any], kernels: list[Any]) -> dict[str, Any]:
    """Returns the outputs of a call.

    Args:
      first: the last layer at the first position of each text, [batch, H].
      layers: [batch, seq, H] each.
      kernels: those that the last layers returned.
    """
    if not self._config.pooler:
      return {'sequence_output': self._end(layers[-1], kernels), 'encoder_outputs': layers}
    pooled = self.encoder.get_layer('pooler_transform')(first)
    pooled, sequence = self._end(pooled, layers[-1], kernels)
    return {'pooled_output': pooled, 'sequence_output': sequence, 'encoder_outputs': layers, 'default': pooled}

  def _embed_rows(self, packing: padding_free.Packing, inputs: _Tensors, training: bool) -> Any:
    """Computes the input of the first layer without padding: float32 [tokens, H]."""
    layer = self.encoder.get_layer
    # A stack of inputs with different shapes is an error.
    tokens = tf.gather_nd(tf.stack([inputs[name] for name in interface_lib.ENCODER_INPUTS], axis=2), packing.positions)
    words = tf.gather(layer('word_embeddings').embeddings, tokens[:, 0])
    table = layer('type_embeddings').embeddings
    types = tf.matmul(tf.one_hot(tokens[:, 2], table.shape[0]), table)
    with tf.name_scope(f'at_most_{self._config.max_position_embeddings}_positions'):
      (table,) = layer('position_embedding').weights
      # A slice of this size is an error for a sequence that is too long, as in the plain call.
      positions = tf.gather(tf.slice(table, [0, 0], tf.stack([packing.sizes[1], -1])), packing.positions[:, 1])
    rows = transformer_block.norm(layer('embeddings/layer_norm'), words + positions + types)
    rows = next(dropout for dropout in self.encoder.layers if isinstance(dropout, tf_keras.layers.Dropout))(
      rows, training=training
    )
    if self._config.embedding_size == self._config.hidden_size:
      return rows
    projection = layer('embedding_projection')
    return transformer_block.product(projection, projection.kernel, rows)

  def _embed(self, inputs: _Tensors, training: bool) -> Any:
    """Computes the input of the first layer: float32 [batch, seq, H]."""
    layer = self.encoder.get_layer
    words = layer('word_embeddings')(inputs['input_word_ids'])
    table = layer('type_embeddings').embeddings
    # The layer's own call is the only product without a bias; oneDNN takes 25 ms to compile code for the first one.
    types = tf.matmul(tf.one_hot(inputs['input_type_ids'], table.shape[0]), table)
    # TensorFlow's error for a sequence that is too long has this name, and no other hint.
    with tf.name_scope(f'at_most_{self._config.max_position_embeddings}_positions'):
      positions = layer('position_embedding')(words)
    x = layer('embeddings/layer_norm')(words + positions + types)
    x = next(dropout for dropout in self.encoder.layers if isinstance(dropout, tf_keras.layers.Dropout))(
      x, training=training
    )
    projected = self._config.embedding_size != self._config.hidden_size
    return layer('embedding_projection')(x) if projected else x

  def _run_block(self, number: int, x: Any, scores: Any, kernels: list[Any], training: bool) -> tuple[Any, list[Any]]:
    # Each of L calls names its captures and arguments by the scope, which is therefore short.
    with tf.name_scope('block/'):
      return self._functions[number][training](x, scores, kernels)


def _block_functions(block: transformer_block.MatrixProducts, hidden: int) -> dict[bool, Any]:
  """Makes the graph functions of a block: one without dropout and one for training."""
  specs = [
    tf.TensorSpec([None, None, hidden]),
    tf.TensorSpec([None, 1, 1, None]),
    [tf.TensorSpec(kernel.shape) for kernel in block.kernels()],
  ]

  def function(training: bool) -> Any:
    @_kept(specs)
    def block_function(inputs, scores, kernels):
      return block.call(inputs, scores, kernels, training)

    return block_function

  return {training: function(training) for training in (False, True)}


def _block_functions_of_rows(block: transformer_block.MatrixProducts, hidden: int) -> dict[bool, Any]:
  """Makes the graph functions of a block for rows without padding."""
  specs = [
    tf.TensorSpec([None, hidden]),
    tf.TensorSpec([None, 2], tf.int32),
    tf.TensorSpec([None, 1, 1, None]),
    [tf.TensorSpec(kernel.shape) for kernel in block.kernels()],
  ]

  def function(training: bool) -> Any:
    @_kept(specs)
    def block_function_of_rows(rows, places, scores, kernels):
      return block.call_rows(rows, places, scores, kernels, training)

    return block_function_of_rows

  return {training: function(training) for training in (False, True)}


def _kept(signature: list[Any]) -> Callable[[Callable[..., Any]], Any]:
  """Makes a function whose calls are not inlined."""
  return tf.function(input_signature=signature, autograph=False, experimental_attributes=_tf_private.NOINLINE)


@dataclasses.dataclass(frozen=True)
class Traced:
  """A tf.function with one trace per training mode.

  Attributes:
    function: the tf.function that is saved.
    specs: specs of its inputs.
    modes_differ: whether the training mode computes something else.
  """

  function: Any
  specs: Any
  modes_differ: bool

  def call(self, inputs: Any, training: bool) -> Any:
    """Calls the saved trace; calling `function` with unnamed tensors would make another one."""
    training = training and self.modes_differ
    return self.function.get_concrete_function(self.specs, training=training)(inputs, training=training)


def traced(call: Callable[[Any, bool], Any], specs: Any, modes_differ: bool) -> Traced:
  """Traces `call(inputs, training)` for inputs of these specs, once per training mode.

  If the modes do not differ, the trace for training only calls the other one, which saves a quarter of the graph.
  """

  def with_default(inputs, training=False):
    if training and not modes_differ:
      return result.call(inputs, False)
    return call(inputs, training)

  with_default.__name__ = call.__name__  # the function's name in the graph
  result = Traced(tf.function(with_default, autograph=False), specs, modes_differ)
  for training in (False, True):
    result.function.get_concrete_function(specs, training=training)
  return result


def callable_object(call: Traced, variables: list[Any]) -> Any:
  """Makes an object that hub.KerasLayer can call and train."""
  result = _tf_private.trackable()
  result.__call__ = call.function
  result.variables = variables
  result.trainable_variables = [v for v in variables if v.trainable]
  result.regularization_losses = []
  return result


def _distinct(variables: list[Any]) -> list[Any]:
  """Removes repetitions: MaskedLM lists the encoder's word embedding among its own variables."""
  return list({id(v): v for v in variables}.values())
