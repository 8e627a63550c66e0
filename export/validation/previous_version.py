"""Compares a new version of a model with the previous version."""

import pathlib
from collections.abc import Mapping

import numpy as np

from converters.reference import measures
from export import record as record_lib
from export.validation import golden_file
from export.validation import parity
from export.validation import preprocessor_certificate
from export.validation import text_certificate


def encoder_differences(
  old: pathlib.Path, old_record: record_lib.Encoder, new: pathlib.Path, new_record: record_lib.Encoder
) -> list[str]:
  """Compares two versions of an encoder on the inputs of golden files.

  Args:
    old: directory of the previous version.
    old_record: its record.
    new: directory of the new version.
    new_record: its record.

  Returns:
    One line for each output whose relative distance in float64 exceeds `parity.OUTPUT_BOUND`.
  """
  if found := _size_differences(old_record, new_record):
    return found
  before, after = golden_file.outputs(old, old_record), golden_file.outputs(new, new_record)
  distances = {name: measures.relative(after[name], before[name]) for name in sorted(before.keys() & after.keys())}
  return [
    f'{name} is {distance.rms:.1e} from what it was in float64, more than {parity.OUTPUT_BOUND:.0e}'
    for name, distance in distances.items()
    if not distance.rms <= parity.OUTPUT_BOUND
  ]


def text_differences(
  old: pathlib.Path, old_record: record_lib.Text, new: pathlib.Path, new_record: record_lib.Text
) -> list[str]:
  """Compares two versions of a text model on edge-case texts.

  The tolerance is the sum of the tolerances in both certificates.

  Args:
    old: directory of the previous version.
    old_record: its record.
    new: directory of the new version.
    new_record: its record.

  Returns:
    One line for each output that exceeds the tolerance.
  """
  if found := _size_differences(old_record, new_record):
    return found
  # The texts of contract version 1 are those of all versions.
  texts = text_certificate.texts(1, text_certificate.affordable(record_lib.config(new_record)))
  before, after = (text_certificate.Text(path).outputs(texts) for path in (old, new))
  before = _without_padding(before, after)
  return _outputs_out_of_tolerance(before, after, old_record, new_record)


def _without_padding(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the earlier outputs, with zeros at padding if only the later text model leaves padding out."""
  sequence, later = before['sequence_output'], after['sequence_output']
  padding = np.all(later == 0, axis=-1, keepdims=True)
  if later.shape != sequence.shape or np.any(np.all(sequence == 0, axis=-1)):
    return dict(before)
  return {name: np.where(padding, 0, value) if value.ndim == 3 else value for name, value in before.items()}


def _outputs_out_of_tolerance(
  before: Mapping[str, np.ndarray],
  after: Mapping[str, np.ndarray],
  old_record: record_lib.Text,
  new_record: record_lib.Text,
) -> list[str]:
  """Returns one line for each output whose distance exceeds the sum of both tolerances."""
  found = []
  for name in before.keys() & after.keys():
    checks = [record.certificate['outputs'][name]['allowed'] for record in (old_record, new_record)]
    allowed = measures.Distance(*(sum(check[figure] for check in checks) for figure in ('rms', 'largest')))
    distance = measures.distance(after[name], before[name])
    if not distance.within(allowed):
      found.append(f'{name} is {distance} from what it was, more than {allowed}')
  return sorted(found)


def _size_differences(
  old_record: record_lib.Encoder | record_lib.Text, new_record: record_lib.Encoder | record_lib.Text
) -> list[str]:
  sizes = {
    key: (value, new_record.config.get(key))
    for key, value in old_record.config.items()
    if key.endswith('_size') or key.startswith(('num_', 'max_'))
  }
  return [
    f'{key} is {new_size} instead of {old_size}' for key, (old_size, new_size) in sizes.items() if old_size != new_size
  ]


def preprocessor_differences(old: pathlib.Path, new: pathlib.Path) -> list[str]:
  """Compares two versions of a preprocessor on edge-case texts.

  Args:
    old: directory of the previous version.
    new: directory of the new version.

  Returns:
    One line for each changed special token, and one for the first text with different ids.
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
