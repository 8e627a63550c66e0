"""albert_config.json: what an ALBERT looks like."""

import dataclasses
import json
import os
from typing import Any

from converters import bounded
from converters import errors

# Attributes that do not touch what a trained model computes.
_IGNORED = frozenset({'initializer_range'})
# Attributes that would change the architecture, or that the authors' configs carry and nobody documented: only the value that all
# published modules have can be converted.
_FIXED = {'hidden_act': 'gelu', 'num_hidden_groups': 1, 'inner_group_num': 1, 'ln_type': 'postln', 'net_structure_type': 0, 'gap_size': 0,
          'num_memory_blocks': 0, 'down_scale_factor': 1, 'layers_to_keep': []}
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
    values = json.loads(bounded.read(path, _LARGEST_FILE).decode(), object_pairs_hook=_object)
  except bounded.TooLarge as e:
    raise errors.ConfigError(f'{e} in {path}: restore the file, or give another with --albert_config') from e
  except OSError as e:
    raise errors.ConfigError(f'no config in {path} ({e.strerror}): give one with --albert_config=FILE') from e
  except (ValueError, RecursionError) as e:
    raise errors.ConfigError(f'no valid JSON in {path} ({str(e)[:100]}): restore the file, or give another with --albert_config') from e
  try:
    return parse(values)
  except errors.ConfigError as e:
    raise errors.ConfigError(f'{e} in {path}: only the published ALBERT architecture can be converted') from e


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """An object of which no reader can think otherwise: each key once."""
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
  if not isinstance(values, dict):
    raise errors.ConfigError(f'a {type(values).__name__} instead of an object')
  fields = {field.name: field.type for field in dataclasses.fields(AlbertConfig)}
  missing = sorted(fields.keys() - values.keys())
  if missing:
    raise errors.ConfigError(f'missing {", ".join(missing)}')
  unknown = sorted(values.keys() - fields.keys() - _IGNORED - _FIXED.keys())
  if unknown:
    raise errors.ConfigError(f'unknown {", ".join(repr(name[:40]) for name in unknown[:10])}')
  for name, only in _FIXED.items():
    if values.get(name, only) != only:
      raise errors.ConfigError(f'{name} is {repr(values[name])[:40]}, not {only!r}')
  checked: dict[str, Any] = {name: (_probability if kind is float else _size)(name, values[name]) for name, kind in fields.items()}
  config = AlbertConfig(**checked)
  if config.hidden_size % config.num_attention_heads:
    raise errors.ConfigError(
        f'hidden_size {config.hidden_size} is not a multiple of num_attention_heads {config.num_attention_heads}')
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
