"""Tables of trials."""

import collections
import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from trials import trial as trial_lib


@dataclasses.dataclass(frozen=True)
class Table:
  """A table, with a row's name in the first column."""

  title: str
  columns: list[str]
  rows: list[list[str]]

  def as_markdown(self) -> str:
    """Renders the table, under its title."""
    lines = [self.columns, ['---', *['---:'] * (len(self.columns) - 1)], *self.rows]
    return '\n'.join([f'### {self.title}', '', *('| ' + ' | '.join(line) + ' |' for line in lines)]) + '\n'


def tables(trials: Sequence[trial_lib.Trial]) -> list[Table]:
  """Counts trials by regime, and those with wrong conversions by conversion."""
  by_regime = [
    _regime_row(regime, [t for t in trials if t.regime == regime]) for regime in dict.fromkeys(t.regime for t in trials)
  ]
  wrong = [t for t in trials if t.wrong_conversion is not None]
  by_conversion = [
    _conversion_row(name, [t for t in wrong if t.wrong_conversion == name])
    for name in dict.fromkeys(str(t.wrong_conversion) for t in wrong)
  ]
  columns = ['weights', 'right accepted', 'right refused', 'wrong refused', 'wrong accepted']
  result = [Table('Trials by weights', columns, [*by_regime, _regime_row('all', trials)])]
  right = {
    regime: [
      t.certificate for t in trials if t.regime == regime and t.wrong_conversion is None and t.certificate is not None
    ]
    for regime in dict.fromkeys(t.regime for t in trials)
  }
  columns = ['weights', *_WORST]
  result.append(
    Table(
      'Right conversions: the worst relative distances',
      columns,
      [
        [regime, *(f'{max(map(figure, certificates)):.1e}' for figure in _WORST.values())]
        for regime, certificates in right.items()
        if certificates
      ],
    )
  )
  if by_conversion:
    columns = ['wrong conversion', 'refused by parity', 'refused by another check', 'accepted', 'smallest distance']
    result.append(Table('Trials by wrong conversion', columns, by_conversion))
  return result


def _most(group: str, side: str) -> Callable[[dict[str, Any]], float]:
  return lambda certificate: max(check[side] for check in certificate[group].values() if check[side] is not None)


def _float32(figure: str) -> Callable[[dict[str, Any]], float]:
  return lambda certificate: max(
    check['float32']['export'][figure] / check['float32']['allowed'][figure]
    for check in certificate['outputs'].values()
  )


_WORST: dict[str, Callable[[dict[str, Any]], float]] = {
  'outputs, source': _most('outputs', 'source'),
  'outputs, reference': _most('outputs', 'reference'),
  'gradient, source': _most('gradient', 'source'),
  'gradient, reference': _most('gradient', 'reference'),
  'float32 rms, of allowed': _float32('rms'),
  'float32 largest, of allowed': _float32('largest'),
}


def _regime_row(name: str, trials: Sequence[trial_lib.Trial]) -> list[str]:
  counts = collections.Counter((t.wrong_conversion is None, t.accepted) for t in trials)
  return [name, *(str(counts[key]) for key in ((True, True), (True, False), (False, False), (False, True)))]


def _conversion_row(name: str, trials: Sequence[trial_lib.Trial]) -> list[str]:
  refused_by = [t.refused_by for t in trials]
  parity, accepted = refused_by.count('ParityError'), refused_by.count(None)
  distances = [t.distance for t in trials if t.distance is not None]
  return [
    name,
    str(parity),
    str(len(trials) - parity - accepted),
    str(accepted),
    f'{min(distances):.0e}' if distances else '-',
  ]


def as_markdown(trials: Sequence[trial_lib.Trial], size: str) -> str:
  """Renders the tables of trials with modules of one size."""
  count = len({(trial.regime, trial.seed) for trial in trials})
  return '\n'.join([f'## Size {size}: {count} modules\n', *(table.as_markdown() for table in tables(trials))])
