"""Converts a pretrained ALBERT to another weight format; `python -m export` publishes a SavedModel.

  python -m converters --source=https://tfhub.dev/google/albert_large/3 --to=huggingface --output=albert_large
  python -m converters --source=albert_base.tar.gz --to=checkpoint --output=albert_base_tf2
  python -m converters --source=albert_base.tar.gz --to=onnx --output=albert_base_onnx
  python -m converters --source=albert_base.tar.gz --to=litert --output=albert_base_litert

--to=huggingface: for AutoModel and AutoTokenizer of Transformers, with every pretraining head of the source.
--to=checkpoint: for tf.train.Checkpoint(encoder=AlbertEncoder), with the encoder's YAML config for tf-models.
--to=onnx: for ONNX Runtime, Optimum and transformers.js; compared with float64 before it is published.
--to=litert: for LiteRT (TensorFlow Lite); compared with float64 before it is published.
"""

import contextlib
import functools
import os
import pathlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from absl import flags

from converters import cli
from converters import errors
from converters import source as source_lib
from converters import source_flags
from converters.io import disk_faults
from converters.io import temp_dirs
from converters.writers import hugging_face as hugging_face_writer

flags.adopt_module_key_flags(source_flags)  # so that --help shows them
_SOURCE = flags.DEFINE_string(
  'source',
  None,
  source_flags.SOURCE_HELP,
  required=True,
)
_TO = flags.DEFINE_enum(
  'to', None, ['huggingface', 'checkpoint', 'onnx', 'litert'], 'Target format; see above.', required=True
)
_ARCHITECTURE = flags.DEFINE_enum(
  'architecture',
  None,
  hugging_face_writer.ARCHITECTURES,
  'For --to=huggingface: the class of Transformers whose layout is written. Heads that it lacks are left out. '
  'Default: AlbertForPreTraining if the source has both heads, AlbertForMaskedLM if it has that head and no pooler, '
  'else AlbertModel.',
)
_WITH_LAYERS = flags.DEFINE_bool(
  'with_layers', False, 'For --to=onnx and litert: whether the output of every layer is written.'
)
_WITH_MLM = flags.DEFINE_bool(
  'with_mlm', False, 'For --to=onnx and litert: whether the masked language model head is written.'
)
_WITH_SOP = flags.DEFINE_bool(
  'with_sop', False, 'For --to=onnx and litert: whether the sentence order head is written.'
)
_WITH_TEXT = flags.DEFINE_bool(
  'with_text',
  False,
  'For --to=onnx: whether text.onnx is written too, from texts to vectors. It needs onnxruntime-extensions.',
)
_PADDING_FREE = flags.DEFINE_bool(
  'padding_free',
  True,
  'For --to=onnx: whether only positions that are not padding are computed. Outputs at padding are then zero.',
)
_QUANTIZE = flags.DEFINE_enum(
  'quantize',
  None,
  ['int8'],
  'For --to=onnx and litert: writes int8 instead of float32 weights. Record and card say what it costs.',
)
_CORPUS = flags.DEFINE_string(
  'corpus', None, 'For --quantize: text file, one text a line, to measure on. Default: random ids.'
)
_SEQ_LENGTH = flags.DEFINE_integer(
  'seq_length',
  None,
  'For --to=litert: the only length of a sequence, with a batch of 1. Default: batch and length are dynamic.',
  lower_bound=8,
)
# Flags of some target formats only.
_ONLY_FOR = {
  'architecture': ('huggingface',),
  'with_layers': ('onnx', 'litert'),
  'with_mlm': ('onnx', 'litert'),
  'with_sop': ('onnx', 'litert'),
  'with_text': ('onnx',),
  'padding_free': ('onnx',),
  'quantize': ('onnx', 'litert'),
  'corpus': ('onnx', 'litert'),
  'seq_length': ('litert',),
}
_OUTPUT = flags.DEFINE_string('output', None, 'The directory to make. It must not exist.', required=True)

_GROUPS = {
  'Most need': ('source', 'to', 'output'),
  'Hugging Face': ('architecture',),
  'ONNX and LiteRT': (
    'with_layers',
    'with_mlm',
    'with_sop',
    'with_text',
    'padding_free',
    'quantize',
    'corpus',
    'seq_length',
  ),
  **source_flags.GROUPS,
}


def main() -> dict[str, Any]:
  """Runs the command; see the module.

  Returns:
    For --json: `output`, `source`, `format` and `digest` of the source, and lists of sentences: `left_out`, `lacks`
    and `notes`.
  """
  if not _OUTPUT.value:
    raise errors.UsageError('--output: empty; give a new directory')
  output = pathlib.Path(_OUTPUT.value)
  if not output.absolute().parent.is_dir():
    raise errors.UsageError(
      f'--output={output}: the parent directory does not exist; give a directory in an existing one'
    )
  if os.path.lexists(output):
    raise errors.PublishError(f'{output}: already exists; remove it, or give another --output')
  cli.check_not_published('--output', output)
  source_lib.check_handle(_SOURCE.value)
  for name, formats in _ONLY_FOR.items():
    if flags.FLAGS[name].present and _TO.value not in formats:
      raise errors.UsageError(f'--{name}={flags.FLAGS[name].value}: not available with --to={_TO.value}; leave it out')
  if _CORPUS.value is not None and _QUANTIZE.value is None:
    raise errors.UsageError(f'--corpus={_CORPUS.value}: not used without --quantize; leave it out')
  if _CORPUS.value is not None:
    if not _CORPUS.value:
      raise errors.UsageError('--corpus: empty; give a text file')
    from converters.writers import int8_certificate  # imports SciPy, which takes 0.3 s

    int8_certificate.read(pathlib.Path(_CORPUS.value))
  if _TO.value in ('checkpoint', 'litert'):
    cli.check_tf_models()
  write = _writer()
  with source_lib.open_source(_SOURCE.value, source_flags.reading()) as source:
    if output.resolve().is_relative_to(source.path.resolve()):
      raise errors.UsageError(f'--output={output}: inside the source; give a directory outside of it')
    # The digest fails for a file that cannot be read, so it is computed before anything is written.
    facts = {'output': str(output), 'source': _SOURCE.value, 'format': source.format, 'digest': source.digest}
    with _renamed_on_success(output) as directory:
      left_out = write(source, directory)
    lacks, notes = source_lib.missing_heads(source), source_lib.notes(source)
  lines = [f'{output} from {_SOURCE.value}: a {facts["format"]}, {facts["digest"]}']
  lines += [f'Left out: {part}' for part in left_out]
  lines += [f'The source has {lack}' for lack in lacks]
  lines += [f'Note: {note}' for note in notes]
  print('\n'.join(lines))
  return {**facts, 'left_out': left_out, 'lacks': lacks, 'notes': notes}


def _writer() -> Callable[[source_lib.Source, pathlib.Path], list[str]]:
  """Returns the function that writes the target format, and returns the parts that it left out.

  Raises:
    PackageError: a package of the format is missing.
  """
  if _TO.value == 'huggingface':
    return functools.partial(hugging_face_writer.write, architecture=_ARCHITECTURE.value)
  if _TO.value == 'checkpoint':
    from converters.writers import tf2_checkpoint

    return tf2_checkpoint.write
  from converters.writers import graph_options

  options = graph_options.Options(_WITH_LAYERS.value, _WITH_MLM.value, _WITH_SOP.value, _PADDING_FREE.value)
  int8 = _QUANTIZE.value == 'int8'
  corpus = pathlib.Path(_CORPUS.value) if _CORPUS.value is not None else None
  if _TO.value == 'litert':
    from converters.writers import litert_model

    return functools.partial(
      litert_model.write, options=options, seq_length=_SEQ_LENGTH.value, int8=int8, corpus=corpus
    )
  try:
    from converters.writers import onnx_model
  except ImportError as e:
    raise errors.PackageError(
      f'--to=onnx: the package {e.name} is missing ({e}); run `pip install onnx onnxruntime`'
    ) from e
  return functools.partial(onnx_model.write, options=options, int8=int8, corpus=corpus, text=_WITH_TEXT.value)


@contextlib.contextmanager
def _renamed_on_success(output: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a directory that is renamed to `output` on success, and removed on failure."""
  try:
    with temp_dirs.directory(f'.{output.name}.', output.parent) as place:
      made = place / 'model'
      made.mkdir()
      with disk_faults.named(str(output), 'output'):
        yield made
      for path in (made, *made.rglob('*')):  # some libraries write files that only their owner can read
        os.chmod(path, 0o755 if path.is_dir() else 0o644)
      cli.finish()  # an interrupt cannot undo the rename
      made.rename(output)
  except OSError as e:
    raise errors.PublishError(f'{output}: cannot be written ({e.strerror or e}); give another --output') from e


if __name__ == '__main__':
  cli.run(main, _GROUPS, result=True)
