"""The flags of every command that reads a source: how it is read."""

import re

from absl import flags

from converters import errors
from converters import source as source_lib
from converters.io import archive

_CAPS = archive.Caps()

_ALBERT_CONFIG = flags.DEFINE_string(
  'albert_config',
  None,
  'A file to read instead of the source\'s assets/albert_config.json, which some early modules lack.',
)
_SHA256 = flags.DEFINE_string(
  'source_sha256',
  None,
  'What the source must be, or it is not opened: the SHA-256 of the archive, also of the one that a handle\'s host '
  'sends; of a directory, the digest in the record of a release that was made from it.',
)
_MEMBERS = flags.DEFINE_integer(
  'max_source_members', _CAPS.members, 'The most files and directories in the source\'s archive.', lower_bound=1
)
_FILE_BYTES = flags.DEFINE_integer(
  'max_source_file_bytes', _CAPS.file_bytes, 'The most bytes of one file in it.', lower_bound=1
)
_TOTAL_BYTES = flags.DEFINE_integer(
  'max_source_bytes', _CAPS.total_bytes, 'The most bytes that it unpacks to.', lower_bound=1
)
_RATIO = flags.DEFINE_integer(
  'max_source_ratio', _CAPS.ratio, 'The most unpacked bytes for each packed one.', lower_bound=1
)


def reading() -> source_lib.Reading:
  """How the source is read.

  Raises:
    UsageError: --source_sha256 is no SHA-256.
  """
  sha256 = _SHA256.value
  if sha256 is not None and not re.fullmatch('(sha256:)?[0-9a-fA-F]{64}', sha256):
    raise errors.UsageError(f'--source_sha256={sha256[:80]}: give 64 hexadecimal digits, as sha256sum prints them')
  caps = archive.Caps(*(flag.value for flag in (_MEMBERS, _FILE_BYTES, _TOTAL_BYTES, _RATIO)))
  return source_lib.Reading(_ALBERT_CONFIG.value, sha256, caps)
