"""Reads and writes results.json, which has all measurements and is rewritten after every step.

{
  "format": 2,
  "machine": {"cpu", "cpu_id": family, model and stepping of the processor, "cores", "memory_bytes", "system"},
  "code": digest of this project's measured code,
  "load_average": load average of the minute before the run,
  "versions": {"ours" | "tf-models" | "huggingface": {library: version}},
  "import_tensorflow": {"wall", "cpu", "peak", "together", "others"},
  "sizes": {size: {"parameters", "module_bytes"}},
  "units": [{
    "size", "round", "order", "complete",
    "failures": [{"who", "step", "reason"}],
    step: {who: {figure: number, "runs": figures of each run, if the figures are medians}}
  }],
  "failures": failures outside units
}

A unit is one size in one round. In a step, the contestant "machine" has the floors, and figures that contestants share.
Times are in seconds, sizes and memory in bytes.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from benchmarks import measure
from converters import errors
from converters.io import atomic_write

NAME = 'results.json'
_FORMAT = 2


class ResultsError(errors.AlbertHubError):
  """The results cannot be used: results.json is missing, invalid or of another run, or matplotlib is missing."""


class Results:
  """The content of results.json.

  Attributes:
    values: decoded JSON object.
  """

  def __init__(self, path: pathlib.Path, values: dict[str, Any] | None = None) -> None:
    self._path = path
    self.values: dict[str, Any] = values or {'format': _FORMAT, 'sizes': {}, 'units': [], 'failures': []}

  @classmethod
  def read(cls, path: pathlib.Path) -> 'Results':
    """Reads results.json.

    Raises:
      ResultsError: the file is missing, is not valid JSON, or has another format.
    """
    try:
      values = json.loads(path.read_text(encoding='utf-8'))
    except OSError as e:
      raise ResultsError(f'{path}: cannot be read ({e.strerror}); run make bench') from e
    except ValueError as e:
      raise ResultsError(f'{path}: invalid JSON ({str(e)[:100]}); run make bench again') from e
    if not isinstance(values, dict) or values.get('format') != _FORMAT:
      raise ResultsError(f'{path}: unknown format (not {_FORMAT}); run make bench again')
    return cls(path, values)

  def unit(self, size: str, number: int) -> dict[str, Any] | None:
    """Returns the unit of a size and round; None without one."""
    return next((unit for unit in self.values['units'] if (unit['size'], unit['round']) == (size, number)), None)

  def units(self, size: str) -> list[dict[str, Any]]:
    """Returns the complete units of a size."""
    return [unit for unit in self._complete() if unit['size'] == size]

  def _complete(self) -> list[dict[str, Any]]:
    return [unit for unit in self.values['units'] if unit['complete']]

  def start_unit(self, size: str, number: int, order: list[str]) -> dict[str, Any]:
    """Adds an incomplete unit, which replaces one of the same size and round."""
    self.values['units'] = [unit for unit in self.values['units'] if (unit['size'], unit['round']) != (size, number)]
    unit: dict[str, Any] = {'size': size, 'round': number, 'order': order, 'complete': False, 'failures': []}
    self.values['units'].append(unit)
    return unit

  def sizes(self) -> list[str]:
    """Returns the sizes with complete units, by number of parameters."""
    facts: Mapping[str, Mapping[str, int]] = self.values['sizes']
    return sorted((size for size in facts if self.units(size)), key=lambda size: facts[size]['parameters'])

  def others(self) -> list[float]:
    """Returns the share of the machine's processor time that other processes took, for every measured command."""
    commands = [
      command
      for unit in self._complete()
      for step in unit.values()
      if isinstance(step, dict)
      for figures in step.values()
      for command in (figures, *figures.get('runs', []))
    ]
    return [command['others'] for command in commands if 'others' in command]

  def failures(self) -> list[dict[str, str]]:
    """Returns the failures outside units, and those of complete units with size and round."""
    return self.values['failures'] + [
      {'size': unit['size'], 'round': str(unit['round'])} | failure
      for unit in self._complete()
      for failure in unit['failures']
    ]

  def write(self) -> None:
    """Writes results.json atomically."""
    self._path.parent.mkdir(parents=True, exist_ok=True)
    # Paths of this machine must not appear in published results.
    text = json.dumps(self.values, indent=1).replace(f'{measure.ROOT}/', '')
    atomic_write.write(self._path, f'{text}\n'.encode())
