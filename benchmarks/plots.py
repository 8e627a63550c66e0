"""Draws the two plots. Imports matplotlib, which only `make bench` installs."""

import pathlib
import textwrap

import matplotlib

matplotlib.use('Agg')
import matplotlib.axes
import matplotlib.figure
import matplotlib.lines
import matplotlib.ticker

from benchmarks import figures
from benchmarks import growth as growth_lib
from benchmarks import machine
from benchmarks import results as results_lib

# The palette of Okabe and Ito, for colour-blind readers, and a marker for each colour, for print.
_STYLES = (('#0072B2', 'o'), ('#E69F00', 's'), ('#009E73', '^'), ('#CC79A7', 'D'), ('#56B4E9', 'v'), ('#D55E00', 'P'))
_GREY = '#666666'
_RESOLUTION = 140  # dots per inch

# Drops the version of matplotlib: the same results give the same bytes.
_METADATA = {'Software': None}


def ratios(results: results_lib.Results, path: pathlib.Path) -> None:
  """Draws the ratios to the peers: one line per quantity, with median, spread and goal of each size."""
  sizes = results.sizes()
  rows = [
    row
    for row in figures.ROWS
    if row.against != figures.MACHINE and any(row.spread(results.units(size)) for size in sizes)
  ]
  figure = matplotlib.figure.Figure(
    figsize=(9.5, 1.7 + 0.3 * max(len(rows), 3) * (0.7 + 0.16 * len(sizes))), layout='constrained'
  )
  axes = figure.subplots()
  axes.axvline(1, color=_GREY, linewidth=1)
  step = 0.7 / len(sizes)
  for place, row in enumerate(rows):
    if place % 2:
      axes.axhspan(place - 0.5, place + 0.5, color='#f3f3f3', linewidth=0, zorder=0)
    for turn, size in enumerate(sizes):
      y = place + (turn - (len(sizes) - 1) / 2) * step
      color, marker = _STYLES[turn % len(_STYLES)]
      if spread := row.spread(results.units(size)):
        axes.plot([spread.low, spread.high], [y, y], color=color, linewidth=2, solid_capstyle='butt')
        axes.plot(spread.median, y, marker, color=color, markersize=6, markeredgecolor='white', markeredgewidth=0.5)
      if size in row.goals:
        axes.plot(
          [row.goals[size]] * 2, [y - step / 2, y + step / 2], color='black', linewidth=1.8, solid_capstyle='butt'
        )
  edges = [place for place in range(1, len(rows)) if rows[place].against != rows[place - 1].against]
  for edge in edges:
    axes.axhline(edge - 0.5, color=_GREY, linewidth=0.8, linestyle=(0, (4, 3)))
  names = {figures.TF_MODELS: '', figures.HUGGING_FACE: ' (Hugging Face)'}
  axes.set_yticks(range(len(rows)), [row.title + names[row.against] for row in rows])
  axes.tick_params(axis='y', length=0, labelsize=9)
  axes.set_ylim(len(rows) - 0.5, -0.5)
  _ratio_axis(axes)
  axes.set_xlabel('this tool over tf-models, or over Hugging Face where named: less is better')
  handles = [
    matplotlib.lines.Line2D([], [], color=color, marker=marker, linewidth=2, markeredgecolor='white', label=size)
    for size, (color, marker) in zip(sizes, _STYLES, strict=False)
  ]
  if any(row.goals.keys() & set(sizes) for row in rows):
    handles.append(
      matplotlib.lines.Line2D(
        [], [], color='black', marker='|', markersize=11, markeredgewidth=1.8, linestyle='', label='goal'
      )
    )
  figure.legend(handles=handles, loc='outside upper right', ncols=len(handles), frameon=False)
  figure.suptitle('Ratios, with the smallest and the largest of the rounds', x=0.01, ha='left', fontsize=11)
  _sign(figure, results)
  figure.savefig(path, dpi=_RESOLUTION, metadata=_METADATA)


def growth(results: results_lib.Results, path: pathlib.Path) -> None:
  """Draws time and memory of a release over the number of parameters, with the least-squares lines."""
  figure = matplotlib.figure.Figure(figsize=(11, 4.6), layout='constrained')
  every = figure.subplots(1, len(growth_lib.QUANTITIES))
  for axes, (quantity, title) in zip(every, growth_lib.QUANTITIES.items(), strict=True):
    for who, called, (color, marker) in (
      (figures.TF_MODELS, 'tf-models', _STYLES[1]),
      (figures.OURS, 'this tool', _STYLES[0]),
    ):
      points = growth_lib.of(results, who, quantity)
      if not points.millions:
        continue
      line = points.line
      medians = [spread.median for spread in points.spreads]
      around = [[s.median - s.low for s in points.spreads], [s.high - s.median for s in points.spreads]]
      axes.errorbar(
        points.millions,
        medians,
        around,
        fmt=marker,
        color=color,
        markersize=7,
        capsize=4,
        markeredgecolor='white',
        zorder=3,
        label=called if line is None else f'{called}, line with R² = {line.r_squared:.3f}',
      )
      if line is not None:
        ends = [0, max(points.millions)]
        axes.plot(ends, [line.at(x) for x in ends], color=color, linewidth=1.5, alpha=0.7)
    axes.set_title(textwrap.fill(title[0].upper() + title[1:], 64), fontsize=10, loc='left')
    axes.set_xlabel('parameters, millions')
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(color='#e5e5e5', linewidth=0.8)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, loc='upper left')
    # Leaves room for the legend above the points.
    axes.set_ylim(top=axes.get_ylim()[1] * 1.2)
  _sign(figure, results)
  figure.savefig(path, dpi=_RESOLUTION, metadata=_METADATA)


def _ratio_axis(axes: matplotlib.axes.Axes) -> None:
  axes.set_xscale('log')
  low, high = axes.get_xlim()
  axes.set_xlim(low, max(high, 1.5))
  axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 3, 5, 7)))
  axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f'{value:g}'))
  axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
  axes.grid(axis='x', color='#dddddd', linewidth=0.8)
  axes.set_axisbelow(True)
  axes.spines[['top', 'right', 'left']].set_visible(False)


def _sign(figure: matplotlib.figure.Figure, results: results_lib.Results) -> None:
  """Adds the machine, on which all figures depend."""
  figure.supxlabel(machine.describe(results.values['machine']), fontsize=8, color=_GREY)
