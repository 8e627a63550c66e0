"""Defines the flags of every command that runs a source's graph."""

from absl import flags

from export.source import policy as source_policy

_TRUST = source_policy.Trust()

_TRUST_SOURCE = flags.DEFINE_bool(
  'trust_source',
  _TRUST.graph,
  'Run the source\'s graph even if it has operations that are not on the allow-list. Operations can read and write '
  'files, so give this flag only for a source whose author you know.',
)
_MEMORY = flags.DEFINE_integer(
  'max_run_gib',
  _TRUST.memory_gib,
  'Largest address space of the subprocess that runs the source\'s graph, in GiB.',
  lower_bound=1,
  upper_bound=1 << 20,
)
_SECONDS = flags.DEFINE_integer(
  'max_run_seconds',
  _TRUST.cpu_seconds,
  'Largest processor time of the subprocess that runs the source\'s graph, in seconds over all threads.',
  lower_bound=1,
  upper_bound=1 << 30,
)

# For --help.
GROUPS = {'Running the source\'s graph': ('trust_source', 'max_run_gib', 'max_run_seconds')}


def trust() -> source_policy.Trust:
  """Returns the trust that the flags state."""
  return source_policy.Trust(_TRUST_SOURCE.value, _MEMORY.value, _SECONDS.value)
