"""A source's graph runs in a child process, and only if every operation in it is on the allow-list."""

import os
import pathlib
import signal

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from converters import config as config_lib
from converters import errors
from export import parity
from export import source_graph


@pytest.fixture
def batch(module):
  return parity.make_batch(config_lib.read(module / 'assets/albert_config.json'))


def _edit(module: pathlib.Path, edit, graph: int = 0) -> pathlib.Path:
  path = module / 'saved_model.pb'
  saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
  edit(saved_model.meta_graphs[graph])
  path.write_bytes(saved_model.SerializeToString())
  return path


def test_made_modules_pass(make_module):
  for module in (make_module(), make_module(dropout=0.1), make_module(mlm=False, sop=False)):
    source_graph.check_ops(module / 'saved_model.pb')


def _add_node(op):
  return lambda meta_graph: meta_graph.graph_def.node.add(name='hidden/here', op=op)


def _add_function(meta_graph):
  function = meta_graph.graph_def.library.function.add()
  function.node_def.add(name='hidden/here', op='ReadFile')


@pytest.mark.parametrize('graph', [0, 1], ids=['plain', 'train'])
@pytest.mark.parametrize('edit', [_add_node('PyFunc'), _add_node('WriteFile'), _add_node('PartitionedCall'), _add_function],
                         ids=['PyFunc', 'WriteFile', 'PartitionedCall', 'function'])
def test_operation_off_the_list_is_refused(own_module, edit, graph):
  with pytest.raises(errors.UntrustedGraphError, match="operation .* at node 'hidden/here' is not on the allow-list"):
    source_graph.check_ops(_edit(own_module, edit, graph))


def test_saving_is_refused_in_a_signature(own_module):
  def edit(meta_graph):
    node = meta_graph.signature_def['tokens'].outputs['pooled_output'].name.split(':')[0]
    saving = next(n.name for n in meta_graph.graph_def.node if n.op == 'SaveV2')
    next(n for n in meta_graph.graph_def.node if n.name == node).input.append(f'^{saving}')
  with pytest.raises(errors.UntrustedGraphError, match='SaveV2 .*not allowed in a signature'):
    source_graph.check_ops(_edit(own_module, edit))


def test_saving_is_refused_in_what_loading_runs(own_module):
  def edit(meta_graph):
    saving = next(n.name for n in meta_graph.graph_def.node if n.op == 'SaveV2')
    restoring = meta_graph.saver_def.restore_op_name
    next(n for n in meta_graph.graph_def.node if n.name == restoring).input.append(f'^{saving}')
  with pytest.raises(errors.UntrustedGraphError, match='SaveV2 .*not allowed in what loading runs'):
    source_graph.check_ops(_edit(own_module, edit))


@pytest.mark.parametrize('name', ['saved_model_main_op', 'legacy_init_op', '__saved_model_init_op'])
def test_operation_to_run_on_loading_is_refused(own_module, name):
  def edit(meta_graph):
    if name.startswith('__'):
      meta_graph.signature_def[name].SetInParent()
    else:
      meta_graph.collection_def[name].node_list.value.append('tokens/input_ids:0')
  with pytest.raises(errors.UntrustedGraphError, match=f'run on loading \\({name}\\)'):
    source_graph.check_ops(_edit(own_module, edit))


def test_gives_the_outputs_of_all_signatures(module, batch):
  with source_graph.start(module, batch.for_source) as run:
    outputs = run.outputs()
  assert sorted(outputs) == ['mlm_logits', 'pooled_output', 'sequence_output', 'sop_log_probs']
  assert outputs['mlm_logits'].shape == (4 * 3, 200)
  loaded = tf.saved_model.load(str(module), tags=[])
  expected = loaded.signatures['sop'](**{k: tf.constant(batch.for_source[k]) for k in ('input_ids', 'input_mask', 'segment_ids')})
  np.testing.assert_allclose(outputs['sop_log_probs'], expected['sop_log_probs'], atol=1e-6)


def test_refused_graph_is_reported_from_the_child(own_module, batch):
  _edit(own_module, _add_node('PyFunc'))
  with source_graph.start(own_module, batch.for_source) as run, pytest.raises(errors.UntrustedGraphError, match='PyFunc'):
    run.outputs()


def test_child_that_fails_is_an_error(module, batch):
  with source_graph.start(module, {'input_ids': batch.input_word_ids}) as run, pytest.raises(
      errors.SourceError, match='running saved_model.pb in .* failed'):
    run.outputs()


def test_child_that_is_killed_is_an_error(module, batch):
  with source_graph.start(module, batch.for_source) as run:
    os.kill(run._process.pid, signal.SIGKILL)
    with pytest.raises(errors.SourceError, match='failed .signal 9.'):
      run.outputs()


def test_child_is_gone_with_its_context(module, batch):
  with source_graph.start(module, batch.for_source) as run:
    directory = run._directory
  assert run._process.returncode == -signal.SIGKILL
  assert not directory.exists()
