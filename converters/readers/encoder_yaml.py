"""encoder.yaml: the config of tf-models' AlbertEncoder. Imports no TensorFlow."""

import os
import pathlib
from typing import Any

import yaml

from converters import albert_config
from converters import errors
from converters.io import safe_read

NAME = 'encoder.yaml'
# Fields of official.nlp.configs.encoders.AlbertEncoderConfig, each with its attribute of albert_config.json.
_FIELDS = {
  'vocab_size': 'vocab_size',
  'hidden_size': 'hidden_size',
  'num_layers': 'num_hidden_layers',
  'num_attention_heads': 'num_attention_heads',
  'intermediate_size': 'intermediate_size',
  'embedding_width': 'embedding_size',
  'max_position_embeddings': 'max_position_embeddings',
  'type_vocab_size': 'type_vocab_size',
  'dropout_rate': 'hidden_dropout_prob',
  'attention_dropout_rate': 'attention_probs_dropout_prob',
}
# Names that tf_utils.get_activation takes. It has none for exact GELU.
ACTIVATIONS = {
  albert_config.Activation.GELU_TANH: 'gelu',
  albert_config.Activation.RELU: 'relu',
  albert_config.Activation.SILU: 'swish',
  albert_config.Activation.TANH: 'tanh',
}
_LARGEST_FILE = 1 << 20  # bytes


class _Loader(yaml.SafeLoader):
  """Refuses aliases, by which a small file can describe a huge value."""

  def compose_node(self, parent: Any, index: Any) -> Any:
    """Composes a node; refuses an alias."""
    if self.check_event(yaml.AliasEvent):
      raise yaml.YAMLError('aliases are not supported')
    return super().compose_node(parent, index)


def text(config: albert_config.AlbertConfig) -> str:
  """Returns the file that `--encoder_config_file` and `model.encoder` of tf-models take.

  Args:
    config: a config with an activation in ACTIVATIONS.
  """
  lines = ['type: albert', 'albert:', f'  hidden_activation: {ACTIVATIONS[config.activation]}']
  lines.append('  initializer_range: 0.02')
  return '\n'.join(lines + [f'  {theirs}: {_number(getattr(config, name))}' for theirs, name in _FIELDS.items()]) + '\n'


def read(
  path: str | os.PathLike[str], activation: albert_config.Activation | None = None
) -> albert_config.AlbertConfig:
  """Reads a file that `text` wrote, or one of tf-models with the same fields.

  Raises:
    ConfigError: the file is invalid; the message names the file and the attribute.
  """
  try:
    values: Any = yaml.load(safe_read.read(path, _LARGEST_FILE).decode(), _Loader)
    inner = values['albert']
    fields: dict[str, Any] = {name: inner[theirs] for theirs, name in _FIELDS.items() if theirs in inner}
    fields['hidden_act'] = inner.get('hidden_activation', 'gelu')
  except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, yaml.YAMLError) as e:
    raise errors.ConfigError(
      f'{path}: not the config of an AlbertEncoder ({type(e).__name__}: {str(e)[:100]}); give option albert_config=FILE'
    ) from e
  return albert_config.parse(fields, pathlib.Path(path), activation)


def _number(value: float) -> str:
  """Returns a number as YAML 1.1 reads it: 5e-05 would be text."""
  text = repr(value)
  return text if '.' in text else text.replace('e', '.0e')
