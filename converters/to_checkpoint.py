"""A source -> a TF2 checkpoint of tf-models' AlbertEncoder, and the YAML that tf-models configures it by."""

import pathlib
from collections.abc import Callable

import tensorflow as tf

from converters import albert as albert_lib
from converters import config as config_lib
from converters import source as source_lib
from converters import weight_map

# Of official.nlp.configs.encoders.AlbertEncoderConfig, with the attribute of albert_config.json that it is.
_FIELDS = {
    'vocab_size': 'vocab_size', 'hidden_size': 'hidden_size', 'num_layers': 'num_hidden_layers',
    'num_attention_heads': 'num_attention_heads', 'intermediate_size': 'intermediate_size', 'embedding_width': 'embedding_size',
    'max_position_embeddings': 'max_position_embeddings', 'type_vocab_size': 'type_vocab_size', 'dropout_rate': 'hidden_dropout_prob',
    'attention_dropout_rate': 'attention_probs_dropout_prob'}
YAML = 'encoder.yaml'


def write(source: source_lib.Source, directory: pathlib.Path, progress: Callable[[str], None] = lambda name: None) -> list[str]:
  """Writes `ckpt-1`, the `checkpoint` file that names it, `encoder.yaml` and the SentencePiece model into an empty directory.

  tf.train.Checkpoint(encoder=AlbertEncoder(...)) restores it, as do the tasks of tf-models with `init_checkpoint`.

  Args:
    source: the model.
    directory: where to.
    progress: called with the canonical name of each tensor once it is read.

  Returns:
    What the source has and the checkpoint has not: the heads.

  Raises:
    OSError: it cannot be written.
    SourceError: a tensor cannot be read.
  """
  albert = albert_lib.build(source, [weight_map.Part.ENCODER], progress)
  try:
    tf.train.Checkpoint(encoder=albert.encoder).save(str(directory / 'ckpt'))
  except tf.errors.OpError as e:
    raise OSError(e.message) from e
  (directory / YAML).write_text(encoder_yaml(source.config), encoding='utf-8')
  (directory / source.sp_model_name).write_bytes(source.sp_model)
  return [f'the {part.title} head: the checkpoint is of the encoder' for part in weight_map.Part
          if part in source.parts and part is not weight_map.Part.ENCODER]


def encoder_yaml(config: config_lib.AlbertConfig) -> str:
  """What `--encoder_config_file` of tf-models' tools, and `model.encoder` of its experiments, take."""
  lines = ['type: albert', 'albert:', '  hidden_activation: gelu', '  initializer_range: 0.02']
  return '\n'.join(lines + [f'  {theirs}: {_number(getattr(config, name))}' for theirs, name in _FIELDS.items()]) + '\n'


def _number(value: float) -> str:
  """As YAML 1.1 knows one: 5e-05 would be text."""
  text = repr(value)
  return text if '.' in text else text.replace('e', '.0e')
