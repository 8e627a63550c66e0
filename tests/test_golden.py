"""Releases are compared with golden files without their sources; empty, foreign and stale files fail, and NaN."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support import modules
from support import shared

from converters import errors
from converters import source as source_lib
from export import record as record_lib
from export import spec
from export.validation import golden_file

GOLDEN = pathlib.Path(__file__).parent / 'golden'
# The golden files of `make golden`: options of the module by interface version.
MODULES = {1: dict(seed=1, mlm=False, sop=False), 2: dict(seed=2, sop=False), 3: dict(seed=3)}


def _check(path, golden):
  return golden_file.check(path, record_lib.read(path), golden)


@pytest.mark.parametrize('version', [*(pytest.param(version, marks=pytest.mark.slow) for version in (1, 2)), 3])
def test_every_interface_version_gives_the_golden_outputs(make_module, release, version):
  path, _ = release(make_module(**MODULES[version]), version=version, interface='list' if version == 1 else 'dict')
  distances = _check(path, golden_file.read(GOLDEN / f'interface_{version}.json'))
  assert list(distances) == [
    'pooled_output',
    'sequence_output',
    *(['mlm_logits'] if version > 1 else []),
    *(['sop_log_probs'] if version > 2 else []),
  ]


@pytest.mark.parametrize('version', spec.PREPROCESSOR_VERSIONS)
def test_every_preprocessor_version_gives_the_golden_ids(demo, release, version):
  path, _ = release.preprocessor(demo, version)
  assert _check(path, golden_file.read(GOLDEN / f'preprocessor_{version}.json')) > 10_000
  other = golden_file.read(GOLDEN / f'preprocessor_{version % 4 + 1}.json')
  with pytest.raises(errors.GoldenError, match=f'is of version {version % 4 + 1} of the contract, not {version}'):
    _check(path, other)


@pytest.fixture(scope='module')
def demo(tmp_path_factory, python_module):
  def make(path):
    subprocess.run(python_module('export.demo', f'--output={path}/albert_en_demo'), check=True)

  return shared.directory(tmp_path_factory, 'demo', make) / 'albert_en_demo'


@pytest.mark.slow
def test_demo_on_the_command_line(demo, tmp_path, python_module):
  def run(*flags):
    return subprocess.run(python_module(*flags), capture_output=True, text=True)

  assert (
    run(
      'export',
      f'--source={demo}',
      '--model=albert_en_demo',
      '--version=2',
      f'--export_root={tmp_path}',
      f'--report={tmp_path / "report.html"}',
    ).returncode
    == 0
  )
  release = tmp_path / 'tensorflow/albert_en_demo/2'
  assert 'albert_en_demo/2' in (tmp_path / 'report.html').read_text()
  right = run('export.golden', '--check', f'--release={release}', f'--golden={GOLDEN / "albert_en_demo.json"}')
  assert right.returncode == 0 and 'mlm_logits' in right.stdout, right.stderr
  foreign = run('export.golden', '--check', f'--release={release}', f'--golden={GOLDEN / "interface_3.json"}')
  assert foreign.returncode == 1 and ', but the golden file is of sha256:' in foreign.stderr
  # A second recording changes nothing; a recording over another file changes everything.
  again = tmp_path / 'golden.json'
  shutil.copy(GOLDEN / 'albert_en_demo.json', again)
  before = golden_file.read(again)
  assert run('export.golden', '--record', f'--source={demo}', f'--golden={again}').returncode == 0
  for name, values in golden_file.read(again)['outputs'].items():  # on another processor, in the last digits
    np.testing.assert_allclose(values, before['outputs'][name], rtol=0, atol=1e-12)
  shutil.copy(GOLDEN / 'interface_3.json', again)
  moved = run('export.golden', '--record', f'--source={demo}', f'--golden={again}').stdout
  assert 'Changed in' in moved and 'sequence_output' in moved and 'shape' in moved


@pytest.mark.parametrize(
  'flags, message',
  [
    ([], '--record, --check, --corpus: none or several given'),
    (['--record', '--check'], '--record, --check, --corpus: none or several given'),
    (['--check', '--release=x'], '--golden: missing or empty'),
    (['--check', '--golden=x'], '--release: missing or empty'),
    (['--record', '--golden=x'], '--source: missing or empty'),
    (
      ['--record', '--golden=x', '--source=.', '--preprocessor=5'],
      '--preprocessor=5: unknown version; give one of 1, 2, 3, 4',
    ),
  ],
)
def test_flags_that_cannot_be_meant(flags, message):
  run = subprocess.run([sys.executable, '-m', 'export.golden', *flags], capture_output=True, text=True)
  assert run.returncode == 2 and run.stderr.startswith('error: ') and message in run.stderr


@pytest.fixture(scope='module')
def golden(module):
  """The golden file of the release that most tests share."""
  with source_lib.open_source(str(module)) as source:
    return golden_file.of_source(source)


@pytest.fixture
def written(golden, tmp_path):
  golden_file.write(golden, tmp_path / 'golden.json')
  return tmp_path / 'golden.json'


def test_file_is_the_same_every_time_and_reads_back(golden, written, module, encoder_path):
  assert golden_file.read(written) == golden
  content = written.read_bytes()
  with source_lib.open_source(str(module)) as source:
    golden_file.write(golden_file.of_source(source), written)
  assert written.read_bytes() == content and len(content) < 20_000
  assert max(map(len, content.splitlines())) < 2_000
  assert len(_check(pathlib.Path(encoder_path), golden)) == 4
  assert golden_file.moved(golden, golden) == []


def _changed(golden, change):
  """A copy of a golden file, changed in place by a function."""
  copy = json.loads(json.dumps(golden))
  change(copy)
  return copy


def _moved(golden, name, by):
  values = [*golden['outputs'][name][1]]
  values[1] += by
  return _changed(golden, lambda g: g['outputs'][name].__setitem__(1, values))


@pytest.mark.parametrize('name', ['pooled_output', 'sequence_output', 'mlm_logits', 'sop_log_probs'])
def test_one_value_that_moved_fails(golden, encoder_path, name):
  _check(pathlib.Path(encoder_path), _moved(golden, name, 1e-13))
  wrong = _moved(golden, name, 1e-6)
  with pytest.raises(errors.ParityError, match=f'no parity with the golden file .{name} is '):
    _check(pathlib.Path(encoder_path), wrong)
  assert [what for what, _ in golden_file.moved(golden, wrong)] == [name]


@pytest.mark.parametrize(
  'change',
  [
    lambda g: g.update(outputs='text'),
    lambda g: g.update(outputs=[1]),
    lambda g: g.update(inputs=3),
    lambda g: g['outputs'].update(pooled_output=7),
  ],
)
def test_files_of_another_shape_fail(golden, encoder_path, change):
  wrong = _changed(golden, change)
  with pytest.raises(errors.AlbertHubError, match='invalid|stale|is not a table|is not in the golden file|has shape'):
    _check(pathlib.Path(encoder_path), wrong)


@pytest.mark.parametrize(
  'change, fault',
  [
    (lambda g: g['outputs'].pop('mlm_logits'), 'mlm_logits is not in the golden file'),
    (lambda g: g['outputs'].update(pooled_output=[[0.5]]), r'pooled_output has shape \[2, 16\] instead of \[1, 1\]'),
    (lambda g: g['outputs'].update(pooled_output=[]), r'pooled_output has shape \[2, 16\] instead of \[0\]'),
  ],
)
def test_missing_and_misshapen_outputs_fail(golden, encoder_path, change, fault):
  wrong = _changed(golden, change)
  with pytest.raises(errors.ParityError, match=fault):
    _check(pathlib.Path(encoder_path), wrong)


@pytest.mark.parametrize(
  'change, fault',
  [
    (lambda g: g.update(source='sha256:0'), 'made from sha256:.*, but the golden file is of sha256:0'),
    (lambda g: g.update(kind='preprocessor'), 'is of kind preprocessor'),
    (lambda g: g['inputs']['input_mask'][0].reverse() or g['inputs']['input_word_ids'][0].reverse(), 'stale inputs'),
    (lambda g: g['outputs'].update(pooled_output=[['x']]), 'pooled_output is not a table of numbers'),
    (lambda g: g['outputs'].update(pooled_output={'values': [[1.0]]}), 'pooled_output is not a table of numbers'),
  ],
)
def test_foreign_and_stale_files_fail(golden, encoder_path, change, fault):
  wrong = _changed(golden, change)
  with pytest.raises(errors.GoldenError, match=fault):
    _check(pathlib.Path(encoder_path), wrong)


@pytest.mark.parametrize(
  'content, fault',
  [
    (lambda t: '', 'not a golden file'),
    (lambda t: '[]', 'not a golden file'),
    (lambda t: t[:-40], 'not a golden file'),
    (lambda t: '[' * 200_000, 'not a golden file'),
    (lambda t: t.replace('"source"', '"sauce"'), "not a golden file .KeyError: 'source'"),
    (lambda t: json.dumps(json.loads(t) | {'outputs': {}}), 'no values to compare with'),
    (lambda t: json.dumps(json.loads(t) | {'format': 0}), 'format 0 instead of 2'),
    (lambda t: json.dumps(json.loads(t) | {'format': 1}), 'format 1 instead of 2; record it again'),
    (lambda t: t.replace('"pooled_output": [\n   [ ', '"pooled_output": [\n   [ NaN, ', 1), 'NaN among the values'),
    (
      lambda t: t.replace('"pooled_output": [\n   [ ', '"pooled_output": [\n   [ -Infinity, ', 1),
      '-Infinity among the values',
    ),
  ],
)
def test_broken_files_fail(written, content, fault):
  before = written.read_text()
  written.write_text(content(before))
  assert written.read_text() != before
  with pytest.raises(errors.GoldenError, match=fault):
    golden_file.read(written)


def test_no_file_and_no_record_fail(tmp_path):
  with pytest.raises(errors.GoldenError, match='missing.json: no golden file .No such file'):
    golden_file.read(tmp_path / 'missing.json')


def test_nan_in_the_release_fails(golden, encoder_path, monkeypatch):
  from export.validation import exported_encoder

  outputs = exported_encoder.Exported.outputs
  monkeypatch.setattr(
    exported_encoder.Exported,
    'outputs',
    lambda self, *args: {n: v * np.float32(np.nan) for n, v in outputs(self, *args).items()},
  )
  with pytest.raises(errors.ParityError, match='pooled_output is nan'):
    _check(pathlib.Path(encoder_path), golden)


def test_a_model_from_text_to_vectors_has_none(text_path, golden):
  with pytest.raises(
    errors.GoldenError,
    match='golden files do not cover text models; check its encoder',
  ):
    _check(pathlib.Path(text_path), golden)


def test_other_ids_fail(preprocessor_path, sp_model):
  path = pathlib.Path(preprocessor_path)
  digest = record_lib.read(path).source.sp_model.digest
  golden = golden_file.of_sp_model(sp_model, digest, 3)
  assert _check(path, golden) > 10_000
  golden['texts'][0]['ids'][0] += 1
  with pytest.raises(errors.ParityError, match="preprocessor: no parity for 'The bridge.* .ids "):
    _check(path, golden)
  golden = golden_file.of_sp_model(sp_model, digest, 3)
  golden['special_tokens']['mask_id'] = 5
  with pytest.raises(errors.ParityError, match='special tokens'):
    _check(path, golden)
  golden = golden_file.of_sp_model(sp_model, digest, 3)
  golden['texts'].pop()
  with pytest.raises(errors.GoldenError, match='stale texts'):
    _check(path, golden)


def test_a_source_whose_calls_disagree_is_not_recorded(own_module):
  def edit(graph):
    output = graph.signature_def['mlm'].outputs['pooled_output']
    tanh = next(n for n in graph.graph_def.node if n.name == output.name.split(':')[0])
    output.name = f'{tanh.input[0]}:0'

  modules.edit_graph(own_module, edit)
  with (
    source_lib.open_source(str(own_module)) as source,
    pytest.raises(errors.ParityError, match='mlm/pooled_output is .* from the reference'),
  ):
    golden_file.of_source(source)
