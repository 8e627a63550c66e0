"""Writes a TF1 Hub module of ALBERT with weights drawn at random, in the form of google/albert_*/{1,2,3}.

The graph follows the ALBERT paper (arxiv.org/abs/1909.11942) and is built with tf.compat.v1 alone. The files have the
form that tensorflow_hub's exporter gives them: no SaverDef and no saver nodes, one encoder behind all signatures,
assets as constants of the text SAVEDMODEL-ASSET, the metagraph of tag `train` first. tests/genuine/README.md compares
both forms field by field.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

from export.demo import weight_values

v1 = tf.compat.v1

# One byte of protocol buffer key and one of value: ModuleDef.format = FORMAT_V3.
_TFHUB_MODULE_PB = b'\x08\x03'
# File names by the names of the constants that stand for the files.
_ASSETS = {'config_file': 'albert_config.json', 'vocab_file': '30k-clean.vocab', 'vocab_model': '30k-clean.model'}

# Published sizes of google/albert_*/2, one that a laptop exports in seconds, and one for tests.
SIZES = {
  'tiny': dict(
    vocab_size=200,
    embedding_size=8,
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=128,
  ),
  'demo': dict(vocab_size=1000, hidden_size=64, num_hidden_layers=4, num_attention_heads=4),
  'base': dict(vocab_size=30000, hidden_size=768, num_hidden_layers=12, num_attention_heads=12),
  'large': dict(vocab_size=30000, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16),
  'xlarge': dict(vocab_size=30000, hidden_size=2048, num_hidden_layers=24, num_attention_heads=32),
  'xxlarge': dict(vocab_size=30000, hidden_size=4096, num_hidden_layers=12, num_attention_heads=64),
}


@dataclasses.dataclass(frozen=True)
class Spec:
  """Properties of a demo module.

  Attributes:
    vocab_size, embedding_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size,
      max_position_embeddings, type_vocab_size: as in albert_config.json; an intermediate_size of 0 means
      4 * hidden_size.
    hidden_dropout, attention_dropout: the two dropout probabilities, applied by the train metagraph.
    mlm: whether there is an `mlm` signature, and its variables.
    sop: whether there is a `sop` signature, and its variables.
    seed: random seed of the weights; another seed changes every element of every tensor.
    values: regime of the weights, a key of `weight_values.REGIMES`.
  """

  vocab_size: int = 1000
  embedding_size: int = 128
  hidden_size: int = 64
  num_hidden_layers: int = 4
  num_attention_heads: int = 4
  intermediate_size: int = 0
  max_position_embeddings: int = 512
  type_vocab_size: int = 2
  hidden_dropout: float = 0.0
  attention_dropout: float = 0.0
  mlm: bool = True
  sop: bool = True
  seed: int = 0
  values: str = 'random'

  @property
  def config(self) -> dict[str, Any]:
    """The content of albert_config.json, with the keys the authors' files have."""
    return {
      'attention_probs_dropout_prob': self.attention_dropout,
      'hidden_act': 'gelu',
      'hidden_dropout_prob': self.hidden_dropout,
      'embedding_size': self.embedding_size,
      'hidden_size': self.hidden_size,
      'initializer_range': 0.02,
      'intermediate_size': self.intermediate_size or 4 * self.hidden_size,
      'max_position_embeddings': self.max_position_embeddings,
      'num_attention_heads': self.num_attention_heads,
      'num_hidden_layers': self.num_hidden_layers,
      'num_hidden_groups': 1,
      'net_structure_type': 0,
      'layers_to_keep': [],
      'gap_size': 0,
      'num_memory_blocks': 0,
      'inner_group_num': 1,
      'down_scale_factor': 1,
      'type_vocab_size': self.type_vocab_size,
      'vocab_size': self.vocab_size,
    }


class _Graph:
  """ALBERT's forward pass in graph mode; a variable is made where it is first used, and shared after."""

  def __init__(self, spec: Spec, is_training: bool):
    self._config = spec.config
    self._is_training = is_training

  def _variable(self, name: str, *shape: int) -> Any:
    with v1.variable_scope('', reuse=v1.AUTO_REUSE):
      return v1.get_variable(
        name, shape, tf.float32, initializer=v1.truncated_normal_initializer(stddev=0.02), use_resource=True
      )

  def _dropout(self, x: Any, rate: float) -> Any:
    return tf.nn.dropout(x, rate=rate) if self._is_training and rate else x

  def _hidden_dropout(self, x: Any) -> Any:
    return self._dropout(x, self._config['hidden_dropout_prob'])

  def _dense(self, x: Any, name: str, units: int) -> Any:
    """Computes a dense layer of x [rows, width]: [rows, units]."""
    kernel = self._variable(f'{name}/kernel', int(x.shape[-1]), units)
    return tf.nn.bias_add(tf.matmul(x, kernel), self._variable(f'{name}/bias', units))

  def _layer_norm(self, x: Any, name: str) -> Any:
    width = int(x.shape[-1])
    beta, gamma = self._variable(f'{name}/beta', width), self._variable(f'{name}/gamma', width)
    mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, variance_epsilon=1e-12)

  def _gelu(self, x: Any) -> Any:
    return x * (0.5 * (1.0 + tf.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * tf.pow(x, 3)))))

  def _embeddings(self, input_ids: Any, segment_ids: Any) -> Any:
    config = self._config
    width = config['embedding_size']
    table = self._variable('bert/embeddings/word_embeddings', config['vocab_size'], width)
    types = self._variable('bert/embeddings/token_type_embeddings', config['type_vocab_size'], width)
    positions = self._variable('bert/embeddings/position_embeddings', config['max_position_embeddings'], width)
    length = tf.shape(input_ids)[1]
    one_hot = tf.one_hot(tf.reshape(segment_ids, [-1]), depth=config['type_vocab_size'])
    with tf.control_dependencies([v1.assert_less_equal(length, config['max_position_embeddings'])]):
      x = tf.nn.embedding_lookup(table, input_ids)
      x += tf.reshape(tf.matmul(one_hot, types), tf.shape(x))
      x += tf.expand_dims(tf.slice(positions, [0, 0], [length, -1]), 0)
    return self._hidden_dropout(self._layer_norm(x, 'bert/embeddings/LayerNorm'))

  def _attention(self, x: Any, bias: Any, batch: Any, length: Any, name: str) -> Any:
    heads = self._config['num_attention_heads']
    hidden = self._config['hidden_size']
    depth = hidden // heads

    def project(part):
      y = self._dense(x, f'{name}/self/{part}', hidden)
      return tf.transpose(tf.reshape(y, [batch, length, heads, depth]), [0, 2, 1, 3])

    query, key, value = project('query'), project('key'), project('value')
    scores = tf.matmul(query, key, transpose_b=True) * (1.0 / math.sqrt(depth)) + bias
    weights = self._dropout(tf.nn.softmax(scores), self._config['attention_probs_dropout_prob'])
    context = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])
    return self._dense(tf.reshape(context, [-1, hidden]), f'{name}/output/dense', hidden)

  def encode(self, input_ids: Any, input_mask: Any, segment_ids: Any) -> tuple[Any, Any]:
    """Computes sequence_output [batch, length, H] and pooled_output [batch, H] from int32 [batch, length] inputs."""
    config = self._config
    hidden = config['hidden_size']
    batch, length = tf.shape(input_ids)[0], tf.shape(input_ids)[1]
    embeddings = self._embeddings(input_ids, segment_ids)
    x = tf.reshape(embeddings, [-1, config['embedding_size']])
    if config['embedding_size'] != hidden:
      x = self._dense(x, 'bert/encoder/embedding_hidden_mapping_in', hidden)
    bias = (1.0 - tf.cast(input_mask[:, tf.newaxis, tf.newaxis, :], tf.float32)) * -10000.0
    block = 'bert/encoder/transformer/group_0/inner_group_0'
    for _ in range(config['num_hidden_layers']):
      attended = self._hidden_dropout(self._attention(x, bias, batch, length, f'{block}/attention_1'))
      x = self._layer_norm(x + attended, f'{block}/LayerNorm')
      inner = self._gelu(self._dense(x, f'{block}/ffn_1/intermediate/dense', config['intermediate_size']))
      outer = self._hidden_dropout(self._dense(inner, f'{block}/ffn_1/intermediate/output/dense', hidden))
      x = self._layer_norm(x + outer, f'{block}/LayerNorm_1')
    sequence_output = tf.reshape(x, [batch, length, hidden])
    first = tf.squeeze(sequence_output[:, 0:1, :], axis=1)
    return sequence_output, tf.tanh(self._dense(first, 'bert/pooler/dense', hidden))

  def mlm_logits(self, sequence_output: Any, positions: Any) -> Any:
    """Computes [batch * P, V] from sequence_output [batch, length, H] and positions int32 [batch, P]."""
    width, vocab_size = self._config['embedding_size'], self._config['vocab_size']
    batch, length = tf.shape(sequence_output)[0], tf.shape(sequence_output)[1]
    offsets = tf.expand_dims(tf.range(batch) * length, 1)
    flat = tf.reshape(sequence_output, [-1, self._config['hidden_size']])
    x = tf.gather(flat, tf.reshape(positions + offsets, [-1]))
    x = self._gelu(self._dense(x, 'cls/predictions/transform/dense', width))
    x = self._layer_norm(x, 'cls/predictions/transform/LayerNorm')
    table = self._variable('bert/embeddings/word_embeddings', vocab_size, width)
    return tf.nn.bias_add(
      tf.matmul(x, table, transpose_b=True), self._variable('cls/predictions/output_bias', vocab_size)
    )

  def sop_log_probs(self, pooled_output: Any) -> Any:
    """Computes [batch, 2] from pooled_output [batch, H]."""
    weights = self._variable('cls/seq_relationship/output_weights', 2, self._config['hidden_size'])
    bias = self._variable('cls/seq_relationship/output_bias', 2)
    return tf.nn.log_softmax(tf.nn.bias_add(tf.matmul(pooled_output, weights, transpose_b=True), bias))


def _signature(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
  info = v1.saved_model.build_tensor_info
  return v1.saved_model.build_signature_def(
    inputs={k: info(v) for k, v in inputs.items()}, outputs={k: info(v) for k, v in outputs.items()}, method_name=''
  )


def _meta_graph(spec: Spec, tags: Sequence[str]) -> Any:
  """Builds one metagraph in the default graph, which holds nothing else, and returns it."""
  graph = _Graph(spec, is_training='train' in tags)
  inputs = {
    name: v1.placeholder(tf.int32, [None, None], name=name) for name in ('input_ids', 'input_mask', 'segment_ids')
  }
  sequence_output, pooled_output = graph.encode(**inputs)
  outputs = {'sequence_output': sequence_output, 'pooled_output': pooled_output}
  signatures = {'tokens': _signature(inputs, outputs)}
  if spec.mlm:
    positions = v1.placeholder(tf.int32, [None, None], name='mlm_positions')
    signatures['mlm'] = _signature(
      {**inputs, 'mlm_positions': positions}, {**outputs, 'mlm_logits': graph.mlm_logits(sequence_output, positions)}
    )
  if spec.sop:
    signatures['sop'] = _signature(inputs, {**outputs, 'sop_log_probs': graph.sop_log_probs(pooled_output)})
  assets = {name: tf.constant('SAVEDMODEL-ASSET', name=name) for name in _ASSETS}
  for asset in assets.values():
    v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, asset)
  signatures['tokenization_info'] = _signature(
    {}, {'vocab_file': assets['vocab_model'], 'do_lower_case': tf.constant(True)}
  )

  meta_graph = v1.train.export_meta_graph(strip_default_attrs=True)
  meta_graph.meta_info_def.tags.extend(tags)
  for name, signature in signatures.items():
    meta_graph.signature_def[name].CopyFrom(signature)
  for name, file_name in _ASSETS.items():
    asset = meta_graph_pb2.AssetFileDef(filename=file_name)
    asset.tensor_info.name = f'{name}:0'
    meta_graph.collection_def['saved_model_assets'].any_list.value.add().Pack(asset)
  return meta_graph


def write(path: str | pathlib.Path, spec: Spec, sentencepiece_model: bytes, vocab_text: str) -> None:
  """Writes a TF1 Hub module, whose bytes depend only on the arguments after `path`.

  Args:
    path: the module's directory; made, and must not exist.
    spec: properties of the module; its vocab_size is the number of pieces of `sentencepiece_model`.
    sentencepiece_model: becomes assets/30k-clean.model.
    vocab_text: becomes assets/30k-clean.vocab.

  Raises:
    FileExistsError: `path` exists.
  """
  path = pathlib.Path(path)
  (path / 'variables').mkdir(parents=True, exist_ok=False)
  (path / 'assets').mkdir()
  saved_model = saved_model_pb2.SavedModel()
  with tf.Graph().as_default():
    saved_model.meta_graphs.append(_meta_graph(spec, ['train']))
  with tf.Graph().as_default(), v1.Session() as session:
    saved_model.meta_graphs.append(_meta_graph(spec, []))
    variables = {variable.op.name: variable for variable in v1.global_variables()}
    for number, (name, variable) in enumerate(sorted(variables.items())):
      variable.load(weight_values.value(spec.values, name, tuple(variable.shape), [spec.seed, number]), session)
    v1.train.Saver(variables, sharded=True).save(
      session, str(path / 'variables' / 'variables'), write_meta_graph=False, write_state=False
    )
  (path / 'saved_model.pb').write_bytes(saved_model.SerializeToString(deterministic=True))
  (path / 'assets' / _ASSETS['vocab_model']).write_bytes(sentencepiece_model)
  (path / 'assets' / _ASSETS['vocab_file']).write_text(vocab_text, encoding='utf-8')
  (path / 'assets' / _ASSETS['config_file']).write_text(json.dumps(spec.config, indent=2) + '\n', encoding='utf-8')
  (path / 'tfhub_module.pb').write_bytes(_TFHUB_MODULE_PB)
