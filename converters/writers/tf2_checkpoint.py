"""A source -> a TF2 checkpoint of tf-models' AlbertEncoder."""

import pathlib
from collections.abc import Callable

import tensorflow as tf

from converters import build_encoder
from converters import source as source_lib
from converters import weight_map
from converters.writers import encoder_yaml


def write(
  source: source_lib.Source, directory: pathlib.Path, progress: Callable[[str], None] = lambda name: None
) -> list[str]:
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
  albert = build_encoder.build(source, [weight_map.Part.ENCODER], progress)
  try:
    tf.train.Checkpoint(encoder=albert.encoder).save(str(directory / 'ckpt'))
  except tf.errors.OpError as e:
    raise OSError(e.message) from e
  (directory / encoder_yaml.NAME).write_text(encoder_yaml.text(source.config), encoding='utf-8')
  (directory / source.sp_model_name).write_bytes(source.sp_model)
  return [
    f'the {part.title} head: the checkpoint is of the encoder'
    for part in weight_map.Part
    if part in source.parts and part is not weight_map.Part.ENCODER
  ]
