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
from export import assets_dir
from export.ui import proof_text

_WIDTH, _HEIGHT = 900, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 885, 12, 252


def write(record: Mapping[str, Any], path: pathlib.Path) -> None:
  """Writes the page.

  Args:
    record: release record, as in 2.release.json.
    path: path of the HTML file; an existing file is replaced.

  Raises:
    PublishError: the page cannot be written.
    IntegrityError: the record is incomplete or invalid.
  """
  with prepared(record, path) as put:
    put()


@contextlib.contextmanager
def prepared(record: Mapping[str, Any], path: pathlib.Path) -> Iterator[Callable[[], None]]:
  """Writes the page to a temporary file in the directory of `path`, and removes it at the end.

  Args:
    record: release record, as in 2.release.json.
    path: path of the HTML file.

  Yields:
    A function that renames the temporary file to `path`.

  Raises:
    PublishError: the page cannot be written.
    IntegrityError: the record is incomplete or invalid.
  """
  content = page(record)
  # A constant name, so that the next process replaces the file of a killed one.
  temporary = path.with_name(f'.{path.name[:200]}.unfinished')
  try:
    try:
      temporary.write_text(content, encoding='utf-8')
    except OSError as e:
      raise errors.PublishError(f'{path}: report cannot be written ({e.strerror}); give another --report') from e

    def put() -> None:
      temporary.replace(path)

    yield put
  finally:
    temporary.unlink(missing_ok=True)


def page(record: Mapping[str, Any], up: str | None = None) -> str:
  """Returns the content of the page.

  Args:
    record: release record.
    up: address of the model's card, for a link; None for no link.

  Raises:
    IntegrityError: the record is incomplete or invalid.
  """
  try:
    return _render(record, up)
  except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, jinja2.TemplateError) as e:
    raise errors.IntegrityError(
      f'record of {record.get("release")}: incomplete or invalid ({type(e).__name__}: {e}); publish the release again'
    ) from e


def _render(record: Mapping[str, Any], up: str | None) -> str:
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(assets_dir.PATH / 'pages'),
    undefined=jinja2.StrictUndefined,
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  checks = record['certificate'].get('outputs', {}) if record['kind'] == 'encoder' else {}
  layers = [check for name, check in checks.items() if name.startswith('layer_')]
  return environment.get_template('report.html').render(
    record=record,
    up=up,
    sentence=proof_text.sentence(record['certificate']) if record['kind'] == 'encoder' else None,
    facts=_facts(record),
    made=_made(record),
    plot=_plot(layers) if layers else None,
    outputs={name: check for name, check in checks.items() if not name.startswith('layer_')},
  )


def _facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
  if record['kind'] == 'preprocessor':
    return [(f'{record["archive"]["size"] / 1e6:,.2f} MB', 'archive')]
  certificate = record['certificate']
  if record['kind'] == 'text':
    return [
      (f'{record["parameters"]:,}', 'parameters'),
      (f'{certificate["texts"]}', 'texts compared'),
      (f'{len(certificate["outputs"])}', 'outputs and layers compared'),
      (f'{record["archive"]["size"] / 1e6:,.2f} MB', 'archive'),
    ]
  heads = sum(math.prod(weight['shape']) for weight in record['weights']) - record['parameters']
  side = 'source' if certificate['against'] == 'graph' else 'reference'
  return [
    (f'{record["parameters"]:,}', 'parameters in the encoder'),
    *([(f'{heads:,}', 'in its heads')] if heads else []),
    (
      f'{proof_text.worst(certificate, "outputs", side):.1e}',
      f'worst of {len(certificate["outputs"])} outputs and layers, float64',
    ),
    (
      f'{proof_text.worst(certificate, "gradient", side):.1e}',
      f'worst of {len(certificate["gradient"])} gradients, float64',
    ),
    (f'{record["archive"]["size"] / 1e6:,.2f} MB', 'archive'),
  ]


def _made(record: Mapping[str, Any]) -> list[tuple[str, str]]:
  source = record['source']
  rows = (
    [('source', source['digest'])] if 'digest' in source else [('SentencePiece model', source['sp_model']['digest'])]
  )
  if source.get('format'):
    rows.append(('format', source['format']))
  rows += [('source has', lack) for lack in source.get('lacks', ())]
  if source.get('handle'):
    rows.append(('handle', source['handle']))
  rows += [(part, record[part]) for part in ('encoder', 'preprocessor') if record['kind'] == 'text']
  rows += [
    ('archive', f'sha256:{record["archive"]["sha256"]}'),
    ('tar inside', f'sha256:{record["archive"]["tar_sha256"]}'),
  ]
  if 'config' in record:
    rows.append(('config', ', '.join(f'{key}={value}' for key, value in record['config'].items())))
  return rows + list(record['libraries'].items())


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
    return round(_LEFT + 14 + (_RIGHT - _LEFT - 28) * (layer / (len(layers) - 1) if len(layers) > 1 else 0.5), 1)

  def y(value: float) -> float:
    share = (math.log10(value) - low) / (high - low) if value > 0 else 0.0
    return round(_BOTTOM - (_BOTTOM - _TOP) * share, 1)

  ticks = [digit * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for digit in (1, 2, 5)]
  step = max(1, math.ceil(len(layers) / 16))
  return {
    'width': _WIDTH,
    'height': _HEIGHT,
    'left': _LEFT,
    'right': _RIGHT,
    'series': {name: [(x(i), y(value)) for i, value in enumerate(values)] for name, values in series.items()},
    'x_ticks': [(x(i), i + 1) for i in range(0, len(layers), step)],
    'y_ticks': [(y(tick), f'{tick:.0e}'.replace('e-0', 'e-')) for tick in ticks if low <= math.log10(tick) <= high],
  }
