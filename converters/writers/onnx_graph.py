"""Builds ALBERT as an ONNX graph of standard operations, from canonical weights.

A transformer block is a local function. It is called once a layer, with the weights as arguments, so that every weight
is stored once.
"""

import enum
import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx import numpy_helper

from converters import albert_config
from converters import interface
from converters import weight_map
from converters.writers import graph_options

# ONNX Runtime 1.17 (January 2024) and newer run this opset, the first with Gelu, and this version of the format.
OPSET, IR_VERSION = 20, 9
_BLOCK_DOMAIN = 'albert'
_EPSILON = 1e-12  # of every layer norm
_FAR_BELOW = -1e9  # Keras adds this to the attention scores of masked positions, in float32
_BLOCK_WEIGHTS = tuple(
  f'{layer}.{part}'
  for layer, parts in {
    'attention.query': ('kernel', 'bias'),
    'attention.key': ('kernel', 'bias'),
    'attention.value': ('kernel', 'bias'),
    'attention.output': ('kernel', 'bias'),
    'attention.norm': ('gamma', 'beta'),
    'feed_forward.intermediate': ('kernel', 'bias'),
    'feed_forward.output': ('kernel', 'bias'),
    'feed_forward.norm': ('gamma', 'beta'),
  }.items()
  for part in parts
)


class Names(enum.Enum):
  """Names and dtypes of inputs and outputs."""

  ENCODER = 'encoder'  # those of the published SavedModel; ids are int32
  HUGGING_FACE = 'huggingface'  # those of Optimum and transformers.js; ids are int64


def build(
  weights: Mapping[str, np.ndarray], config: albert_config.AlbertConfig, options: graph_options.Options, names: Names
) -> onnx.ModelProto:
  """Builds the model. Batch and sequence are dynamic.

  With `Names.ENCODER` the inputs are int32 [batch, seq] `input_word_ids`, `input_mask` and `input_type_ids`, and with
  `mlm` int32 [batch, P] `masked_lm_positions`. The outputs are float32 `pooled_output` [batch, H] and `sequence_output`
  [batch, seq, H]. Optional outputs are `encoder_outputs_0` and so on, `mlm_logits` [batch, P, V] and `sop_log_probs`
  [batch, 2].

  With `Names.HUGGING_FACE` the inputs are int64 [batch, seq] `input_ids`, `attention_mask` and `token_type_ids`. The
  outputs are `pooler_output`, `last_hidden_state`, `hidden_states.1` and so on, `logits` [batch, seq, V] and
  `sop_logits` [batch, 2].

  Args:
    weights: float32 arrays by canonical name, in canonical layout.
    config: config of the model.
    options: outputs and form.
    names: names of inputs and outputs.
  """
  graph = _Graph(config, options, names)
  graph.compute()
  rows = weight_map.rows(config, options.parts)
  model = helper.make_model(
    helper.make_graph(
      graph.nodes, 'albert', graph.inputs, graph.outputs, [_tensor(row.name, weights[row.name]) for row in rows]
    ),
    functions=[_block_function(config, options.padding_free)],
    opset_imports=[helper.make_opsetid('', OPSET), helper.make_opsetid(_BLOCK_DOMAIN, 1)],
    ir_version=IR_VERSION,
    producer_name='albert-hub-export',
  )
  return model


def serialize(model: onnx.ModelProto) -> bytes:
  """Returns the bytes of a model, the same on every call."""
  return model.SerializeToString(deterministic=True)


def referring(model: onnx.ModelProto, data: bytes, location: str) -> onnx.ModelProto:
  """Returns a model whose weights lie in another file.

  Args:
    model: the model, which loses its weights.
    data: content of the file, which has the bytes of every weight of the model.
    location: path of the file, relative to the directory that the model is written to.
  """
  position = 0
  for tensor in model.graph.initializer:
    raw = tensor.raw_data
    # Both files have the weights in the same order.
    offset = data.index(raw, position)
    position = offset + len(raw)
    tensor.ClearField('raw_data')
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (('location', location), ('offset', offset), ('length', len(raw))):
      tensor.external_data.add(key=key, value=str(value))
  return model


def _tensor(name: str, value: np.ndarray) -> onnx.TensorProto:
  return numpy_helper.from_array(np.ascontiguousarray(value, '<f4'), name)


class Nodes:
  """A list of nodes; calling it adds one and returns the name of its output.

  Attributes:
    nodes: the nodes.
  """

  def __init__(self, prefix: str = '') -> None:
    """Begins an empty list.

    Args:
      prefix: prefix of the outputs' names.
    """
    self.nodes: list[onnx.NodeProto] = []
    self._prefix = prefix

  def __call__(self, operation: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
    """Adds a node, and returns the name of its output."""
    output = output or f'{self._prefix}{operation.lower()}_{len(self.nodes)}'
    self.nodes.append(helper.make_node(operation, list(inputs), [output], **attributes))
    return output

  def constant(self, value: Any, dtype: type = np.int64) -> str:
    """Adds a constant."""
    return self('Constant', value=numpy_helper.from_array(np.asarray(value, dtype)))

  def dense(self, x: str, name: str, output: str | None = None) -> str:
    """Adds a dense layer."""
    return self('Add', self('MatMul', x, f'{name}.kernel'), f'{name}.bias', output=output)

  def norm(self, x: str, name: str, output: str | None = None) -> str:
    """Adds a layer norm."""
    return self('LayerNormalization', x, f'{name}.gamma', f'{name}.beta', epsilon=_EPSILON, output=output)

  def activation(self, x: str, activation: albert_config.Activation) -> str:
    """Adds an activation."""
    if activation is albert_config.Activation.GELU_TANH:
      return self('Gelu', x, approximate='tanh')
    if activation is albert_config.Activation.SILU:
      return self('Mul', x, self('Sigmoid', x))
    operations = {
      albert_config.Activation.GELU_EXACT: 'Gelu',
      albert_config.Activation.RELU: 'Relu',
      albert_config.Activation.TANH: 'Tanh',
    }
    return self(operations[activation], x)


def _block_function(config: albert_config.AlbertConfig, padding_free: bool) -> onnx.FunctionProto:
  """Returns the transformer block.

  Without `padding_free`, its input and output are [batch, seq, H]. With it they are [tokens, H], and the arguments
  `token_of` int64 [batch, longest] and `place_of` int64 [tokens] pad the tokens for attention, and undo that.
  """
  nodes = Nodes()
  heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
  split = nodes.constant([0, 0, heads, size])

  def by_head(part: str, permutation: Sequence[int]) -> str:
    x = nodes.dense('x', f'attention.{part}')
    if padding_free:
      x = nodes('Gather', x, 'token_of')
    return nodes('Transpose', nodes('Reshape', x, split), perm=permutation)

  query = nodes('Mul', by_head('query', [0, 2, 1, 3]), nodes.constant(1 / math.sqrt(size), np.float32))
  scores = nodes('Add', nodes('MatMul', query, by_head('key', [0, 2, 3, 1])), 'scores')
  context = nodes('MatMul', nodes('Softmax', scores, axis=-1), by_head('value', [0, 2, 1, 3]))
  context = nodes('Transpose', context, perm=[0, 2, 1, 3])
  if padding_free:
    context = nodes('Gather', nodes('Reshape', context, nodes.constant([-1, config.hidden_size])), 'place_of')
  else:
    context = nodes('Reshape', context, nodes.constant([0, 0, config.hidden_size]))
  middle = nodes.norm(nodes('Add', nodes.dense(context, 'attention.output'), 'x'), 'attention.norm')
  inner = nodes.activation(nodes.dense(middle, 'feed_forward.intermediate'), config.activation)
  nodes.norm(nodes('Add', nodes.dense(inner, 'feed_forward.output'), middle), 'feed_forward.norm', output='y')
  packing = ['token_of', 'place_of'] if padding_free else []
  return helper.make_function(
    _BLOCK_DOMAIN,
    'Block',
    ['x', 'scores', *packing, *_BLOCK_WEIGHTS],
    ['y'],
    nodes.nodes,
    [helper.make_opsetid('', OPSET)],
  )


class _Graph(Nodes):
  """The graph around the blocks.

  Attributes:
    inputs: inputs of the model.
    outputs: outputs of the model.
  """

  def __init__(self, config: albert_config.AlbertConfig, options: graph_options.Options, names: Names):
    super().__init__()
    self._config, self._options, self._encoder = config, options, names is Names.ENCODER
    self.inputs: list[onnx.ValueInfoProto] = []
    self.outputs: list[onnx.ValueInfoProto] = []

  def compute(self) -> None:
    """Adds all inputs, nodes and outputs."""
    ids, mask, types = (
      self._input(name, 'seq')
      for name in (interface.ENCODER_INPUTS if self._encoder else ('input_ids', 'attention_mask', 'token_type_ids'))
    )
    sizes = self('Shape', ids)  # [batch, seq]
    positions = self('Range', self.constant(0), self('Squeeze', self('Shape', ids, start=1)), self.constant(1))
    # `input_mask` may have other values than 0 and 1.
    unmasked = self('Not', self('Equal', mask, self.constant(0, np.int32 if self._encoder else np.int64)))
    none = self.constant([_FAR_BELOW, 0.0], np.float32)
    if self._options.padding_free:
      packing = _Packing(self, unmasked, sizes, positions)
      ids, types, unmasked = (packing.tokens(value) for value in (ids, types, unmasked))
      positions = packing.positions
      scores = packing.padded_scores(self('Gather', none, self('Cast', unmasked, to=onnx.TensorProto.INT64)))
    else:
      scores = self('Gather', none, self('Cast', unmasked, to=onnx.TensorProto.INT64))
      scores = self('Unsqueeze', scores, self.constant([1, 2]))
    x = self('Add', self('Gather', 'embeddings.word', ids), self('Gather', 'embeddings.position', positions))
    x = self.norm(self('Add', x, self('Gather', 'embeddings.token_type', types)), 'embeddings.norm')
    if self._config.embedding_size != self._config.hidden_size:
      x = self.dense(x, 'embeddings.projection')

    arguments = [scores, *([packing.token_of, packing.place_of] if self._options.padding_free else [])]
    layers = []
    for number in self._config.block_of_layer:
      group, inner = divmod(number, self._config.inner_group_num)
      prefix = f'group_{group}.layer_{inner}.' if number else ''
      x = self('Block', x, *arguments, *(prefix + name for name in _BLOCK_WEIGHTS), domain=_BLOCK_DOMAIN)
      layers.append(x)

    if self._options.padding_free:
      first = packing.first(x)
      zero = self.constant(0, np.float32)
      shown = self('Unsqueeze', packing.shown, self.constant([1]))

      def whole(rows: str, width: int, output: str | None = None) -> str:
        return packing.whole(self('Where', shown, rows, zero), width, output)
    else:
      first = self('Squeeze', self('Slice', x, *map(self.constant, ([0], [1], [1]))), self.constant([1]))

      def whole(rows: str, width: int, output: str | None = None) -> str:
        return self('Identity', rows, output=output) if output else rows

    hidden = self._config.hidden_size
    wide: list[str | int] = ['batch', 'seq', hidden]
    pooled = self('Tanh', self.dense(first, 'pooler'), output='pooled_output' if self._encoder else 'pooler_output')
    self._output(pooled, ['batch', hidden])
    sequence = whole(x, hidden, 'sequence_output' if self._encoder else 'last_hidden_state')
    self._output(sequence, wide)
    if self._options.layers:
      for number, layer in enumerate(layers):
        name = f'encoder_outputs_{number}' if self._encoder else f'hidden_states.{number + 1}'
        self._output(whole(layer, hidden, name), wide)
    if self._options.mlm:
      self._mlm(x, sequence, whole)
    if self._options.sop:
      logits = self('Gemm', pooled, 'sop.kernel', 'sop.bias', transB=1, output=None if self._encoder else 'sop_logits')
      self._output(
        self('LogSoftmax', logits, axis=-1, output='sop_log_probs') if self._encoder else logits, ['batch', 2]
      )

  def _mlm(self, x: str, sequence: str, whole: Any) -> None:
    """Adds the masked language model head: at given positions, or at all positions."""
    vocabulary = self._config.vocab_size
    if self._encoder:
      positions = self._input('masked_lm_positions', 'predictions')
      where = self('Unsqueeze', self('Cast', positions, to=onnx.TensorProto.INT64), self.constant([2]))
      logits = self._mlm_logits(self('GatherND', sequence, where, batch_dims=1))
      sizes = self('Concat', self('Shape', positions), self.constant([vocabulary]), axis=0)
      self._output(
        self('Reshape', logits, sizes, allowzero=1, output='mlm_logits'), ['batch', 'predictions', vocabulary]
      )
      return
    logits = self._mlm_logits(x)
    if not self._options.padding_free:
      sizes = self('Concat', self('Shape', sequence, end=2), self.constant([vocabulary]), axis=0)
      logits = self('Reshape', logits, sizes, allowzero=1)
    self._output(whole(logits, vocabulary, 'logits'), ['batch', 'seq', vocabulary])

  def _mlm_logits(self, x: str) -> str:
    """Returns logits [positions, V] for x [..., H]."""
    y = self.norm(self.activation(self.dense(x, 'mlm.transform'), self._config.activation), 'mlm.norm')
    rows = self('Reshape', y, self.constant([-1, self._config.embedding_size]))
    # A product with a transposed copy of the table would store that copy too.
    return self('Gemm', rows, 'embeddings.word', 'mlm.output_bias', transB=1)

  def _input(self, name: str, length: str) -> str:
    dtype = onnx.TensorProto.INT32 if self._encoder else onnx.TensorProto.INT64
    self.inputs.append(helper.make_tensor_value_info(name, dtype, ['batch', length]))
    return name

  def _output(self, name: str, shape: Sequence[str | int]) -> None:
    self.outputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))


class _Packing:
  """Selects the positions that are computed, and pads them again.

  A position is kept if it is not masked. A row that is masked everywhere keeps all positions, since they attend to all.
  The first position of each row is always kept, since the pooler reads it.

  Attributes:
    positions: int64 [tokens], position of each kept token in its row.
    shown: bool [tokens], False for a first position that is kept for the pooler only.
    token_of: int64 [batch, longest], number of the token at each place of the padded rows; 0 at padding.
    place_of: int64 [tokens], place of each token in the flat padded rows.
  """

  def __init__(self, nodes: Nodes, unmasked: str, sizes: str, positions: str):
    """Adds the nodes that compute the indices.

    Args:
      nodes: where nodes are added.
      unmasked: bool [batch, seq].
      sizes: int64 [2], batch and seq.
      positions: int64 [seq], 0 and so on.
    """
    self._nodes, self._sizes = nodes, sizes
    self._all, one, axis = nodes.constant([-1]), nodes.constant([1]), nodes.constant(1)
    int64 = onnx.TensorProto.INT64
    count = nodes('ReduceSum', nodes('Cast', unmasked, to=int64), one, keepdims=1)
    shown = nodes('Or', unmasked, nodes('Equal', count, nodes.constant(0)))
    kept = nodes('Or', shown, nodes('Equal', positions, nodes.constant(0)))
    number = nodes('Cast', kept, to=int64)
    # An empty batch has no longest row, so 1 is among the lengths.
    lengths = nodes('Concat', nodes('ReduceSum', number, one, keepdims=0), one, axis=0)
    longest = nodes('ReduceMax', lengths, keepdims=1)  # [1]
    where = nodes('NonZero', kept)
    row = nodes('Gather', where, nodes.constant(0))
    self.positions = nodes('Gather', where, axis)
    length = nodes('Gather', sizes, one)
    self._flat = nodes('Add', nodes('Mul', row, length), self.positions)
    self.shown = self.tokens(shown)
    rank = nodes('Sub', nodes('CumSum', number, axis), one)
    self.place_of = nodes('Add', nodes('Mul', row, longest), self.tokens(rank))
    self._padded = nodes('Concat', nodes('Gather', sizes, nodes.constant([0])), longest, axis=0)
    self._places = nodes('Mul', *(nodes('Gather', self._padded, nodes.constant([i])) for i in (0, 1)))
    tokens = nodes('Range', nodes.constant(0), nodes('Size', row), axis)
    zeros = nodes('ConstantOfShape', self._places, value=numpy_helper.from_array(np.zeros(1, np.int64)))
    filled = nodes('ScatterElements', zeros, self.place_of, tokens)
    self.token_of = nodes('Reshape', filled, self._padded, allowzero=1)

  def tokens(self, value: str) -> str:
    """Returns the values of the kept positions: [batch, seq] to [tokens]."""
    return self._nodes('Gather', self._nodes('Reshape', value, self._all), self._flat)

  def padded_scores(self, scores: str) -> str:
    """Returns the terms of the attention scores: [tokens] to [batch, 1, 1, longest]."""
    far_below = numpy_helper.from_array(np.full(1, _FAR_BELOW, np.float32))
    empty = self._nodes('ConstantOfShape', self._places, value=far_below)
    filled = self._nodes('ScatterElements', empty, self.place_of, scores)
    return self._nodes(
      'Unsqueeze', self._nodes('Reshape', filled, self._padded, allowzero=1), self._nodes.constant([1, 2])
    )

  def first(self, rows: str) -> str:
    """Returns the first position of each row: [tokens, H] to [batch, H]."""
    first = self._nodes('Slice', self.token_of, *map(self._nodes.constant, ([0], [1], [1])))
    return self._nodes('Gather', rows, self._nodes('Squeeze', first, self._nodes.constant([1])))

  def whole(self, rows: str, width: int, output: str | None = None) -> str:
    """Returns [batch, seq, width] with `rows` [tokens, width] at the kept positions, and zeros at all others."""
    nodes = self._nodes
    count = nodes('Mul', *(nodes('Gather', self._sizes, nodes.constant([i])) for i in (0, 1)))
    zeros = nodes(
      'ConstantOfShape',
      nodes('Concat', count, nodes.constant([width]), axis=0),
      value=numpy_helper.from_array(np.zeros(1, np.float32)),
    )
    filled = nodes('ScatterND', zeros, nodes('Unsqueeze', self._flat, nodes.constant([1])), rows)
    shape = nodes('Concat', self._sizes, nodes.constant([width]), axis=0)
    return nodes('Reshape', filled, shape, allowzero=1, output=output)
