"""Proves a written float32 model against the float64 reference, and makes its record."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import numpy as np

from converters import errors
from converters import packages as packages_lib
from converters import source as source_lib
from converters import weight_map
from converters.io import digest
from converters.reference import inputs as proof_inputs
from converters.reference import measures
from converters.reference import outputs as reference_outputs

RECORD = 'record.json'
# Runs a model on a batch: outputs by the reference's names, with the encoder's shapes; layers are 'layer_0' and so on.
Run = Callable[[proof_inputs.Batch], dict[str, np.ndarray]]


class Proof:
  """The float64 outputs of a source, for a batch of rows with padding and one with a hole in its mask.

  Attributes:
    weights: the source's float32 weights of `parts`, by canonical name.
  """

  def __init__(self, source: source_lib.Source, parts: Iterable[weight_map.Part]):
    """Reads each weight and evaluates the reference.

    Raises:
      SourceError: a tensor cannot be read.
    """
    parts = frozenset(parts)
    self.weights = {row.name: source.tensor(row) for row in weight_map.rows(source.config, parts)}
    self._config = source.config
    self.batch = _with_hole(proof_inputs.make(source.config))
    self._expected = reference_outputs.Expected(source, parts, self.batch, None)

  def check(self, name: str, run: Run) -> dict[str, Any]:
    """Compares a model with the reference, for two sizes of a batch.

    Args:
      name: name of the model in messages.
      run: runs the model.

    Returns:
      The distances by output, relative to the root mean square of the values, in the form of a record.

    Raises:
      ParityError: an output differs by more than float32 rounding.
    """
    distances: dict[str, measures.Distance] = {}
    for batch, first_row in ((self.batch, 0), (_shorter(self.batch), 1)):
      for output, value in run(batch).items():
        distance = self.distance(output, value, batch.input_mask, first_row)
        distances[output] = distance.worst(distances.get(output, distance))
    record = {}
    for output, distance in distances.items():
      allowed = self._expected.float32[output].times(reference_outputs.FLOAT32_FACTOR)
      if not distance.within(allowed):
        raise errors.ParityError(
          f'{name}: {output} differs from the float64 result by {distance} of its root mean square (allowed: '
          f'{allowed}); report the conversion with its source'
        )
      record[output] = {'distance': dataclasses.asdict(distance), 'allowed': dataclasses.asdict(allowed)}
    return record

  def distance(self, output: str, value: np.ndarray, mask: np.ndarray, first_row: int = 0) -> measures.Distance:
    """Returns the distance of an output from float64, relative to the root mean square of all its values.

    Args:
      output: name of the output.
      value: the output, of the rows from `first_row` on.
      mask: int [batch, seq] of these rows.
      first_row: number of the first row.
    """
    expected = self._expected.outputs[output]
    if output == 'sequence_output' or output.startswith('layer_'):
      part = expected[np.count_nonzero(self.batch.input_mask[:first_row]) :]
    else:
      part = expected[first_row:]
    return measures.distance(measures.packed(value, mask, output), part.ravel()).over(measures.rms(expected))


def _with_hole(batch: proof_inputs.Batch) -> proof_inputs.Batch:
  """Adds a copy of the second row whose second position is masked."""
  added = [np.concatenate([value, value[1:2]]) for value in dataclasses.astuple(batch)]
  added[1][-1, 1] = 0
  return proof_inputs.Batch(*added)


def _shorter(batch: proof_inputs.Batch) -> proof_inputs.Batch:
  """Leaves the first row out, and the columns that are padding in all others."""
  length = int(np.nonzero(batch.input_mask[1:].any(axis=0))[0].max()) + 1
  ids, mask, types, positions = (value[1:] for value in dataclasses.astuple(batch))
  return proof_inputs.Batch(ids[:, :length], mask[:, :length], types[:, :length], positions)


def write_record(
  source: source_lib.Source,
  directory: pathlib.Path,
  weights: Mapping[str, np.ndarray],
  packages: Iterable[str],
  values: Mapping[str, Any],
) -> None:
  """Writes record.json about all other files of a directory.

  Args:
    source: the source.
    directory: the directory.
    weights: the weights by canonical name.
    packages: names of the packages that made and ran the files.
    values: what else the record has.
  """
  record = {
    'source': {
      'format': source.format,
      'digest': source.digest,
      'sp_model_digest': source.sp_model_digest,
      **({'handle': source.handle} if '://' in source.handle else {}),
      'notes': source_lib.notes(source),
    },
    'config': source.config.as_json(),
    **values,
    'files': {
      path.relative_to(directory).as_posix(): {'size': path.stat().st_size, 'sha256': digest.of_file(path)}
      for path in sorted(directory.rglob('*'))
      if path.is_file()
    },
    # Bytes of a weight: float32, little-endian, C order, in the canonical layout.
    'weights': [
      {
        'name': name,
        'shape': list(value.shape),
        'sha256': hashlib.sha256(np.ascontiguousarray(value, '<f4').data).hexdigest(),
      }
      for name, value in weights.items()
    ],
    'packages': packages_lib.versions(packages),
  }
  text = json.dumps(_rounded(record), indent=1, sort_keys=True, ensure_ascii=False)
  (directory / RECORD).write_text(text + '\n', encoding='utf-8')


# What the source states, and cosines near 1, which say nothing with two digits.
_NOT_ROUNDED = ('config', 'source', 'cosine', 'mlm_top_1')


def _rounded(value: Any) -> Any:
  """Rounds figures to two digits."""
  if isinstance(value, Mapping):
    return {key: inner if key in _NOT_ROUNDED else _rounded(inner) for key, inner in value.items()}
  return float(f'{value:.1e}') if isinstance(value, float) else value
