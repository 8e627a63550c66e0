"""Writes a TF2 checkpoint of tf-models' AlbertEncoder."""

import pathlib
from collections.abc import Callable

import tensorflow as tf

from converters import albert_config
from converters import build_encoder
from converters import errors
from converters import source as source_lib
from converters import weight_map
from converters.readers import encoder_yaml


def write(
  source: source_lib.Source, directory: pathlib.Path, progress: Callable[[str], None] = lambda name: None
) -> list[str]:
  """Writes `ckpt-1`, its `checkpoint` file, the configs and the SentencePiece model into an empty directory.

  tf.train.Checkpoint(encoder=AlbertEncoder(...)) restores it, as do the tasks of tf-models with `init_checkpoint`.

  Args:
    source: the model.
    directory: the directory to write to.
    progress: called with the canonical name of each tensor once it is read.

  Returns:
    The parts that are left out: the heads, and encoder.yaml if tf-models cannot describe the encoder.

  Raises:
    OSError: the directory cannot be written.
    SourceError: a tensor cannot be read, or the model has several groups.
  """
  if source.config.num_hidden_groups > 1 or source.config.inner_group_num > 1:
    raise errors.SourceError(
      f'{source.handle}: {source.config.num_hidden_groups} groups of {source.config.inner_group_num} blocks, but '
      'AlbertEncoder has one block; give another option to'
    )
  albert = build_encoder.build(source, [weight_map.Part.ENCODER], progress)
  try:
    tf.train.Checkpoint(encoder=albert.encoder).save(str(directory / 'ckpt'))
  except tf.errors.OpError as e:
    raise OSError(e.message) from e
  setting = source.tokenization
  config = albert_config.authors_text(source.config, setting.lower_case, setting.keep_accents)
  (directory / 'albert_config.json').write_text(config, encoding='utf-8')
  (directory / source.sp_model_name).write_bytes(source.sp_model)
  left = [
    f'the {part.title} head: the checkpoint is of the encoder'
    for part in weight_map.Part
    if part in source.parts and part is not weight_map.Part.ENCODER
  ]
  if not source.config.pooler:
    left.append(f'{encoder_yaml.NAME}: the encoders that tf-models makes of it have a pooler')
  elif source.config.activation in encoder_yaml.ACTIVATIONS:
    (directory / encoder_yaml.NAME).write_text(encoder_yaml.text(source.config), encoding='utf-8')
  else:
    left.append(f'{encoder_yaml.NAME}: tf-models has no name for the activation {source.config.activation.value}')
  return left
