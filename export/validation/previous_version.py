"""Compares a new version of a model with the previous version."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from converters import albert_config
from export.reference import measures
from export.validation import golden_file
from export.validation import parity
from export.validation import preprocessor_certificate
from export.validation import text_certificate


def encoder_differences(
  old: pathlib.Path, old_record: Mapping[str, Any], new: pathlib.Path, new_record: Mapping[str, Any]
) -> list[str]:
  """Runs two versions of an encoder on the inputs of golden files.

  Args:
    old, new: their directories.
    old_record, new_record: of each: `config`, `interface` and `heads`.

  Returns:
    The outputs that differ by more than two right float64 computations of the same weights, one line each.
  """
  if found := _other_sizes(old_record, new_record):
    return found
  before, after = golden_file.outputs(old, old_record), golden_file.outputs(new, new_record)
  distances = {name: measures.relative(after[name], before[name]) for name in sorted(before.keys() & after.keys())}
  return [
    f'{name} is {distance.rms:.1e} from what it was in float64, more than {parity.OUTPUT_BOUND:.0e}'
    for name, distance in distances.items()
    if not distance.rms <= parity.OUTPUT_BOUND
  ]


def text_differences(
  old: pathlib.Path, old_record: Mapping[str, Any], new: pathlib.Path, new_record: Mapping[str, Any]
) -> list[str]:
  """Runs two versions of a model from text to vectors on awkward texts.

  They may be as far apart as their certificates let each of them be from its parts, together.

  Args:
    old, new: their directories.
    old_record, new_record: of each: `config` and `certificate`.

  Returns:
    The outputs that differ by more, one line each.
  """
  if found := _other_sizes(old_record, new_record):
    return found
  # Those that the versions of all preprocessors are compared on.
  texts = text_certificate.texts(1, text_certificate.affordable(albert_config.parse(new_record['config'])))
  before, after = (text_certificate.Text(path).outputs(texts) for path in (old, new))
  return _further(before, after, old_record, new_record)


def _further(
  before: Mapping[str, np.ndarray],
  after: Mapping[str, np.ndarray],
  old_record: Mapping[str, Any],
  new_record: Mapping[str, Any],
) -> list[str]:
  """The outputs that are further apart than both certificates together allow, one line each."""
  found = []
  for name in before.keys() & after.keys():
    checks = [record['certificate']['outputs'][name]['allowed'] for record in (old_record, new_record)]
    allowed = measures.Distance(*(sum(check[figure] for check in checks) for figure in ('rms', 'largest')))
    distance = measures.distance(after[name], before[name])
    if not distance.within(allowed):
      found.append(f'{name} is {distance} from what it was, more than {allowed}')
  return sorted(found)


def _other_sizes(old_record: Mapping[str, Any], new_record: Mapping[str, Any]) -> list[str]:
  sizes = {
    key: (value, new_record['config'].get(key))
    for key, value in old_record['config'].items()
    if key.endswith('_size') or key.startswith(('num_', 'max_'))
  }
  return [
    f'{key} is {new_size} instead of {old_size}' for key, (old_size, new_size) in sizes.items() if old_size != new_size
  ]


def preprocessor_differences(old: pathlib.Path, new: pathlib.Path) -> list[str]:
  """Runs two versions of a preprocessor on awkward texts.

  Returns:
    What differs, one line each: special tokens that changed or are gone, and the first text that has other ids.
  """
  before, after = preprocessor_certificate.Preprocessor(old), preprocessor_certificate.Preprocessor(new)
  tokens = after.special_tokens()
  found = [
    f'{name} is {tokens[name]} instead of {value}'
    for name, value in before.special_tokens().items()
    if name in tokens and tokens[name] != value
  ]
  texts = preprocessor_certificate.TEXTS
  for text, one, other in zip(texts, before.ids(texts), after.ids(texts), strict=True):
    if one != other:
      found.append(f'the ids of {text[:40]!r} are {other[:8]} instead of {one[:8]}')
      break
  return found
