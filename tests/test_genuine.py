"""Exports modules that tensorflow_hub wrote, and compares them with outputs of TensorFlow 1.15."""

import dataclasses
import json
import pathlib
import pickle
import subprocess
import tarfile

import numpy as np
import pytest
from support import shared
from tensorflow.core.protobuf import saved_model_pb2

from export import record as record_lib
from genuine import comparison

FIXTURES = pathlib.Path(__file__).parent / 'genuine'
KINDS = ('einsum', 'partitioned')


@dataclasses.dataclass
class Exported:
  """One of the modules, exported from an archive by one command."""

  kind: str
  module: pathlib.Path
  flags: list[str]
  process: subprocess.CompletedProcess
  encoder: pathlib.Path
  preprocessor: pathlib.Path


@pytest.fixture(scope='session', params=KINDS)
def exported(request, tmp_path_factory, python_module) -> Exported:
  kind = request.param

  def make(path):
    (path / 'exported.pickle').write_bytes(pickle.dumps(_export(kind, path, python_module)))

  return pickle.loads((shared.directory(tmp_path_factory, f'genuine_{kind}', make) / 'exported.pickle').read_bytes())


def _export(kind, root, python_module) -> Exported:
  module = FIXTURES / f'{kind}.tar.gz'
  # Like early modules, the partitioned one has no albert_config.json among its assets.
  flags = [
    f'--source={module}',
    *([f'--albert_config={FIXTURES}/{kind}.albert_config.json'] if kind == 'partitioned' else []),
  ]
  process = subprocess.run(
    python_module(
      'export',
      *flags,
      '--model=albert_en_demo',
      '--version=2',
      '--preprocessor=albert_en_demo_preprocess/4',
      '--breaking',
      f'--export_root={root}',
    ),
    capture_output=True,
    text=True,
  )
  return Exported(
    kind, module, flags, process, root / 'tensorflow/albert_en_demo/2', root / 'tensorflow/albert_en_demo_preprocess/4'
  )


def test_release_computes_what_tensorflow_1_computed(exported):
  assert exported.process.returncode == 0 and exported.process.stderr == '', exported.process.stderr
  found = comparison.compare(exported.encoder, exported.preprocessor, FIXTURES / f'{exported.kind}.expected.npz')
  assert found.faults() == [] and found.texts > 100
  sop = ['sop/pooled_output', 'sop/sequence_output', 'sop/sop_log_probs'] if exported.kind == 'einsum' else []
  assert list(found.outputs) == [
    'mlm/mlm_logits',
    'mlm/pooled_output',
    'mlm/sequence_output',
    *sop,
    'tokens/pooled_output',
    'tokens/sequence_output',
  ]
  assert record_lib.read(exported.encoder).certificate['against'] == 'graph'


def test_comparison_sees_other_outputs_and_other_ids(exported, tmp_path):
  with np.load(FIXTURES / f'{exported.kind}.expected.npz') as stored:
    values = dict(stored)
  values['mlm/mlm_logits'][0, 0] += 1e-4
  values['ids/3'] = values['ids/3'][::-1]
  values['tokens/pooled_output'] = values['tokens/pooled_output'] * np.nan
  np.savez(tmp_path / 'expected.npz', **values)
  faults = comparison.compare(exported.encoder, exported.preprocessor, tmp_path / 'expected.npz').faults()
  assert [fault.split(' ')[0] for fault in faults] == [
    'mlm/mlm_logits',
    'tokens/pooled_output',
    '1',
  ] and '1 of 132 texts' in faults[-1]


@pytest.mark.parametrize('kind', KINDS)
def test_fixtures_have_what_only_the_exporter_writes(tmp_path, kind):
  """The fixtures have no saver, a graph by TensorFlow 1.15, and partitioned variables; demo modules do not."""
  with tarfile.open(FIXTURES / f'{kind}.tar.gz') as tar:
    tar.extractall(tmp_path, filter='data')
  saved_model = saved_model_pb2.SavedModel.FromString((tmp_path / 'saved_model.pb').read_bytes())
  for meta_graph in saved_model.meta_graphs:
    assert meta_graph.meta_info_def.tensorflow_version == '1.15.5' and not meta_graph.HasField('saver_def')
    assert 'model_variables' in meta_graph.collection_def
    partitions = [node.name for node in meta_graph.graph_def.node if node.op == 'VarHandleOp' and '/part_' in node.name]
    assert bool(partitions) == (kind == 'partitioned')
  assert (tmp_path / 'assets/albert_config.json').exists() == (kind == 'einsum')


@pytest.mark.slow
def test_golden_files_and_corpora_take_them(exported, tmp_path, python_module):
  """Both commands run the source's graph in separate subprocesses."""

  def run(*flags):
    process = subprocess.run(python_module('export.golden', *flags), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr

  run('--record', f'--golden={tmp_path / "golden.json"}', *exported.flags)
  run('--check', f'--release={exported.encoder}', f'--golden={tmp_path / "golden.json"}')
  (tmp_path / 'lines.txt').write_text('The ferry was late.\nIt cost 1,200 crowns, or less.\n' * 20)
  run(
    f'--corpus={tmp_path / "lines.txt"}',
    *exported.flags,
    f'--release={exported.encoder}',
    f'--output={tmp_path / "out"}',
    '--direct_num_workers=1',
  )
  results = json.loads((tmp_path / 'out/results.json').read_text())
  assert results['passed'] and results['lines'] == 40 and results['different'] == results['not_compared'] == 0
