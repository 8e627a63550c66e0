"""results.json: what was measured, written anew after every step.

{
  "format": 2,
  "machine": {"cpu", "cpu_id": its family, model and stepping, "cores", "memory_bytes", "system"},
  "code": digest of what is measured, of this project,
  "load_average": of the minute before the run,
  "versions": {"ours" | "tf-models" | "huggingface": {library: version}},
  "import_tensorflow": {"wall", "cpu", "peak", "together", "others"},
  "sizes": {size: {"parameters", "module_bytes"}},
  "units": [{"size", "round", "order", "complete", "failures": [{"who", "step", "reason"}], step: {who: {figure: number,
  "runs": if its figures
    are medians of several}}}]; "machine" stands for what no contestant can leave out, and for what they have in common,
  "failures": what concerns all units
}

A unit is one size in one round. Times are seconds, sizes and memory bytes.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from benchmarks import measure
from converters import errors

NAME = 'results.json'
_FORMAT = 2


class ResultsError(errors.AlbertHubError):
  """results.json is missing, broken, or of another run."""


class Results:
  """The content of results.json.

  Attributes:
    values: it, decoded.
  """

  def __init__(self, path: pathlib.Path, values: dict[str, Any] | None = None) -> None:
    self._path = path
    self.values: dict[str, Any] = values or {'format': _FORMAT, 'sizes': {}, 'units': [], 'failures': []}

  @classmethod
  def read(cls, path: pathlib.Path) -> 'Results':
    """Raises ResultsError when there is none, or none that can be used."""
    try:
      values = json.loads(path.read_text(encoding='utf-8'))
    except OSError as e:
      raise ResultsError(f'no results in {path} ({e.strerror}): run make bench') from e
    except ValueError as e:
      raise ResultsError(f'no valid JSON in {path} ({str(e)[:100]}): run make bench again') from e
    if not isinstance(values, dict) or values.get('format') != _FORMAT:
      raise ResultsError(f'{path} has another format than {_FORMAT}: run make bench again')
    return cls(path, values)

  def unit(self, size: str, number: int) -> dict[str, Any] | None:
    return next((unit for unit in self.values['units'] if (unit['size'], unit['round']) == (size, number)), None)

  def units(self, size: str) -> list[dict[str, Any]]:
    """Those that are complete."""
    return [unit for unit in self._complete() if unit['size'] == size]

  def _complete(self) -> list[dict[str, Any]]:
    return [unit for unit in self.values['units'] if unit['complete']]

  def start_unit(self, size: str, number: int, order: list[str]) -> dict[str, Any]:
    """A new one, in place of an unfinished one."""
    self.values['units'] = [unit for unit in self.values['units'] if (unit['size'], unit['round']) != (size, number)]
    unit: dict[str, Any] = {'size': size, 'round': number, 'order': order, 'complete': False, 'failures': []}
    self.values['units'].append(unit)
    return unit

  def sizes(self) -> list[str]:
    """Those measured, smallest first."""
    facts: Mapping[str, Mapping[str, int]] = self.values['sizes']
    return sorted((size for size in facts if self.units(size)), key=lambda size: facts[size]['parameters'])

  def others(self) -> list[float]:
    """Of every measured command, the share of the machine's processor time that went to others meanwhile."""
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
    """Those that concern all units, and those of units, with their size and round."""
    return self.values['failures'] + [
      {'size': unit['size'], 'round': str(unit['round'])} | failure
      for unit in self._complete()
      for failure in unit['failures']
    ]

  def write(self) -> None:
    """Whole or not at all."""
    self._path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = self._path.with_name(f'.{self._path.name}')
    # An optional peer must not make a path of this machine public.
    text = json.dumps(self.values, indent=1).replace(f'{measure.ROOT}/', '')
    unfinished.write_text(text + '\n', encoding='utf-8')
    os.replace(unfinished, self._path)
