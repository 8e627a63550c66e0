"""A source's graph runs in a child process, and nothing in it that was not asked for."""

import os
import signal

import conftest
import numpy as np
import pytest
import tensorflow as tf

from converters import config as config_lib
from converters import errors
from converters import weight_map
from export.proof import batch as batch_lib
from export.proof import source_graph
from export.proof import source_run

ALL = tuple(source_graph.SIGNATURES)


@pytest.fixture
def config(module):
  return config_lib.read(module / 'assets/albert_config.json')


@pytest.fixture
def batch(config):
  return batch_lib.make(config)


@pytest.fixture
def start(config, batch):
  """A function that starts running signatures of a module."""
  def run(module, signatures=ALL, batch=batch):
    parts = {part for part in weight_map.Part if source_graph.signatures([part])[0] in signatures}
    return source_run.start(module, batch, signatures, batch_lib.make_scalar(config, parts))
  return run


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
def test_what_a_loader_would_run_unasked_is_not_run(own_module, start, tmp_path, way):
  conftest.edit_graph(own_module, lambda meta_graph: way(meta_graph, _save_to(meta_graph, tmp_path / 'pwned')))
  with start(own_module, ['tokens']) as run:
    assert run.outputs()['tokens/pooled_output'].shape == (4, 16)
    assert run.gradient()['bert/pooler/dense/bias'].shape == (16,)
  assert not list(tmp_path.glob('pwned*'))


def test_the_saving_operation_would_write(own_module, tmp_path):
  # Or the test above could not fail.
  conftest.edit_graph(own_module, lambda meta_graph: _in_collection('table_initializer')(meta_graph, _save_to(meta_graph, tmp_path / 'pwned')))
  tf.saved_model.load(str(own_module), tags=[])
  assert list(tmp_path.glob('pwned*'))


def test_gives_the_outputs_of_all_signatures(module, batch, start):
  with start(module) as run:
    outputs = run.outputs()
  assert sorted(outputs) == [
      'mlm/mlm_logits', 'mlm/pooled_output', 'mlm/sequence_output', 'sop/pooled_output', 'sop/sequence_output',
      'sop/sop_log_probs', 'tokens/layer_0', 'tokens/layer_1', 'tokens/layer_2', 'tokens/pooled_output', 'tokens/sequence_output']
  assert outputs['mlm/mlm_logits'].shape == (4 * 3, 200)
  assert np.array_equal(outputs['tokens/layer_2'].ravel(), outputs['tokens/sequence_output'].ravel())
  loaded = tf.saved_model.load(str(module), tags=[])
  expected = loaded.signatures['sop'](**{k: tf.constant(batch.for_source[k]) for k in ('input_ids', 'input_mask', 'segment_ids')})
  np.testing.assert_allclose(outputs['sop/sop_log_probs'], expected['sop_log_probs'], atol=1e-6)


def test_refused_graph_is_reported_from_the_child(own_module, batch, start):
  conftest.edit_graph(own_module, lambda meta_graph: meta_graph.graph_def.node.add(name='hidden', op='PyFunc'))
  with start(own_module) as run, pytest.raises(errors.UntrustedGraphError, match='PyFunc'):
    run.outputs()


def test_child_that_fails_is_an_error(module, batch, start):
  too_long = batch_lib.Batch(*[np.ones((1, 129), np.int32)] * 3, batch.masked_lm_positions[:1])
  with start(module, batch=too_long) as run, pytest.raises(
      errors.SourceError, match='running saved_model.pb in .* failed'):
    run.outputs()


def test_child_that_is_killed_is_an_error(module, batch, start):
  with start(module) as run:
    os.kill(run._process.pid, signal.SIGKILL)
    with pytest.raises(errors.SourceError, match='failed .signal 9.'):
      run.outputs()


def test_child_is_gone_with_its_context(module, batch, start):
  with start(module) as run:
    directory = run._directory
  assert run._process.returncode == -signal.SIGKILL
  assert not directory.exists()


def test_gives_the_derivatives_of_the_training_graph(module, config, start):
  with start(module) as run:
    run.outputs()
    gradient = dict(run.gradient())
  assert sorted(gradient) == sorted(row.tf1 for row in weight_map.rows(config, set(weight_map.Part)))
  scalar = batch_lib.make_scalar(config, set(weight_map.Part))
  loaded = tf.saved_model.load(str(module), tags=['train'])
  with tf.GradientTape() as tape:
    tape.watch(loaded.variables)
    outputs = loaded.signatures['mlm'](**{k: tf.constant(v) for k, v in scalar.batch.for_source.items()})
    value = sum(tf.reduce_sum(tf.reshape(outputs[name], [-1]) * factors.ravel())
                for name, factors in scalar.factors.items() if name != 'sop_log_probs')
  for variable, right in zip(loaded.variables, tape.gradient(value, loaded.variables), strict=True):
    if right is not None:
      np.testing.assert_allclose(gradient[variable.name.removesuffix(':0')], tf.convert_to_tensor(right), rtol=1e-3, atol=1e-3)


def test_child_that_is_killed_after_the_outputs_gives_no_gradient(module, start):
  with start(module) as run:
    run.outputs()
    os.kill(run._process.pid, signal.SIGKILL)
    with pytest.raises(errors.SourceError, match='failed .signal 9.'):
      run.gradient()


def test_outputs_and_gradient_can_be_read_again(module, start):
  with start(module) as run:
    assert sorted(run.outputs()) == sorted(run.outputs())
    assert sorted(run.gradient()) == sorted(run.gradient())
