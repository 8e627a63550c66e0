"""The report is one self-contained page that shows the record; a browser renders it, if one is installed."""

import html.parser
import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

from converters import errors
from export import record as record_lib
from export.ui import html_report
from export.ui import proof_text

_VOID = {'meta', 'br', 'line', 'circle', 'polyline', 'i/'}


@pytest.fixture(scope='module')
def record(released):
  return json.loads((released.root / 'tensorflow/albert_en_tiny/2.release.json').read_text())


def _parsed(record):
  return record_lib.parse(json.dumps(record), 'a record')


def _html(record):
  return html_report.page(_parsed(record))


class _Page(html.parser.HTMLParser):
  """Collects a page's text and elements, and checks that all elements are closed."""

  def __init__(self, page):
    super().__init__()
    self.text, self.elements, self._open = [], [], []
    self.feed(page)
    self.close()
    assert self._open == []

  def handle_starttag(self, tag, attributes):
    self.elements.append((tag, dict(attributes)))
    if tag not in _VOID:
      self._open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.elements.append((tag, dict(attributes)))

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)


def test_page_shows_what_the_record_holds(record):
  page = _Page(_html(record))
  text = ' '.join(' '.join(page.text).split())
  certificate = record['certificate']
  for name in (
    *certificate['controls'],
    *certificate['gradient'],
    *record['libraries'],
    record['release'],
    record['source']['digest'],
    record['archive']['sha256'],
    'pooled_output',
    'mlm_logits',
    'training=True',
  ):
    assert name in text, name
  for weight in record['weights']:
    assert weight['target'] in text and weight['sha256'][:16] in text
  for name in ('pooled_output', 'sequence_output', 'mlm_logits', 'sop_log_probs'):
    for figure in (
      certificate['outputs'][name]['source'],
      certificate['outputs'][name]['reference'],
      certificate['outputs'][name]['float32']['export']['rms'],
    ):
      assert f'{figure:.1e}' in text
  assert proof_text.sentence(certificate) in text
  assert {e['id'] for _, e in page.elements if 'id' in e} == {
    'layers',
    'outputs',
    'controls',
    'gradient',
    'ledger',
    'environment',
  }


def test_plot_has_every_layer_inside_the_picture(record):
  page = _Page(_html(record))
  _, _, width, height = map(float, next(e for tag, e in page.elements if tag == 'svg')['viewbox'].split())
  lines = [e['points'] for tag, e in page.elements if tag == 'polyline']
  assert len(lines) == 3
  drawn = []
  for points in lines:
    places = [tuple(map(float, p.split(','))) for p in points.split()]
    assert len(places) == 3 and all(0 < x < width and 0 < y < height for x, y in places)
    assert sorted(x for x, _ in places) == [x for x, _ in places]
  for points, side in zip(lines, ('allowed', 'source', 'export'), strict=True):
    heights = [-float(p.split(',')[1]) for p in points.split()]
    errors_ = [record['certificate']['outputs'][f'layer_{i}']['float32'][side]['rms'] for i in range(3)]
    drawn.append((heights, errors_))
  # The height is linear in the logarithm of the error.
  heights, values = (np.concatenate(each) for each in zip(*drawn, strict=True))
  slope, start = np.polyfit(np.log(values), heights, 1)
  assert slope > 0
  np.testing.assert_allclose(heights, slope * np.log(values) + start, atol=0.2)


def test_nothing_is_fetched_and_nothing_is_run(record):
  page = _html(record)
  assert not re.search(r'https?:|src=|href=|url\(|@import|<script', page)


def test_text_of_a_record_is_text(record):
  hostile = json.loads(json.dumps(record))
  hostile['release'] = hostile['weights'][0]['source'] = '<script>alert(1)</script>'
  hostile['libraries']['"><img src=x>'] = '<b>'
  page = _html(hostile)
  assert '<script' not in page and '<img' not in page and '&lt;script&gt;' in page


def test_list_interface_and_preprocessor_have_their_pages(released, release, module, record):
  path, _ = release(module, version=1, interface='list')
  page = _html(json.loads(path.with_name('1.release.json').read_text()))
  assert '<svg' not in page and 'sequence_output' in page
  preprocessor = json.loads((released.root / 'tensorflow/albert_en_tiny_preprocess/3.release.json').read_text())
  assert f'{preprocessor["certificate"]["tokens"]["values"]:,} tokens' in ' '.join(_Page(_html(preprocessor)).text)
  one = json.loads(json.dumps(record))
  one['certificate']['outputs'] = {
    n: c for n, c in one['certificate']['outputs'].items() if n not in ('layer_1', 'layer_2')
  }
  assert _Page(_html(one))  # a model of a single layer


def test_text_has_its_page(text_path):
  record = json.loads(pathlib.Path(f'{text_path}.release.json').read_text())
  page = _Page(_html(record))
  text = ' '.join(' '.join(page.text).split())
  certificate = record['certificate']
  for word in (
    record['encoder'],
    record['preprocessor'],
    f'{certificate["texts"]} difficult texts',
    'serving_default/sequence_output',
    'layer_2',
    f'{certificate["outputs"]["layer_0"]["control"]["rms"]:.1e}',
    record['source']['digest'],
    record['weights'][3]['target'],
  ):
    assert word in text, word
  assert {e['id'] for _, e in page.elements if 'id' in e} == {'texts', 'ledger', 'environment'}
  del certificate['outputs']['layer_0']['control']
  with pytest.raises(errors.IntegrityError, match='incomplete or invalid'):
    _html(record)


def test_commands_write_it(encoder_path, tmp_path, python_module, record):
  def verify(*flags):
    return subprocess.run(
      python_module('export.verify', f'--release={encoder_path}', *flags), capture_output=True, text=True
    )

  done = verify(f'--report={tmp_path / "report.html"}')
  assert done.returncode == 0 and (tmp_path / 'report.html').read_text() == _html(record)
  for path in ('', tmp_path, tmp_path / 'missing/report.html'):
    refused = verify(f'--report={path}')
    assert refused.returncode == 2 and refused.stderr.startswith(f'error: --report={path}: '), refused.stderr


@pytest.mark.parametrize('key', ['gradient', 'controls', 'outputs'])
def test_a_record_without_its_certificate_is_refused(record, tmp_path, key):
  broken = json.loads(json.dumps(record))
  del broken['certificate'][key]
  if key == 'outputs':
    broken['certificate']['outputs'] = {'layer_0': {}}
  with pytest.raises(errors.IntegrityError, match='record of tensorflow/albert_en_tiny/2: incomplete or invalid'):
    html_report.write(_parsed(broken), tmp_path / 'report.html')
  assert not list(tmp_path.iterdir())


BROWSER = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)


@pytest.mark.skipif(BROWSER is None, reason='no Chromium here')
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_browser_draws_it(record, tmp_path, scheme):
  page, picture = tmp_path / 'report.html', tmp_path / 'report.png'
  html_report.write(_parsed(record), page)
  flags = ['--force-dark-mode', '--blink-settings=preferredColorScheme=0'] if scheme == 'dark' else []
  subprocess.run(
    [
      BROWSER,
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--window-size=1000,1600',
      *flags,
      f'--user-data-dir={tmp_path / "profile"}',
      f'--screenshot={picture}',
      page.as_uri(),
    ],
    check=True,
    capture_output=True,
    timeout=120,
  )
  import tensorflow as tf

  pixels = tf.io.decode_png(pathlib.Path(picture).read_bytes(), channels=3).numpy()
  background = pixels[-1, 0].astype(int)
  assert (background.mean() > 200) == (scheme == 'light')
  assert (abs(pixels.astype(int) - background).max(axis=-1) > 60).mean() > 0.01  # the page is not blank
