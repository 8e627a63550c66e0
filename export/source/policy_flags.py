"""The flags of every command that runs a source's graph: how far it is trusted."""

from absl import flags

from export.source import policy as source_policy

_TRUST = source_policy.Trust()

_TRUST_SOURCE = flags.DEFINE_bool(
  'trust_source',
  _TRUST.graph,
  'Run the source\'s graph even if it has operations that no ALBERT needs. Operations can read and write '
  'files: only for a source whose maker you know.',
)
_MEMORY = flags.DEFINE_integer(
  'max_run_gib',
  _TRUST.memory_gib,
  'The most address space of the process that runs the source\'s graph, in GiB.',
  lower_bound=1,
  upper_bound=1 << 20,
)
_SECONDS = flags.DEFINE_integer(
  'max_run_seconds',
  _TRUST.cpu_seconds,
  'The most processor time of that process, in seconds over all its threads.',
  lower_bound=1,
  upper_bound=1 << 30,
)


def trust() -> source_policy.Trust:
  """How far the source is trusted."""
  return source_policy.Trust(_TRUST_SOURCE.value, _MEMORY.value, _SECONDS.value)
