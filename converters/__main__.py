"""Converts a pretrained ALBERT to another weight format; `python -m export` publishes a SavedModel.

  python -m converters --source=https://tfhub.dev/google/albert_large/3 --to=huggingface --output=albert_large
  python -m converters --source=albert_base.tar.gz --to=checkpoint --output=albert_base_tf2

--to=huggingface: for AutoModel and AutoTokenizer of Transformers, with every pretraining head of the source.
--to=checkpoint: for tf.train.Checkpoint(encoder=AlbertEncoder), with the encoder's YAML config for tf-models.
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
  source_flags.SOURCE_HELP,
  required=True,
)
_TO = flags.DEFINE_enum('to', None, ['huggingface', 'checkpoint'], 'Target format; see above.', required=True)
_ARCHITECTURE = flags.DEFINE_enum(
  'architecture',
  None,
  hugging_face_writer.ARCHITECTURES,
  'For --to=huggingface: the class of Transformers whose layout is written. Heads that it lacks are left out. '
  'Default: AlbertForPreTraining if the source has both heads, else AlbertModel.',
)
_OUTPUT = flags.DEFINE_string('output', None, 'The directory to make. It must not exist.', required=True)


def main() -> None:
  """Runs the command; see the module."""
  if not _OUTPUT.value:
    raise errors.UsageError('--output: empty; give a new directory')
  output = pathlib.Path(_OUTPUT.value)
  if not output.absolute().parent.is_dir():
    raise errors.UsageError(
      f'--output={output}: the parent directory does not exist; give a directory in an existing one'
    )
  if os.path.lexists(output):
    raise errors.PublishError(f'{output}: already exists; remove it, or give another --output')
  source_lib.check_handle(_SOURCE.value)
  if _ARCHITECTURE.value is not None and _TO.value != 'huggingface':
    raise errors.UsageError(f'--architecture={_ARCHITECTURE.value}: not available with --to={_TO.value}; leave it out')
  with source_lib.open_source(_SOURCE.value, source_flags.reading()) as source:
    if output.resolve().is_relative_to(source.path.resolve()):
      raise errors.UsageError(f'--output={output}: inside the source; give a directory outside of it')
    # The digest fails for a file that cannot be read, so it is computed before anything is written.
    lines = [f'{output} from {_SOURCE.value}: a {source.format}, {source.digest}']
    with _renamed_on_success(output) as directory:
      lines += [f'Left out: {part}' for part in _write(source, directory)]
    lines += [f'The source has {lack}' for lack in source_lib.missing_heads(source)]
    lines += [f'Note: {note}' for note in source_lib.notes(source)]
  print('\n'.join(lines))


def _write(source: source_lib.Source, directory: pathlib.Path) -> list[str]:
  if _TO.value == 'huggingface':
    return hugging_face_writer.write(source, directory, architecture=_ARCHITECTURE.value)
  from converters.writers import tf2_checkpoint

  return tf2_checkpoint.write(source, directory)


@contextlib.contextmanager
def _renamed_on_success(output: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a directory that is renamed to `output` on success, and removed on failure."""
  try:
    with temp_dirs.directory(f'.{output.name}.', output.parent) as place:
      made = place / 'model'
      made.mkdir()
      yield made
      cli.finish()  # an interrupt cannot undo the rename
      made.rename(output)
  except OSError as e:
    raise errors.PublishError(f'{output}: cannot be written ({e.strerror or e}); give another --output') from e


if __name__ == '__main__':
  cli.run(main)
