"""A source -> tf-models' AlbertEncoder, MLM head and SOP head, holding the source's weights."""

import dataclasses
import hashlib
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


@dataclasses.dataclass(frozen=True)
class Weight:
  """What became of one source tensor.

  Attributes:
    source: its canonical name.
    target: the variable it became.
    transform: how, by name.
    shape: its canonical shape.
    sha256: hex digest of its bytes: float32, little-endian, C order, in the canonical layout.
  """

  source: str
  target: str
  transform: str
  shape: list[int]
  sha256: str


@dataclasses.dataclass(frozen=True)
class Albert:
  """A live model.

  Attributes:
    config: its sizes.
    encoder: AlbertEncoder with dict outputs; float32 variables.
    mlm_head: called with sequence_output [batch, seq, H] and positions int32 [batch, P] -> logits [batch, P, V]; shares
      the encoder's word embedding. None without the part.
    sop_head: called with pooled_output [batch, H] -> logits [batch, 2]. None without the part.
    weights: what became of each source tensor, in the order of the table.
  """

  config: albert_config.AlbertConfig
  encoder: networks.AlbertEncoder
  mlm_head: layers.MaskedLM | None
  sop_head: layers.ClassificationHead | None
  weights: list[Weight]


# No layer of these has Python control flow over tensors: translating them for it takes two fifths of the time.
@tf.autograph.experimental.do_not_convert
def build(
  source: source_lib.Source, parts: Iterable[weight_map.Part], progress: Callable[[str], None] = lambda name: None
) -> Albert:
  """Builds the model of `parts`, which the source has, with the source's weights.

  A variable's creation is its load: the initial value is the source tensor, read at that moment. So no tensor is read
  twice, none is drawn at random first, and one tensor at most is in memory beside the model.

  Args:
    source: gives config and tensors.
    parts: what to build.
    progress: called with the canonical name of each tensor once it is loaded.

  Raises:
    MappingError: the model's variables are not the table's.
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
    if variable.dtype.is_floating:  # Dropout's integer seed states are made here too
      created.append((variable.name.removesuffix(':0'), tuple(variable.shape)))
      progress(table[name].name if name in table else name)
    return variable

  with tf.variable_creator_scope(load_on_creation):
    encoder = networks.AlbertEncoder(
      vocab_size=config.vocab_size,
      embedding_width=config.embedding_size,
      hidden_size=config.hidden_size,
      num_layers=config.num_hidden_layers,
      num_attention_heads=config.num_attention_heads,
      max_sequence_length=config.max_position_embeddings,
      type_vocab_size=config.type_vocab_size,
      intermediate_size=config.intermediate_size,
      activation=activations.gelu,  # the tanh approximation, as in the original
      dropout_rate=config.hidden_dropout_prob,
      attention_dropout_rate=config.attention_probs_dropout_prob,
      initializer=tf_keras.initializers.Zeros(),  # never asked
      dict_outputs=True,
    )
    mlm_head = _mlm_head(encoder, config) if weight_map.Part.MLM in parts else None
    sop_head = build_sop_head(config) if weight_map.Part.SOP in parts else None
  weight_map.check_model(config, parts, created)
  return Albert(config, encoder, mlm_head, sop_head, [weights[row.name] for row in table.values()])


def _mlm_head(encoder: networks.AlbertEncoder, config: albert_config.AlbertConfig) -> layers.MaskedLM:
  head = layers.MaskedLM(encoder.get_embedding_table(), activation=activations.gelu, name='cls/predictions')
  # Called, not built: only a call puts the variables under the layer's name.
  head(tf.zeros([1, 1, config.hidden_size]), tf.zeros([1, 1], tf.int32))
  return head


def build_sop_head(config: albert_config.AlbertConfig) -> layers.ClassificationHead:
  head = layers.ClassificationHead(inner_dim=0, num_classes=2, dropout_rate=0.0, name='cls/seq_relationship')
  head(tf.zeros([1, config.hidden_size]))
  return head
