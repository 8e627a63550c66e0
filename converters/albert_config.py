"""The architecture of an ALBERT, read from albert_config.json or from Transformers' config.json."""

import dataclasses
import enum
import json
import os
from collections.abc import Mapping
from typing import Any

from converters import errors
from converters.io import safe_read


class Activation(enum.Enum):
  """The activation of the feed-forward layers and of the masked language model head.

  Values are the names that the option `activation` and records use. Frameworks give the same names to different
  functions.
  """

  GELU_TANH = 'gelu_tanh'  # GELU by its approximation with tanh
  GELU_EXACT = 'gelu_exact'  # GELU with the error function
  RELU = 'relu'
  SILU = 'silu'
  TANH = 'tanh'


_COMMON_ACTIVATIONS = {
  'gelu_new': Activation.GELU_TANH,
  'gelu_pytorch_tanh': Activation.GELU_TANH,
  'gelu_python_tanh': Activation.GELU_TANH,
  'gelu_fast': Activation.GELU_TANH,  # the same formula; its constant has fewer digits, and is equal in float32
  'gelu_accurate': Activation.GELU_TANH,
  'gelu_tanh': Activation.GELU_TANH,
  'gelu_exact': Activation.GELU_EXACT,
  'gelu_python': Activation.GELU_EXACT,
  'relu': Activation.RELU,
  'silu': Activation.SILU,
  'swish': Activation.SILU,
  'tanh': Activation.TANH,
}
# `get_activation` in the authors' modeling.py computes `gelu` with tanh.
_AUTHORS_ACTIVATIONS = _COMMON_ACTIVATIONS | {'gelu': Activation.GELU_TANH}
# ACT2FN in transformers/activations.py computes `gelu` with the error function.
_HUGGING_FACE_ACTIVATIONS = _COMMON_ACTIVATIONS | {'gelu': Activation.GELU_EXACT}
_AS_HUGGING_FACE = {
  Activation.GELU_TANH: 'gelu_new',
  Activation.GELU_EXACT: 'gelu',
  Activation.RELU: 'relu',
  Activation.SILU: 'silu',
  Activation.TANH: 'tanh',
}

# Keys that affect the computation, each with the only value that AlbertEncoder supports. Keys outside of all tables are
# ignored, and listed in the record.
_FIXED: dict[str, Any] = {
  'ln_type': 'postln',
  'net_structure_type': 0,
  'gap_size': 0,
  'num_memory_blocks': 0,
  'down_scale_factor': 1,
  'layers_to_keep': [],
  'share_parameter_across_layers': True,
  'layer_norm_eps': 1e-12,
  'layer_norm_epsilon': 1e-12,
  'position_embedding_type': 'absolute',
  'tie_word_embeddings': True,
  'is_decoder': False,
  'add_cross_attention': False,
  'is_encoder_decoder': False,
  'quantization_config': None,
  'pruned_heads': {},
}
# Default values of AlbertConfig in Transformers, for keys that a config.json leaves out.
_HUGGING_FACE_DEFAULTS = {
  'hidden_act': 'gelu_new',
  'hidden_dropout_prob': 0,
  'attention_probs_dropout_prob': 0,
  'type_vocab_size': 2,
  'max_position_embeddings': 512,
}
# Keys of every AlbertConfig that do not affect the encoder, and are not listed.
_UNUSED = frozenset({'initializer_range', 'model_type', 'architectures', 'transformers_version'})
# Keys of the tokenizer that some forks keep in the model's config.
_TOKENIZER = {'do_lower_case': 'lower_case', 'keep_accents': 'keep_accents'}
_LARGEST_FILE = 1 << 20  # bytes
# Far above every published ALBERT: a larger number means a damaged or hostile file.
_LARGEST = {'num_hidden_layers': 256, 'num_attention_heads': 1024, 'num_hidden_groups': 256, 'inner_group_num': 64}
_LARGEST_SIZE = 1 << 20


@dataclasses.dataclass(frozen=True)
class AlbertConfig:
  """The architecture of an ALBERT, under the names of albert_config.json.

  Attributes:
    vocab_size, embedding_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size,
      max_position_embeddings, type_vocab_size: positive; hidden_size is a multiple of num_attention_heads.
    hidden_dropout_prob, attention_probs_dropout_prob: in [0, 1).
    num_hidden_groups, inner_group_num: groups of layers that share weights, and different layers within each group.
    activation: of the feed-forward layers and of the masked language model head.
    pooler: whether the encoder has a pooler, and so a pooled output.
    ignored: keys of the file that do not affect the computation, sorted.
    tokenizer: `lower_case` and `keep_accents`, as far as the file states them.
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
  num_hidden_groups: int = 1
  inner_group_num: int = 1
  activation: Activation = Activation.GELU_TANH
  pooler: bool = True
  ignored: tuple[str, ...] = dataclasses.field(default=(), compare=False)
  tokenizer: dict[str, bool] = dataclasses.field(default_factory=dict, compare=False)

  def as_json(self) -> dict[str, Any]:
    """Returns the config in the form of a release's record, which `parse` reads."""
    values = dataclasses.asdict(self)
    del values['ignored'], values['activation'], values['tokenizer']
    if self.pooler:
      del values['pooler']  # a key that no other tool writes
    return values | {'hidden_act': self.activation.value}

  @property
  def has_dropout(self) -> bool:
    """Whether the training mode changes the outputs."""
    return bool(self.hidden_dropout_prob or self.attention_probs_dropout_prob)

  @property
  def block_of_layer(self) -> list[int]:
    """The number of the transformer block of each layer output.

    The layers are divided evenly among the groups. Each layer runs the blocks of its group one after the other.
    """
    inner = self.inner_group_num
    groups = [layer * self.num_hidden_groups // self.num_hidden_layers for layer in range(self.num_hidden_layers)]
    return [group * inner + block for group in groups for block in range(inner)]

  @property
  def dimensions(self) -> dict[str, int]:
    """Sizes by the letters of the weight map's shapes."""
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


def read(path: str | os.PathLike[str], activation: Activation | None = None) -> AlbertConfig:
  """Reads a config file in the authors' format.

  Args:
    path: an albert_config.json.
    activation: replaces the one that the file names.

  Raises:
    ConfigError: the config is invalid; the message names the file and the attribute.
  """
  return parse(_load(path), path, activation)


def read_hugging_face(path: str | os.PathLike[str], activation: Activation | None = None) -> AlbertConfig:
  """Reads a config.json of Transformers' AlbertConfig; arguments and errors as of `read`."""
  values = _load(path)
  if isinstance(values, dict):
    if values.get('model_type', 'albert' if _is_of_albert(values) else None) != 'albert':
      raise errors.ConfigError(
        f'{path}: model_type is {repr(values.get("model_type"))[:40]}, not \'albert\'; give an ALBERT model'
      )
    own = values.get('auto_map')
    if isinstance(own, dict) and 'AutoModel' in own:
      raise errors.ConfigError(
        f'{path}: auto_map replaces AlbertModel by code of the model ({repr(own["AutoModel"])[:80]}), which is not '
        'run; remove the key if that code computes as AlbertModel does'
      )
    values = _HUGGING_FACE_DEFAULTS | {key: value for key, value in values.items() if key != 'pooler'}
  return _parse(values, path, _HUGGING_FACE_ACTIVATIONS, activation)


def _is_of_albert(values: dict[str, Any]) -> bool:
  """Returns whether a config without `model_type`, as early versions wrote it, is of an ALBERT."""
  return 'inner_group_num' in values or 'Albert' in str(values.get('architectures'))


def parse(
  values: Any, path: str | os.PathLike[str] = 'albert_config.json', activation: Activation | None = None
) -> AlbertConfig:
  """Checks a decoded albert_config.json.

  Args:
    values: the content of the file.
    path: the file, for messages.
    activation: replaces the one that the file names.

  Raises:
    ConfigError: the config is invalid; the message names the file and the attribute.
  """
  if isinstance(values, dict) and isinstance(name := values.get('hidden_act'), str):
    values = values | {'hidden_act': name.lower()}  # as the authors' get_activation
  return _parse(values, path, _AUTHORS_ACTIVATIONS, activation)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Returns a JSON object as a dict, for `object_pairs_hook`.

  Raises:
    ValueError: a key occurs twice.
  """
  values: dict[str, Any] = {}
  for key, value in pairs:
    if key in values:
      raise ValueError(f'{key[:40]!r} occurs twice')
    values[key] = value
  return values


def authors_text(config: AlbertConfig, lower_case: bool, keep_accents: bool) -> str:
  """Returns the albert_config.json of a model in the authors' format, with the tokenizer's setting."""
  values = config.as_json() | {'do_lower_case': lower_case, 'keep_accents': keep_accents}
  if config.activation is Activation.GELU_TANH:
    values['hidden_act'] = 'gelu'
  return json.dumps(values, indent=2) + '\n'


def as_hugging_face(config: AlbertConfig) -> dict[str, Any]:
  """Returns the config.json of Transformers' AlbertConfig for a model."""
  return {
    'model_type': 'albert',
    **dataclasses.replace(config, pooler=True).as_json(),
    'hidden_act': _AS_HUGGING_FACE[config.activation],
    'layer_norm_eps': 1e-12,
    'initializer_range': 0.02,
    'classifier_dropout_prob': 0.1,
    'pad_token_id': 0,
    'bos_token_id': 2,
    'eos_token_id': 3,
  }


def _load(path: str | os.PathLike[str]) -> Any:
  try:
    return json.loads(safe_read.read(path, _LARGEST_FILE).decode('utf-8-sig'), object_pairs_hook=unique)
  except safe_read.TooLarge as e:
    raise errors.ConfigError(f'{path}: {e}; restore the file, or give another with option albert_config') from e
  except OSError as e:
    raise errors.ConfigError(f'{path}: no config ({e.strerror}); give one with option albert_config=FILE') from e
  except (ValueError, RecursionError) as e:
    raise errors.ConfigError(
      f'{path}: invalid JSON ({str(e)[:100]}); restore the file, or give another with option albert_config'
    ) from e


def _parse(
  values: Any,
  path: str | os.PathLike[str],
  activations: Mapping[str, Activation],
  activation: Activation | None,
) -> AlbertConfig:
  def fault(problem: str, action: str = 'give a model with a supported config') -> errors.ConfigError:
    return errors.ConfigError(f'{path}: {problem}; {action}')

  if not isinstance(values, dict):
    raise fault(f'a {type(values).__name__} instead of an object')
  fields: dict[str, Any] = {field.name: field for field in dataclasses.fields(AlbertConfig)}
  del fields['activation'], fields['ignored'], fields['tokenizer'], fields['pooler']
  missing = sorted(name for name, field in fields.items() if name not in values and not _has_default(field))
  if activation is None and 'hidden_act' not in values and 'hidden_act' not in missing:
    values = values | {'hidden_act': 'gelu'}  # as every config of the authors' English models
  if missing:
    raise fault(f'missing {", ".join(missing)}')
  faults = [
    f'{name} is {repr(values[name])[:40]}, not {only!r} (the only supported value)'
    for name, only in _FIXED.items()
    if values.get(name, only) != only or isinstance(values.get(name, only), bool) != isinstance(only, bool)
  ]
  if faults:
    raise fault(', '.join(faults))
  if activation is None:
    if not isinstance(values['hidden_act'], str) or values['hidden_act'] not in activations:
      raise fault(
        f'hidden_act is {repr(values["hidden_act"])[:40]}, not one of {", ".join(sorted(activations))}',
        'give option activation if the model computes one of these',
      )
    activation = activations[values['hidden_act']]
  checked: dict[str, Any] = {}
  try:
    for name, field in fields.items():
      if name in values or not _has_default(field):
        checked[name] = (_probability if field.type is float else _size)(name, values[name])
  except errors.ConfigError as e:
    raise fault(str(e)) from e
  tokenizer = {name: values[key] for key, name in _TOKENIZER.items() if key in values}
  if not all(isinstance(value, bool) for value in tokenizer.values()):
    raise fault(f'{", ".join(_TOKENIZER)} must be true or false')
  if not isinstance(pooler := values.get('pooler', True), bool):
    raise fault(f'pooler is {repr(pooler)[:40]}, not true or false')
  known = fields.keys() | _FIXED.keys() | _UNUSED | _TOKENIZER.keys() | {'hidden_act', 'pooler'}
  ignored = tuple(sorted(str(key)[:40] for key in values.keys() - known))
  config = AlbertConfig(**checked, activation=activation, pooler=pooler, ignored=ignored, tokenizer=tokenizer)
  if config.hidden_size % config.num_attention_heads:
    raise fault(
      f'hidden_size {config.hidden_size} is not a multiple of num_attention_heads {config.num_attention_heads}'
    )
  layers, groups = config.num_hidden_layers, config.num_hidden_groups
  # The authors compute the group of a layer in floating point, and Transformers in another order.
  if any(not i * groups // layers == int(i / layers * groups) == int(i / (layers / groups)) for i in range(layers)):
    raise fault(f'{layers} layers in {groups} groups, which implementations divide differently')
  return config


def _has_default(field: Any) -> bool:
  return field.default is not dataclasses.MISSING


def _size(name: str, value: Any) -> int:
  largest = _LARGEST.get(name, _LARGEST_SIZE)
  if type(value) is not int or not 0 < value <= largest:  # bool is an int
    raise errors.ConfigError(f'{name} is {repr(value)[:40]}, not a whole number from 1 to {largest}')
  return value


def _probability(name: str, value: Any) -> float:
  if type(value) not in (int, float) or not 0 <= value < 1:  # False for a NaN
    raise errors.ConfigError(f'{name} is {repr(value)[:40]}, not a probability below 1')
  return float(value)
