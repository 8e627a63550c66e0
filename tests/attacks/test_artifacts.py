"""Published artifacts are safe: scanners report nothing, all operations are known, and no trace of the machine."""

import gzip
import json
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
import tensorflow as tf
from support import commands
from support import modules
from support import trees
from tensorflow.core.protobuf import saved_model_pb2

from converters import errors
from export.graphs import graph_defs
from export.graphs import op_allow_list


def _scan(path, report):
  subprocess.run(
    [f'{commands.BIN}/modelscan', '-p', str(path), '-r', 'json', '-o', str(report)],
    capture_output=True,
    cwd=report.parent,
  )
  found = json.loads(report.read_text())
  scanned = [scanned.rpartition('/')[2] for scanned in found['summary']['scanned']['scanned_files']]
  return [(pathlib.PurePath(issue['source']).parts[1:2], issue['operator']) for issue in found['issues']], scanned


# Operations of TF-Text, which the preprocessor needs. The scanner knows only the operations of TensorFlow, and reports
# all others.
TF_TEXT = {'CaseFoldUTF8', 'NormalizeUTF8', 'SentencepieceOp', 'SentencepieceTokenizeOp'}


_modelscan = pytest.mark.skipif(sys.version_info >= (3, 13), reason='modelscan has no release for it')


@pytest.mark.slow
@_modelscan
def test_modelscan_reports_nothing(history, tmp_path):
  issues, scanned = _scan(history, tmp_path / 'report.json')
  assert scanned.count('saved_model.pb') == 4 + 4 + 3
  assert {(model, operator) for model, operator in issues if operator not in TF_TEXT} == set()
  assert {model for model, _ in issues} == {('albert_en_demo_preprocess',), ('albert_en_demo_text',)}


@pytest.mark.slow
@_modelscan
def test_modelscan_would_report_something(own_module, tmp_path):
  modules.edit_graph(own_module, lambda m: m.graph_def.node.add(name='hidden', op='WriteFile'))
  assert [operator for _, operator in _scan(own_module, tmp_path / 'report.json')[0]] == ['WriteFile']


@pytest.fixture(scope='session')
def published(history, with_dropout):
  """Artifacts of every version, and artifacts with dropout."""
  return [path for root in (history, with_dropout) for path in sorted(root.glob('*/*/[0-9]*')) if path.is_dir()]


def test_operations_are_those_of_the_pinned_list(published):
  used = set()
  for path in published:
    op_allow_list.check(path)
    used |= {node.op for node in graph_defs.nodes(graph_defs.read(path / 'saved_model.pb'))}
  # Fails for an unused name, too: it must be removed from the list.
  assert used == op_allow_list.OPERATIONS | op_allow_list.SAVING
  assert not used & op_allow_list.FORMER


def _edited(encoder_path, tmp_path, edit):
  path = pathlib.Path(shutil.copytree(encoder_path, tmp_path / '2'))
  saved_model = saved_model_pb2.SavedModel.FromString((path / 'saved_model.pb').read_bytes())
  edit(saved_model.meta_graphs[0])
  (path / 'saved_model.pb').write_bytes(saved_model.SerializeToString())
  return path


def _function(meta_graph, prefix):
  return next(f for f in meta_graph.graph_def.library.function if f.signature.name.startswith(prefix))


def _add(op):
  return lambda m: _function(m, '__inference_encode').node_def.add(name='hidden/here', op=op)


def _call_the_saver(meta_graph):
  """Calls the model's saving function in its call, which writes a file that the caller does not expect."""
  saver = _function(meta_graph, '__inference__traced_save')
  node = _function(meta_graph, '__inference_encode').node_def.add(name='hidden/here', op='StatefulPartitionedCall')
  node.attr['f'].func.name = saver.signature.name


def _offer_the_saver(meta_graph):
  saver = _function(meta_graph, '__inference__traced_save')
  meta_graph.object_graph_def.concrete_functions[saver.signature.name].canonicalized_input_signature.SetInParent()


@pytest.mark.parametrize(
  'edit, message',
  [
    (_add('WriteFile'), "operation WriteFile at node 'hidden/here' is not on the allow-list of exports"),
    (_add('PyFunc'), 'operation PyFunc'),
    (_add('SaveV2'), "operation SaveV2 at node 'hidden/here'"),
    (lambda m: m.graph_def.node.add(name='hidden/here', op='ReadFile'), 'operation ReadFile'),
    (_call_the_saver, 'operation (SaveV2|ShardedFilename|StringJoin|StaticRegexFullMatch|MergeV2Checkpoints)'),
    (_offer_the_saver, 'operation (SaveV2|ShardedFilename|StringJoin|StaticRegexFullMatch|MergeV2Checkpoints)'),
  ],
)
def test_a_release_that_was_tampered_with_is_not_run(encoder_path, tmp_path, monkeypatch, edit, message):
  path = _edited(encoder_path, tmp_path, edit)
  monkeypatch.setattr(tf.saved_model, 'load', None)  # never reached
  with pytest.raises(errors.UntrustedGraphError, match='saved_model.pb: .*' + message + '.*; fetch the release again'):
    op_allow_list.load(path)


@pytest.mark.slow
def test_nothing_tells_of_the_machine(twice):
  """Artifacts and archives have no path, user or host.

  Times are in test_46, whose two exports are minutes and time zones apart.
  """
  times = [time.strftime('%Y-%m-%d').encode(), time.strftime('%b %d').encode(), str(int(time.time()))[:6].encode()]
  for root in (twice.here, twice.there):
    for name, content in trees.tree_bytes(root).items():
      plain = gzip.decompress(content) if name.endswith('.gz') else content
      for trace in (*(text.encode() for text in twice.traces), *times):
        assert trace not in plain, (name, trace)
      if name.endswith('.gz'):
        assert content[4:8] == bytes(4)  # time in gzip's header
        assert plain[136:148] == b'00000000000\0'  # times in the tar headers


@pytest.mark.slow
def test_the_scan_of_bytes_would_find_a_path(twice, tmp_path):
  # The same search finds the traces in an ordinary SavedModel.
  asset = tmp_path / 'asset.txt'
  asset.write_text('x')
  model = tf.Module()
  model.asset = tf.saved_model.Asset(str(asset))
  model.call = tf.function(lambda: tf.constant(str(tmp_path)), input_signature=[])
  tf.saved_model.save(model, str(tmp_path / 'usual'))
  assert any(trace.encode() in (tmp_path / 'usual/saved_model.pb').read_bytes() for trace in twice.traces)
