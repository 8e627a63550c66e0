"""albert_config.json: what an ALBERT looks like."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from converters import errors
from converters.io import safe_read

# Attributes that do not touch what a trained model computes.
_IGNORED = frozenset({'initializer_range'})
# Attributes that would change the architecture, or that the authors' configs carry and nobody documented: only the
# value that all published modules have can be converted.
_FIXED = {
  'hidden_act': 'gelu',
  'num_hidden_groups': 1,
  'inner_group_num': 1,
  'ln_type': 'postln',
  'net_structure_type': 0,
  'gap_size': 0,
  'num_memory_blocks': 0,
  'down_scale_factor': 1,
  'layers_to_keep': [],
}
# The same for Hugging Face's config.json: what an ALBERT must be there, and what Transformers keeps in every model's
# config.
_HUGGING_FACE_FIXED = _FIXED | {
  'model_type': 'albert',
  'hidden_act': ('gelu_new', 'gelu_pytorch_tanh'),
  'layer_norm_eps': 1e-12,
  'position_embedding_type': 'absolute',
  'tie_word_embeddings': True,
  'is_decoder': False,
  'add_cross_attention': False,
  'quantization_config': None,
  'pruned_heads': {},
  'is_encoder_decoder': False,
}
_HUGGING_FACE_IGNORED = _IGNORED | {
  '_attn_implementation_autoset',
  '_commit_hash',
  '_name_or_path',
  'architectures',
  'bos_token_id',
  'chunk_size_feed_forward',
  'classifier_dropout_prob',
  'do_sample',
  'dtype',
  'eos_token_id',
  'finetuning_task',
  'gradient_checkpointing',
  'id2label',
  'label2id',
  'length_penalty',
  'max_length',
  'min_length',
  'num_beams',
  'num_labels',
  'num_return_sequences',
  'output_attentions',
  'output_hidden_states',
  'output_past',
  'pad_token_id',
  'problem_type',
  'repetition_penalty',
  'return_dict',
  'temperature',
  'tokenizer_class',
  'top_k',
  'top_p',
  'torch_dtype',
  'torchscript',
  'transformers_version',
  'use_bfloat16',
  'use_cache',
}
# What Transformers' class says where a config does not.
_HUGGING_FACE_DEFAULTS = {
  'hidden_act': 'gelu_new',
  'layer_norm_eps': 1e-12,
  'hidden_dropout_prob': 0,
  'attention_probs_dropout_prob': 0,
  'type_vocab_size': 2,
  'max_position_embeddings': 512,
}
_LARGEST_FILE = 1 << 20  # bytes
# No published ALBERT comes near; a number beyond it is a damaged or hostile file, not a bigger model.
_LARGEST = {'num_hidden_layers': 256, 'num_attention_heads': 1024}
_LARGEST_SIZE = 1 << 20


@dataclasses.dataclass(frozen=True)
class AlbertConfig:
  """The sizes of an ALBERT, under the names of albert_config.json.

  Attributes:
    vocab_size, embedding_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size,
      max_position_embeddings, type_vocab_size: positive; hidden_size is a multiple of num_attention_heads.
    hidden_dropout_prob, attention_probs_dropout_prob: in [0, 1).
  """

  vocab_size: int
  embedding_size: int
  hidden_size: int
  num_hidden_layers: int
  num_attention_heads: int
  intermediate_size: int
  max_position_embeddings: int
  type_vocab_size: int
  hidden_dropout_prob: float
  attention_probs_dropout_prob: float

  @property
  def has_dropout(self) -> bool:
    """Whether training makes a difference to what is computed."""
    return bool(self.hidden_dropout_prob or self.attention_probs_dropout_prob)

  @property
  def dimensions(self) -> dict[str, int]:
    """The letters that the weight map writes shapes with."""
    return {
      'V': self.vocab_size,
      'P': self.max_position_embeddings,
      'T': self.type_vocab_size,
      'E': self.embedding_size,
      'H': self.hidden_size,
      'I': self.intermediate_size,
      'N': self.num_attention_heads,
      'D': self.hidden_size // self.num_attention_heads,
    }


def read(path: str | os.PathLike[str]) -> AlbertConfig:
  """Reads a config file.

  Raises:
    ConfigError: naming the file and the attribute.
  """
  try:
    values = json.loads(safe_read.read(path, _LARGEST_FILE).decode(), object_pairs_hook=unique)
  except safe_read.TooLarge as e:
    raise errors.ConfigError(f'{e} in {path}: restore the file, or give another with --albert_config') from e
  except OSError as e:
    raise errors.ConfigError(f'no config in {path} ({e.strerror}): give one with --albert_config=FILE') from e
  except (ValueError, RecursionError) as e:
    raise errors.ConfigError(
      f'no valid JSON in {path} ({str(e)[:100]}): restore the file, or give another with --albert_config'
    ) from e
  try:
    return parse(values)
  except errors.ConfigError as e:
    raise errors.ConfigError(f'{e} in {path}: only the published ALBERT architecture can be converted') from e


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """An object of JSON of which no reader can think otherwise: each key once.

  Raises:
    ValueError: naming the key.
  """
  values: dict[str, Any] = {}
  for key, value in pairs:
    if key in values:
      raise ValueError(f'{key[:40]!r} is there twice')
    values[key] = value
  return values


def parse(values: Any) -> AlbertConfig:
  """Checks a decoded albert_config.json.

  Raises:
    ConfigError: naming the attribute.
  """
  return _parse(values, _FIXED, _IGNORED)


def of_hugging_face(values: Any, path: str | os.PathLike[str]) -> AlbertConfig:
  """Checks a decoded config.json of Transformers' AlbertConfig.

  Args:
    values: its content.
    path: the file, for the message.

  Raises:
    ConfigError: naming the file and the attribute.
  """
  try:
    if isinstance(values, dict):
      if values.get('model_type') != 'albert':
        raise errors.ConfigError(f'model_type is {repr(values.get("model_type"))[:40]}, not \'albert\'')
      values = _HUGGING_FACE_DEFAULTS | values
    return _parse(values, _HUGGING_FACE_FIXED, _HUGGING_FACE_IGNORED)
  except errors.ConfigError as e:
    raise errors.ConfigError(f'{e} in {path}: only the published ALBERT architecture can be converted') from e


def as_hugging_face(config: AlbertConfig) -> dict[str, Any]:
  """What config.json of Transformers' AlbertConfig says of a model. What TF1 calls gelu is the approximation with tanh."""
  return {
    'model_type': 'albert',
    **dataclasses.asdict(config),
    'hidden_act': 'gelu_new',
    'layer_norm_eps': 1e-12,
    'num_hidden_groups': 1,
    'inner_group_num': 1,
    'initializer_range': 0.02,
    'classifier_dropout_prob': 0.1,
    'pad_token_id': 0,
    'bos_token_id': 2,
    'eos_token_id': 3,
  }


def _parse(values: Any, fixed: Mapping[str, Any], ignored: frozenset[str]) -> AlbertConfig:
  """`fixed` has the only value that an attribute may have, or a tuple of all."""
  if not isinstance(values, dict):
    raise errors.ConfigError(f'a {type(values).__name__} instead of an object')
  fields = {field.name: field.type for field in dataclasses.fields(AlbertConfig)}
  missing = sorted(fields.keys() - values.keys())
  if missing:
    raise errors.ConfigError(f'missing {", ".join(missing)}')
  unknown = sorted(values.keys() - fields.keys() - ignored - fixed.keys())
  if unknown:
    raise errors.ConfigError(f'unknown {", ".join(repr(name[:40]) for name in unknown[:10])}')
  for name, only in fixed.items():
    right = only if isinstance(only, tuple) else (only,)
    if values.get(name, right[0]) not in right:
      raise errors.ConfigError(f'{name} is {repr(values[name])[:40]}, not {" or ".join(map(repr, right))}')
  checked: dict[str, Any] = {
    name: (_probability if kind is float else _size)(name, values[name]) for name, kind in fields.items()
  }
  config = AlbertConfig(**checked)
  if config.hidden_size % config.num_attention_heads:
    raise errors.ConfigError(
      f'hidden_size {config.hidden_size} is not a multiple of num_attention_heads {config.num_attention_heads}'
    )
  return config


def _size(name: str, value: Any) -> int:
  largest = _LARGEST.get(name, _LARGEST_SIZE)
  if type(value) is not int or not 0 < value <= largest:  # bool is an int
    raise errors.ConfigError(f'{name} is {repr(value)[:40]}, not a whole number from 1 to {largest}')
  return value


def _probability(name: str, value: Any) -> float:
  if type(value) not in (int, float) or not 0 <= value < 1:  # a NaN is not
    raise errors.ConfigError(f'{name} is {repr(value)[:40]}, not a probability below 1')
  return float(value)
