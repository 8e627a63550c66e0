"""Renders a release record as a self-contained HTML page."""

import contextlib
import math
import pathlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import jinja2

from converters import errors
from converters.io import atomic_write
from export import record as record_lib
from export.ui import line_chart
from export.ui import proof_text
from export.ui import templates


def write(record: record_lib.Record, path: pathlib.Path) -> None:
  """Writes the page.

  Args:
    record: release record.
    path: path of the HTML file; an existing file is replaced.

  Raises:
    PublishError: the page cannot be written.
    IntegrityError: the certificate is incomplete or invalid.
  """
  with prepared(record, path) as put:
    put()


@contextlib.contextmanager
def prepared(record: record_lib.Record, path: pathlib.Path) -> Iterator[Callable[[], None]]:
  """Writes the page to a temporary file in the directory of `path`, and removes it at the end.

  Args:
    record: release record.
    path: path of the HTML file.

  Yields:
    A function that renames the temporary file to `path`.

  Raises:
    PublishError: the page cannot be written.
    IntegrityError: the certificate is incomplete or invalid.
  """
  content = page(record).encode()
  with contextlib.ExitStack() as stack:
    try:
      put = stack.enter_context(atomic_write.prepared(path, content))
    except OSError as e:
      raise errors.PublishError(f'{path}: report cannot be written ({e.strerror}); give another option report') from e
    yield put


def page(record: record_lib.Record, up: str | None = None) -> str:
  """Returns the content of the page.

  Args:
    record: release record.
    up: address of the model's card, for a link; None for no link.

  Raises:
    IntegrityError: the certificate is incomplete or invalid.
  """
  try:
    return _render(record, up)
  except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, jinja2.TemplateError) as e:
    raise errors.IntegrityError(
      f'record of {record.release}: incomplete or invalid ({type(e).__name__}: {e}); publish the release again'
    ) from e


def _render(record: record_lib.Record, up: str | None) -> str:
  checks = record.certificate.get('outputs', {}) if isinstance(record, record_lib.Encoder) else {}
  layers = [check for name, check in checks.items() if name.startswith('layer_')]
  return (
    templates.pages()
    .get_template('report.html')
    .render(
      record=record,
      up=up,
      sentence=proof_text.sentence(record.certificate) if isinstance(record, record_lib.Encoder) else None,
      facts=_facts(record),
      made=_made(record),
      plot=_plot(layers) if layers else None,
      outputs={name: check for name, check in checks.items() if not name.startswith('layer_')},
    )
  )


def _facts(record: record_lib.Record) -> list[tuple[str, str]]:
  if isinstance(record, record_lib.Preprocessor):
    return [(f'{record.archive.size / 1e6:,.2f} MB', 'archive')]
  certificate = record.certificate
  if isinstance(record, record_lib.Text):
    return [
      (f'{record.parameters:,}', 'parameters'),
      (f'{certificate["texts"]}', 'texts compared'),
      (f'{len(certificate["outputs"])}', 'outputs and layers compared'),
      (f'{record.archive.size / 1e6:,.2f} MB', 'archive'),
    ]
  heads = sum(math.prod(weight.shape) for weight in record.weights) - record.parameters
  side = 'source' if certificate['against'] == 'graph' else 'reference'
  return [
    (f'{record.parameters:,}', 'parameters in the encoder'),
    *([(f'{heads:,}', 'in its heads')] if heads else []),
    (
      f'{proof_text.worst(certificate, "outputs", side):.1e}',
      f'worst of {len(certificate["outputs"])} outputs and layers, float64',
    ),
    (
      f'{proof_text.worst(certificate, "gradient", side):.1e}',
      f'worst of {len(certificate["gradient"])} gradients, float64',
    ),
    (f'{record.archive.size / 1e6:,.2f} MB', 'archive'),
  ]


def _made(record: record_lib.Record) -> list[tuple[str, str]]:
  if isinstance(record, record_lib.Preprocessor):
    rows = [('SentencePiece model', record.source.sp_model.digest)]
  else:
    source = record.source
    rows = [('source', source.digest)]
    rows += [('format', source.format)] if source.format else []
    rows += [('source has', lack) for lack in source.lacks]
    rows += [('handle', source.handle)] if source.handle else []
  if isinstance(record, record_lib.Text):
    rows += [('encoder', record.encoder), ('preprocessor', record.preprocessor)]
  rows += [
    ('archive', f'sha256:{record.archive.sha256}'),
    ('tar inside', f'sha256:{record.archive.tar_sha256}'),
  ]
  if not isinstance(record, record_lib.Preprocessor):
    rows.append(('config', ', '.join(f'{key}={value}' for key, value in record.config.items())))
  return rows + list(record.libraries.items())


def _plot(layers: list[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns the plot of float32 errors by layer, in pixels, on a logarithmic axis."""
  series = {
    name: [check['float32'][name]['rms'] for check in layers]
    for name in ('allowed', 'source', 'export')
    if all(check['float32'][name] is not None for check in layers)
  }
  values = [value for values in series.values() for value in values if value > 0] or [1.0]
  low, high = math.log10(min(values)), math.log10(max(values))
  low, high = low - 0.08 * (high - low) - 0.02, high + 0.08 * (high - low) + 0.02

  def x(layer: int) -> float:
    width = line_chart.RIGHT - line_chart.LEFT - 28
    return round(line_chart.LEFT + 14 + width * (layer / (len(layers) - 1) if len(layers) > 1 else 0.5), 1)

  y = line_chart.log_scale(low, high, line_chart.BOTTOM, line_chart.TOP)
  ticks = [digit * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for digit in (1, 2, 5)]
  step = max(1, math.ceil(len(layers) / 16))
  return line_chart.chart(
    {name: [(x(i), y(value)) for i, value in enumerate(values)] for name, values in series.items()},
    [(x(i), i + 1) for i in range(0, len(layers), step)],
    [(y(tick), f'{tick:.0e}'.replace('e-0', 'e-')) for tick in ticks if low <= math.log10(tick) <= high],
  )
