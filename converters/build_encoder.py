"""Builds tf-models' AlbertEncoder and the pretraining heads with the weights of a source."""

import dataclasses
import hashlib
import math
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from official.modeling import activations
from official.nlp.modeling import layers
from official.nlp.modeling import networks

from converters import albert_config
from converters import source as source_lib
from converters import weight_map


def gelu_exact(x: Any) -> Any:
  """Computes GELU with the error function, for a float tensor of any shape."""
  return 0.5 * x * (1.0 + tf.math.erf(x * math.sqrt(0.5)))


def silu(x: Any) -> Any:
  """Computes SiLU (swish), for a float tensor of any shape.

  tf.nn.silu has a custom gradient, which a SavedModel does not keep.
  """
  return x * tf.sigmoid(x)


ACTIVATIONS: dict[albert_config.Activation, Callable[[Any], Any]] = {
  albert_config.Activation.GELU_TANH: activations.gelu,
  albert_config.Activation.GELU_EXACT: gelu_exact,
  albert_config.Activation.RELU: tf.nn.relu,
  albert_config.Activation.SILU: silu,
  albert_config.Activation.TANH: tf.tanh,
}


_POOLER = 'pooler_transform'  # AlbertEncoder's layer


@dataclasses.dataclass(frozen=True)
class Weight:
  """One source tensor and the variable that holds it.

  Attributes:
    source: canonical name of the tensor.
    target: name of the variable.
    transform: value of the `weight_map.Transform` between them.
    shape: canonical shape.
    sha256: hex digest of its bytes: float32, little-endian, C order, in the canonical layout.
  """

  source: str
  target: str
  transform: str
  shape: list[int]
  sha256: str


@dataclasses.dataclass(frozen=True)
class Albert:
  """A model in memory.

  Attributes:
    config: its architecture.
    encoder: AlbertEncoder with dict outputs, or a model of its layers without the pooler; float32 variables.
    blocks: the transformer blocks, in the order of `AlbertConfig.block_of_layer`; the first is the encoder's own.
    mlm_head: called with sequence_output [batch, seq, H] and positions int32 [batch, P] -> logits [batch, P, V]; shares
      the encoder's word embedding. None without the part.
    sop_head: called with pooled_output [batch, H] -> logits [batch, 2]. None without the part.
    weights: one entry for each source tensor, in the order of the weight map.
  """

  config: albert_config.AlbertConfig
  encoder: tf_keras.Model
  blocks: list[Any]
  mlm_head: layers.MaskedLM | None
  sop_head: layers.ClassificationHead | None
  weights: list[Weight]


# AutoGraph's translation takes two fifths of the time, and no layer has Python control flow over tensors.
@tf.autograph.experimental.do_not_convert
def build(
  source: source_lib.Source, parts: Iterable[weight_map.Part], progress: Callable[[str], None] = lambda name: None
) -> Albert:
  """Builds the model of `parts`, which the source has, with the source's weights.

  Weights are loaded when variables are created: the initial value is the source tensor, read at that moment. No tensor
  is read twice or initialized at random. At most one tensor is in memory in addition to the model.

  Args:
    source: the source of config and tensors.
    parts: the parts to build.
    progress: called with the canonical name of each tensor once it is loaded.

  Raises:
    MappingError: the model's variables do not match the weight map.
    SourceError: a tensor cannot be read.
  """
  config, parts = source.config, frozenset(parts)
  table = {row.tf_models: row for row in weight_map.rows(config, parts)}
  created: list[tuple[str, tuple[int, ...]]] = []
  weights: dict[str, Weight] = {}

  def initial_value(row: weight_map.Row) -> Any:
    value = source.tensor(row)
    weights[row.name] = Weight(
      row.name,
      row.tf_models,
      row.transform.value,
      list(value.shape),
      hashlib.sha256(np.ascontiguousarray(value, '<f4').data).hexdigest(),
    )
    return tf.constant(row.transform.apply(value, weight_map.shape(row.tf_models_shape, config)))

  def load_on_creation(next_creator: Callable[..., Any], **kwargs: Any) -> Any:
    name = f'{tf.get_current_name_scope()}/{kwargs["name"]}'.lstrip('/')
    if name in table and callable(kwargs['initial_value']):
      kwargs['initial_value'] = lambda: initial_value(table[name])
    variable = next_creator(**kwargs)
    unused = not config.pooler and name.startswith(f'{_POOLER}/')
    if variable.dtype.is_floating and not unused:  # Dropout's integer seed states are made here too
      created.append((variable.name.removesuffix(':0'), tuple(variable.shape)))
      progress(table[name].name if name in table else name)
    return variable

  with tf.variable_creator_scope(load_on_creation):
    encoder = new_encoder(config, initializer=tf_keras.initializers.Zeros())  # never used
    blocks = [encoder.get_layer('transformer'), *_more_blocks(config)]
    mlm_head = _mlm_head(encoder, config) if weight_map.Part.MLM in parts else None
    sop_head = build_sop_head(config) if weight_map.Part.SOP in parts else None
  weight_map.check_model(config, parts, created)
  if not config.pooler:
    outputs = {name: encoder.output[name] for name in ('sequence_output', 'encoder_outputs')}
    encoder = tf_keras.Model(encoder.inputs, outputs, name=encoder.name)
  return Albert(config, encoder, blocks, mlm_head, sop_head, [weights[row.name] for row in table.values()])


def new_encoder(config: albert_config.AlbertConfig, **options: Any) -> networks.AlbertEncoder:
  """Returns tf-models' encoder of the architecture, with new weights and dict outputs.

  Args:
    config: the architecture. The encoder has one block, whatever the number of groups.
    **options: other options of AlbertEncoder.
  """
  return networks.AlbertEncoder(
    vocab_size=config.vocab_size,
    embedding_width=config.embedding_size,
    hidden_size=config.hidden_size,
    num_layers=config.num_hidden_layers,
    num_attention_heads=config.num_attention_heads,
    max_sequence_length=config.max_position_embeddings,
    type_vocab_size=config.type_vocab_size,
    intermediate_size=config.intermediate_size,
    activation=ACTIVATIONS[config.activation],
    dropout_rate=config.hidden_dropout_prob,
    attention_dropout_rate=config.attention_probs_dropout_prob,
    dict_outputs=True,
    **options,
  )


def _more_blocks(config: albert_config.AlbertConfig) -> list[Any]:
  """Builds the blocks of a model with several groups, except the first, which AlbertEncoder has."""
  names = [
    weight_map.block_name(group, layer)
    for group in range(config.num_hidden_groups)
    for layer in range(config.inner_group_num)
  ]
  blocks = []
  for name in names[1:]:
    block = layers.TransformerEncoderBlock(
      num_attention_heads=config.num_attention_heads,
      inner_dim=config.intermediate_size,
      inner_activation=ACTIVATIONS[config.activation],
      output_dropout=config.hidden_dropout_prob,
      attention_dropout=config.attention_probs_dropout_prob,
      kernel_initializer=tf_keras.initializers.Zeros(),
      name=name,
    )
    block([tf.zeros([1, 1, config.hidden_size]), tf.ones([1, 1, 1])])  # a call puts variables under the layer's name
    blocks.append(block)
  return blocks


def _mlm_head(encoder: networks.AlbertEncoder, config: albert_config.AlbertConfig) -> layers.MaskedLM:
  head = layers.MaskedLM(
    encoder.get_embedding_table(), activation=ACTIVATIONS[config.activation], name='cls/predictions'
  )
  # Called, not built: only a call puts the variables under the layer's name.
  head(tf.zeros([1, 1, config.hidden_size]), tf.zeros([1, 1], tf.int32))
  return head


def build_sop_head(config: albert_config.AlbertConfig) -> layers.ClassificationHead:
  """Builds the sentence order head, under the names of the weight map."""
  head = layers.ClassificationHead(inner_dim=0, num_classes=2, dropout_rate=0.0, name='cls/seq_relationship')
  head(tf.zeros([1, config.hidden_size]))
  return head
