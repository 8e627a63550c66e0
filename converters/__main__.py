"""Converts a pretrained ALBERT to another format of weights. (To publish it as a SavedModel: python -m export.)

  python -m converters --source=https://tfhub.dev/google/albert_large/3 --to=huggingface --output=albert_large
  python -m converters --source=albert_base.tar.gz --to=checkpoint --output=albert_base_tf2

--to=huggingface: what AutoModel and AutoTokenizer of Transformers load, with every head that the source has.
--to=checkpoint: what tf.train.Checkpoint(encoder=AlbertEncoder) restores, and the encoder's YAML config for tf-models.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from absl import flags

from converters import cli
from converters import errors
from converters import source as source_lib
from converters import source_flags
from converters.io import temp_dirs
from converters.writers import hugging_face as hugging_face_writer

flags.adopt_module_key_flags(source_flags)  # so that --help shows them
_SOURCE = flags.DEFINE_string(
  'source',
  None,
  'A directory or a .tar.gz with a TF1 Hub module, a checkpoint of the authors or a model of Hugging Face Transformers; or '
  'a hub handle (https://tfhub.dev/google/albert_large/3).',
  required=True,
)
_TO = flags.DEFINE_enum('to', None, ['huggingface', 'checkpoint'], 'The format to convert to.', required=True)
_ARCHITECTURE = flags.DEFINE_enum(
  'architecture',
  None,
  hugging_face_writer.ARCHITECTURES,
  'For --to=huggingface: the class of Transformers whose '
  'layout to write. What it does not hold is left out. Default: AlbertForPreTraining if the source has both heads, else AlbertModel.',
)
_OUTPUT = flags.DEFINE_string('output', None, 'The directory to make. It must not exist.', required=True)


def main() -> None:
  if not _OUTPUT.value:
    raise errors.UsageError('--output= is empty: give the directory to make')
  output = pathlib.Path(_OUTPUT.value)
  if not output.absolute().parent.is_dir():
    raise errors.UsageError(f'--output={output}: give a new directory in one that exists')
  if os.path.lexists(output):
    raise errors.PublishError(f'{output} exists: remove it, or give another --output')
  source_lib.check_handle(_SOURCE.value)
  if _ARCHITECTURE.value is not None and _TO.value != 'huggingface':
    raise errors.UsageError(f'--architecture={_ARCHITECTURE.value} with --to={_TO.value}: leave it out')
  with source_lib.open_source(_SOURCE.value, source_flags.reading()) as source:
    if output.resolve().is_relative_to(source.path.resolve()):
      raise errors.UsageError(f'--output={output} is in the source: give a directory outside of it')
    # Before anything is written, and with a way out in one line if a file cannot be read.
    lines = [f'{output} from {_SOURCE.value}: a {source.format}, {source.digest}']
    with _appearing(output) as directory:
      lines += [f'Left out: {what}' for what in _write(source, directory)]
    lines += [f'The source has {lack}' for lack in source_lib.missing_heads(source)]
  print('\n'.join(lines))


def _write(source: source_lib.Source, directory: pathlib.Path) -> list[str]:
  if _TO.value == 'huggingface':
    return hugging_face_writer.write(source, directory, architecture=_ARCHITECTURE.value)
  from converters.writers import tf2_checkpoint

  return tf2_checkpoint.write(source, directory)


@contextlib.contextmanager
def _appearing(output: pathlib.Path) -> Iterator[pathlib.Path]:
  """A directory to write in, which becomes `output` if nothing fails, and is gone otherwise."""
  try:
    with temp_dirs.directory(f'.{output.name}.', output.parent) as place:
      made = place / 'model'
      made.mkdir()
      yield made
      cli.finish()  # from here on nothing is taken back
      made.rename(output)
  except OSError as e:
    raise errors.PublishError(f'{output} cannot be written ({e.strerror or e}): give another --output') from e


if __name__ == '__main__':
  cli.run(main)
