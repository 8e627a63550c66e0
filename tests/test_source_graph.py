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
from export.proof import parity
from export.proof import source_graph


@pytest.fixture
def batch(module):
  return parity.make_batch(config_lib.read(module / 'assets/albert_config.json'))


def _edit(module: pathlib.Path, edit, graph: int = 0) -> pathlib.Path:
  path = module / 'saved_model.pb'
  saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
  edit(saved_model.meta_graphs[graph])
  path.write_bytes(saved_model.SerializeToString())
  return path


ALL = tuple(source_graph.SIGNATURES)


def _reduced(path, signatures=ALL, tags=()):
  return source_graph.reduced(path, signatures, tags).meta_graphs[0]


@pytest.mark.parametrize('tags', [(), ('train',)])
@pytest.mark.parametrize('changes', [{}, dict(hidden_dropout=0.1, attention_dropout=0.1)])
def test_only_what_the_signatures_need_is_kept(make_module, changes, tags):
  path = make_module(**changes) / 'saved_model.pb'
  part = _reduced(path, ['tokens'], tags)
  assert list(part.signature_def) == ['tokens'] and list(part.meta_info_def.tags) == list(tags)
  assert sorted(part.collection_def) == ['trainable_variables', 'variables']
  names = [n.name for n in part.graph_def.node]
  assert not [n for n in names if n.startswith(('mlm/', 'sop/', 'do_lower_case'))]
  assert not {n.op for n in part.graph_def.node} & {'SaveV2', 'MergeV2Checkpoints', 'ShardedFilename'}
  assert len(_reduced(path, tags=tags).graph_def.node) > 2 * len(names)


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
    _reduced(_edit(own_module, edit, graph))


def test_saving_is_refused_in_a_signature(own_module):
  def edit(meta_graph):
    node = meta_graph.signature_def['tokens'].outputs['pooled_output'].name.split(':')[0]
    saving = next(n.name for n in meta_graph.graph_def.node if n.op == 'SaveV2')
    next(n for n in meta_graph.graph_def.node if n.name == node).input.append(f'^{saving}')
  with pytest.raises(errors.UntrustedGraphError, match='SaveV2 .*not allowed in a signature'):
    _reduced(_edit(own_module, edit))


def test_saving_is_refused_in_what_restores_variables(own_module):
  def edit(meta_graph):
    saving = next(n.name for n in meta_graph.graph_def.node if n.op == 'SaveV2')
    restoring = meta_graph.saver_def.restore_op_name
    next(n for n in meta_graph.graph_def.node if n.name == restoring).input.append(f'^{saving}')
  with pytest.raises(errors.UntrustedGraphError, match='SaveV2 .*not allowed in what restores variables'):
    _reduced(_edit(own_module, edit))


def _save_to(meta_graph, path):
  """Adds an operation that writes a file, and returns its name."""
  def constant(name, value):
    node = meta_graph.graph_def.node.add(name=name, op='Const')
    node.attr['dtype'].type = tf.as_dtype(value.dtype).as_datatype_enum if value.dtype.kind == 'f' else tf.string.as_datatype_enum
    node.attr['value'].tensor.CopyFrom(tf.make_tensor_proto(value))
  constant('evil/prefix', np.array(str(path).encode(), object))
  constant('evil/names', np.array([b'x'], object))
  constant('evil/slices', np.array([b''], object))
  constant('evil/value', np.zeros(3, np.float32))
  node = meta_graph.graph_def.node.add(
      name='evil/save', op='SaveV2', input=['evil/prefix', 'evil/names', 'evil/slices', 'evil/value'])
  node.attr['dtypes'].list.type.append(tf.float32.as_datatype_enum)
  return node.name


def _in_collection(name):
  return lambda meta_graph, saving: meta_graph.collection_def[name].node_list.value.append(saving)


def _as_init_signature(meta_graph, saving):
  meta_graph.signature_def['__saved_model_init_op'].outputs['__saved_model_init_op'].name = saving


def _as_sparse_output(meta_graph, saving):
  nodes = {n.name: n for n in meta_graph.graph_def.node}
  nodes['evil/value'].input.append(f'^{saving}')
  sparse = meta_graph.signature_def['tokens'].outputs['extra'].coo_sparse
  sparse.values_tensor_name = sparse.indices_tensor_name = sparse.dense_shape_tensor_name = 'evil/value:0'


@pytest.mark.parametrize('way', [
    _in_collection('saved_model_main_op'), _in_collection('legacy_init_op'), _in_collection('table_initializer'),
    _in_collection('local_variables'), _as_init_signature, _as_sparse_output
], ids=['main_op', 'legacy_init_op', 'table_initializer', 'local_variables', 'init signature', 'sparse output'])
def test_what_a_loader_would_run_unasked_is_not_run(own_module, batch, tmp_path, way):
  _edit(own_module, lambda meta_graph: way(meta_graph, _save_to(meta_graph, tmp_path / 'pwned')))
  with source_graph.start(own_module, batch.for_source, ['tokens']) as run:
    assert run.outputs()['tokens/pooled_output'].shape == (4, 16)
  assert not list(tmp_path.glob('pwned*'))


def test_the_saving_operation_would_write(own_module, tmp_path):
  # Or the test above could not fail.
  _edit(own_module, lambda meta_graph: _in_collection('table_initializer')(meta_graph, _save_to(meta_graph, tmp_path / 'pwned')))
  tf.saved_model.load(str(own_module), tags=[])
  assert list(tmp_path.glob('pwned*'))


def test_sparse_tensor_in_a_signature_is_refused(own_module):
  def edit(meta_graph):
    meta_graph.signature_def['tokens'].outputs['pooled_output'].coo_sparse.values_tensor_name = 'tokens/input_ids:0'
  with pytest.raises(errors.UntrustedGraphError, match='no plain tensor pooled_output in signature tokens'):
    _reduced(_edit(own_module, edit))


def test_object_graph_is_not_loaded(own_module, batch):
  _edit(own_module, lambda meta_graph: meta_graph.object_graph_def.nodes.add().user_object.SetInParent())
  assert not _reduced(own_module / 'saved_model.pb').HasField('object_graph_def')


def test_gives_the_outputs_of_all_signatures(module, batch):
  with source_graph.start(module, batch.for_source, ALL) as run:
    outputs = run.outputs()
  assert sorted(outputs) == [
      'mlm/mlm_logits', 'mlm/pooled_output', 'mlm/sequence_output', 'sop/pooled_output', 'sop/sequence_output',
      'sop/sop_log_probs', 'tokens/layer_0', 'tokens/layer_1', 'tokens/layer_2', 'tokens/pooled_output', 'tokens/sequence_output']
  assert outputs['mlm/mlm_logits'].shape == (4 * 3, 200)
  assert np.array_equal(outputs['tokens/layer_2'].ravel(), outputs['tokens/sequence_output'].ravel())
  loaded = tf.saved_model.load(str(module), tags=[])
  expected = loaded.signatures['sop'](**{k: tf.constant(batch.for_source[k]) for k in ('input_ids', 'input_mask', 'segment_ids')})
  np.testing.assert_allclose(outputs['sop/sop_log_probs'], expected['sop_log_probs'], atol=1e-6)


def test_refused_graph_is_reported_from_the_child(own_module, batch):
  _edit(own_module, _add_node('PyFunc'))
  with source_graph.start(own_module, batch.for_source, ALL) as run, pytest.raises(errors.UntrustedGraphError, match='PyFunc'):
    run.outputs()


def test_child_that_fails_is_an_error(module, batch):
  with source_graph.start(module, {'input_ids': batch.input_word_ids}, ALL) as run, pytest.raises(
      errors.SourceError, match='running saved_model.pb in .* failed'):
    run.outputs()


def test_child_that_is_killed_is_an_error(module, batch):
  with source_graph.start(module, batch.for_source, ALL) as run:
    os.kill(run._process.pid, signal.SIGKILL)
    with pytest.raises(errors.SourceError, match='failed .signal 9.'):
      run.outputs()


def test_child_is_gone_with_its_context(module, batch):
  with source_graph.start(module, batch.for_source, ALL) as run:
    directory = run._directory
  assert run._process.returncode == -signal.SIGKILL
  assert not directory.exists()
