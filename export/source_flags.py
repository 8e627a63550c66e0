"""The flags of every command that reads a source: how it is read, and how far it is trusted."""

import re

from absl import flags

from converters import archive
from converters import errors
from converters import source as source_lib
from export import trust as trust_lib

_CAPS = archive.Caps()
_TRUST = trust_lib.Trust()

_ALBERT_CONFIG = flags.DEFINE_string(
    'albert_config', None, 'A file to read instead of the source\'s assets/albert_config.json, which some early modules lack.')
_SHA256 = flags.DEFINE_string(
    'source_sha256', None, 'What the source must be, or it is not opened: the SHA-256 of the archive, also of the one that a handle\'s host '
    'sends; of a directory, the digest in the record of a release that was made from it.')
_MEMBERS = flags.DEFINE_integer('max_source_members', _CAPS.members, 'The most files and directories in the source\'s archive.', lower_bound=1)
_FILE_BYTES = flags.DEFINE_integer('max_source_file_bytes', _CAPS.file_bytes, 'The most bytes of one file in it.', lower_bound=1)
_TOTAL_BYTES = flags.DEFINE_integer('max_source_bytes', _CAPS.total_bytes, 'The most bytes that it unpacks to.', lower_bound=1)
_RATIO = flags.DEFINE_integer('max_source_ratio', _CAPS.ratio, 'The most unpacked bytes for each packed one.', lower_bound=1)
_TRUST_SOURCE = flags.DEFINE_bool(
    'trust_source', _TRUST.graph, 'Run the source\'s graph even if it has operations that no ALBERT needs. Operations can read and write '
    'files: only for a source whose maker you know.')
_MEMORY = flags.DEFINE_integer(
    'max_run_gib', _TRUST.memory_gib, 'The most address space of the process that runs the source\'s graph, in GiB.', lower_bound=1, upper_bound=1 << 20)
_SECONDS = flags.DEFINE_integer(
    'max_run_seconds', _TRUST.cpu_seconds, 'The most processor time of that process, in seconds over all its threads.', lower_bound=1, upper_bound=1 << 30)


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


def trust() -> trust_lib.Trust:
  """How far the source is trusted."""
  return trust_lib.Trust(_TRUST_SOURCE.value, _MEMORY.value, _SECONDS.value)
