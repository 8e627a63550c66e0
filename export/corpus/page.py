"""Renders the results of a comparison as Markdown tables and as a self-contained HTML page."""

import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from converters import interface
from export.ui import line_chart
from export.ui import templates

_DRAWN = 4  # bins for each point; a finer curve would show the spacing of float32 values
_COLORS = dict(zip(interface.OUTPUT_NAMES, ('pooled', 'export', 'mlm', 'sop'), strict=True))


def html(results: Mapping[str, Any]) -> str:
  """Returns the HTML page for the results of `run`."""
  environment = templates.pages()
  environment.filters['visible'] = _visible
  return environment.get_template('corpus.html').render(
    results=results,
    facts=facts(results),
    rows=rows(results),
    counts=counts(results),
    work=work(results),
    colors=_COLORS,
    spread=_spread(results['outputs']) if results['lines'] else None,
    lengths=_lengths(results['lengths']) if results['lines'] else None,
  )


def _visible(text: str) -> str:
  """Replaces control characters, which are invalid in HTML, with their Unicode control pictures."""
  return ''.join(chr(0x2400 + ord(c)) if ord(c) < 0x20 else '\u2421' if c == '\x7f' else c for c in text)


def markdown(results: Mapping[str, Any]) -> str:
  """Returns the Markdown tables for the results of `run`."""
  lines = [
    f'# {results["release"]}: comparison of source and export on a corpus',
    '',
    f'**{results["verdict"]}**',
    '',
    *_table(['', ''], facts(results)),
    '',
    'Absolute differences between source and export, without padding:',
    '',
    *_table(['output', 'values', 'rms', 'allowed', '50 %', '99 %', '99.99 %', 'largest', 'allowed'], rows(results)),
    '',
    *_table(['lines', ''], counts(results)),
    '',
    *_table(['workers\' time', 'seconds', 'share'], work(results)),
    '',
    'The worst lines are in index.html and results.json.',
    '',
  ]
  return '\n'.join(lines)


def facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns the main figures, as pairs of value and name."""
  run = results['run']
  return [
    (f'{results["lines"]:,}', 'lines'),
    (f'{results["tokens"]:,}', 'tokens'),
    (f'{run["lines_per_second"]:,.1f}', 'lines per second'),
    (f'{100 * run["share_of_encoder"]:.0f} %', 'of the encoder\'s throughput'),
    (f'{run["memory_per_worker"] / 1e9:,.2f} GB', 'peak memory per worker'),
  ]


def rows(results: Mapping[str, Any]) -> list[list[str]]:
  """Returns a table row of differences for each output."""
  table = []
  for name, output in results['outputs'].items():
    most = results['allowed'][name]
    quantiles = (output['quantiles'][q] for q in ('0.5', '0.99', '0.9999'))
    table.append(
      [
        name,
        f'{output["values"]:,}',
        *(f'{figure:.1e}' for figure in (output['rms'], most['rms'], *quantiles, output['largest'], most['largest'])),
      ]
    )
  return table


def counts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns the numbers of lines by outcome, as pairs of name and value."""
  named = {
    'wrong token ids or packing': 'different',
    'another segmentation of equal score': 'equally_likely',
    'tokenization of the preprocessor\'s version differs from the original one': 'unoriginal',
    f'truncated at {results["seq_length"]} positions': 'cut',
    'without tokens': 'blank',
    'places not compared': 'not_compared',
  }
  return [(name, f'{results[key]:,}') for name, key in named.items()]


def work(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
  """Returns the time of the workers by kind of work: name, seconds and share."""
  names = {
    'rule': 'reference tokenization in Python',
    'preprocessor': 'exported preprocessor',
    'encoder': 'exported encoder',
    'source': 'source\'s graph',
    'comparison': 'comparison',
  }
  seconds = results['run']['seconds']
  whole = sum(seconds.values()) or 1.0
  return [
    (name, f'{seconds[key]:,.1f}', f'{100 * seconds[key] / whole:.0f} %')
    for key, name in names.items()
    if key in seconds
  ]


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
  cut = ['---'] + ['---:'] * (len(head) - 1)
  return [f'| {" | ".join(row)} |' for row in (head, cut, *body)]


def _spread(outputs: Mapping[str, Any]) -> dict[str, Any] | None:
  """Returns the plot of the histograms: share of the values by difference, on logarithmic axes."""
  shares = dict[str, list[tuple[float, float]]]()
  for name, output in outputs.items():
    histogram = output['histogram']
    counts = [sum(histogram['counts'][first : first + _DRAWN]) for first in range(0, histogram['bins'], _DRAWN)]
    ratio = (histogram['high'] / histogram['low']) ** (_DRAWN / histogram['bins'])
    shares[name] = [
      (histogram['low'] * ratio ** (number + 0.5), count / max(1, output['values']))
      for number, count in enumerate(counts)
      if count
    ]
  points = [point for series in shares.values() for point in series]
  if not points:
    return None
  x, x_ticks = line_chart.decades([value for value, _ in points], line_chart.LEFT, line_chart.RIGHT)
  y, y_ticks = line_chart.decades([share for _, share in points], line_chart.BOTTOM, line_chart.TOP)
  return line_chart.chart(
    {name: [(x(value), y(share)) for value, share in series] for name, series in shares.items()}, x_ticks, y_ticks
  )


def _lengths(lengths: Mapping[str, Any]) -> dict[str, Any] | None:
  """Returns the plot of rms and largest difference of `sequence_output` by padded length of a batch."""
  found = {
    name: [(int(length), there[name]) for length, there in lengths.items() if there[name] > 0]
    for name in ('rms', 'largest')
  }
  values = [value for series in found.values() for _, value in series]
  if not values:
    return None
  y, y_ticks = line_chart.decades(values, line_chart.BOTTOM, line_chart.TOP)
  most = max(length for length, _ in found['rms'])

  def x(length: int) -> float:
    return round(line_chart.LEFT + (line_chart.RIGHT - line_chart.LEFT) * length / most, 1)

  step = max(8, math.ceil(most / 16 / 8) * 8)
  return line_chart.chart(
    {name: [(x(length), y(value)) for length, value in series] for name, series in found.items()},
    [(x(length), str(length)) for length in range(0, most + 1, step)],
    y_ticks,
  )
