"""Prints steps with their times, progress bars and tables to standard output."""

import contextlib
import os
import sys
import time
import typing
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import rich.box
import rich.console
import rich.progress
import rich.table

from converters import options
from export.ui import proof_text
from export.ui import trace

if typing.TYPE_CHECKING:
  from export.validation import text_certificate as text_certificate_lib

Advance = Callable[[int], None]

_SHORTEST = 0.05  # seconds; shorter steps would be listed with 0.0 s


def size(count: int) -> str:
  """Returns a number of bytes in kB or MB."""
  return f'{count / 1e6:,.2f} MB' if count >= 1e5 else f'{count / 1e3:,.1f} kB'


class _Console(rich.console.Console):
  def on_broken_pipe(self) -> None:
    """Stops printing, but not the command, when the reader has closed the pipe."""
    self.quiet = True
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Console:
  """Prints to standard output."""

  def __init__(self, profile: trace.Profile | None = None) -> None:
    """Makes a console that records its steps in `profile`."""
    self.profile = profile or trace.Profile()
    # Without a terminal, lines have no width limit, so that paths are not wrapped.
    self._console = _Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)

  def line(self, text: str) -> None:
    """Prints a line of plain text, with flags in place of options."""
    self._console.print(options.as_flags(text), markup=False)

  @contextlib.contextmanager
  def step(self, name: str, total: int | None = None, detail: Callable[[], str] = lambda: '') -> Iterator[Advance]:
    """Times a step, and prints its name, time and detail at the end, unless it took no time and has no detail.

    Args:
      name: name of the step.
      total: amount of work for the progress bar; None if unknown.
      detail: function that returns a note on the outcome, called at the end.

    Yields:
      A function that advances the progress bar by an amount of work.
    """
    start = time.monotonic()
    columns = (
      rich.progress.TextColumn('  {task.description:<44}'),
      rich.progress.BarColumn(bar_width=30),
      rich.progress.TaskProgressColumn(),
    )
    # Without a terminal, a disabled bar also prints no blank line.
    with (
      rich.progress.Progress(
        *columns, console=self._console, transient=True, disable=not self._console.is_terminal
      ) as progress,
      self.profile.span(name),
    ):
      task = progress.add_task(name, total=total)
      yield lambda amount: progress.advance(task, amount)
    seconds, note = time.monotonic() - start, detail()
    if note or seconds >= _SHORTEST:
      self.line(f'  {name:<44}{seconds:7.1f} s   {note}'.rstrip())

  def table(self, title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Prints a table with a title, the first column left-justified."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, column in enumerate(columns):
      table.add_column(column, justify='left' if number == 0 else 'right', overflow='fold')
    for row in rows:
      table.add_row(*row)
    self.line(f'\n{title}')
    self._console.print(table, soft_wrap=False)

  def facts(self, title: str, rows: Iterable[tuple[str, str] | list[str]]) -> None:
    """Prints pairs of name and value, without truncation."""
    self.line(f'\n{title}')
    for name, value in rows:
      self.line(f'  {name:<44} {value}')

  def certificate(self, certificate: Mapping[str, Any]) -> None:
    """Prints an encoder's certificate, given as in a release record."""
    self.line(f'\n{proof_text.sentence(certificate)}')
    self.table(
      'Float32 distance to float64, relative to the root mean square (rms, largest)',
      ['output', 'source', 'export', 'allowed'],
      [
        [
          name,
          *(
            '-' if d is None else f'{d["rms"]:.1e}  {d["largest"]:.1e}'
            for d in (check['float32'][side] for side in ('source', 'export', 'allowed'))
          ),
        ]
        for name, check in certificate['outputs'].items()
        if not name.startswith('layer_')
      ],
    )
    self.line(
      'Dropout: only with training=True'
      if certificate['dropout']
      else 'No dropout: training=True and training=False are equal'
    )
    self.table(
      'Negative controls: wrong conversions, rejected in float64',
      ['control', 'distance', 'at least'],
      [
        [name, f'{distance:.1e}', f'{certificate["bounds"]["controls"]:.0e}']
        for name, distance in certificate['controls'].items()
      ],
    )

  def text_certificate(self, certificate: 'text_certificate_lib.Certificate') -> None:
    """Prints a text model's certificate."""
    self.table(
      f'Text model on {certificate.texts} texts: distance to the preprocessor followed by the encoder',
      ['output', 'model', 'allowed', 'negative control'],
      [
        [
          name,
          f'{c.apart.rms:.1e}  {c.apart.largest:.1e}',
          f'{c.allowed.rms:.1e}  {c.allowed.largest:.1e}',
          f'{c.control.rms:.1e}',
        ]
        for name, c in certificate.outputs.items()
        if not name.startswith('layer_')
      ],
    )
