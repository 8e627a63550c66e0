"""Flags of all commands that read a source."""

import re

from absl import flags

from converters import albert_config
from converters import errors
from converters import source as source_lib
from converters.io import archive

# Help text of --source, which each command defines.
SOURCE_HELP = (
  'A directory or a .tar.gz with a TF1 Hub module, a TensorFlow checkpoint, a release of this toolchain (also '
  'fine-tuned and saved by Keras) or a model of Hugging Face Transformers; the path of one checkpoint '
  '(dir/model.ckpt-100); or a hub handle (https://tfhub.dev/google/albert_large/3).'
)

_CAPS = archive.Caps()

_ALBERT_CONFIG = flags.DEFINE_string(
  'albert_config',
  None,
  'Config file that replaces the source\'s albert_config.json; some early modules lack one.',
)
_SHA256 = flags.DEFINE_string(
  'source_sha256',
  None,
  'Expected SHA-256 of the source; another source is refused. For an archive, also one from a hub handle: the SHA-256 '
  'of the file. For a directory: the source digest in the record of a release made from it.',
)
_ACTIVATION = flags.DEFINE_enum_class(
  'activation',
  None,
  albert_config.Activation,
  'Activation function of the source. Default: the one that its own code computes for the name in its config '
  '(`gelu` is gelu_tanh in the authors\' formats, and gelu_exact in Transformers).',
)
_LOWER_CASE = flags.DEFINE_bool(
  'lower_case',
  None,
  'Whether the tokenizer lower-cases text, if the source does not state it. Default: true.',
)
_KEEP_ACCENTS = flags.DEFINE_bool(
  'keep_accents',
  None,
  'Whether the tokenizer keeps accents, if the source does not state it. Default: false.',
)
_POOLER = flags.DEFINE_bool(
  'pooler',
  True,
  'Whether the encoder has a pooler. --nopooler: the model has no pooled output and no sentence order head, as '
  'AlbertForMaskedLM, AlbertForTokenClassification and AlbertForQuestionAnswering; a pooler of the source is left out.',
)
_MEMBERS = flags.DEFINE_integer(
  'max_source_members', _CAPS.members, 'Limit on files and directories in the source\'s archive.', lower_bound=1
)
_FILE_BYTES = flags.DEFINE_integer(
  'max_source_file_bytes',
  _CAPS.file_bytes,
  'Limit on the size of one file in the source\'s archive, in bytes.',
  lower_bound=1,
)
_TOTAL_BYTES = flags.DEFINE_integer(
  'max_source_bytes', _CAPS.total_bytes, 'Limit on the unpacked size of the source\'s archive, in bytes.', lower_bound=1
)
_RATIO = flags.DEFINE_integer(
  'max_source_ratio', _CAPS.ratio, 'Limit on unpacked bytes per packed byte of the source\'s archive.', lower_bound=1
)

# For --help.
GROUPS = {
  'Reading the source': ('albert_config', 'activation', 'lower_case', 'keep_accents', 'pooler', 'source_sha256'),
  'Limits of the source\'s archive': (
    *('max_source_members', 'max_source_file_bytes', 'max_source_bytes', 'max_source_ratio'),
  ),
}


def reading() -> source_lib.Reading:
  """Returns the options of the flags.

  Raises:
    UsageError: --source_sha256 is not a SHA-256.
  """
  sha256 = _SHA256.value
  if sha256 is not None and not re.fullmatch('(sha256:)?[0-9a-fA-F]{64}', sha256):
    raise errors.UsageError(
      f'--source_sha256={sha256[:80]}: not a SHA-256; give 64 hexadecimal digits, as sha256sum prints them'
    )
  caps = archive.Caps(*(flag.value for flag in (_MEMBERS, _FILE_BYTES, _TOTAL_BYTES, _RATIO)))
  return source_lib.Reading(
    _ALBERT_CONFIG.value, sha256, caps, _ACTIVATION.value, _LOWER_CASE.value, _KEEP_ACCENTS.value, _POOLER.value
  )
