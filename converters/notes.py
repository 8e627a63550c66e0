"""Notes on what is left out or converted when a source is read, for people and the record."""

from collections.abc import Iterable

_MOST_NAMED = 10


def left_out(names: Iterable[str]) -> list[str]:
  """Returns the note on tensors that are no part of an encoder; an empty list for no tensors."""
  found = list(names)
  if not found:
    return []
  more = f' and {len(found) - _MOST_NAMED} more' if len(found) > _MOST_NAMED else ''
  return [f'left out, a head for a task: {", ".join(name[:100] for name in found[:_MOST_NAMED])}{more}']


def without_pooler(names: Iterable[str]) -> list[str]:
  """Returns the note on a model without pooler, of which these tensors of the source are left out."""
  found = list(names)
  return [f'left out, the pooler and its head: {", ".join(found)}' if found else 'no pooler, so no pooled output']


def converted(dtypes: Iterable[str]) -> list[str]:
  """Returns the notes on weights of smaller types."""
  return [f'weights of {dtype} widened to float32, which is exact' for dtype in dtypes]
