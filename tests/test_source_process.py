"""A source's graph runs in a subprocess, and only the requested signatures."""

import os
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf
from support import modules

from converters import errors
from converters import interface
from converters import weight_map
from converters.reference import inputs as proof_inputs
from export.source import process as source_process

ALL = tuple(interface.SIGNATURES)


def test_gives_the_outputs_of_all_signatures(module, batch, start_run):
  with start_run(module) as run:
    outputs, in_float64 = run.outputs()
  assert {value.dtype for value in outputs.values()} == {np.dtype(np.float32)} and {
    value.dtype for value in in_float64.values()
  } == {np.dtype(np.float64)}
  assert (
    sorted(in_float64)
    == sorted(outputs)
    == [
      'mlm/mlm_logits',
      'mlm/pooled_output',
      'mlm/sequence_output',
      'sop/pooled_output',
      'sop/sequence_output',
      'sop/sop_log_probs',
      'tokens/layer_0',
      'tokens/layer_1',
      'tokens/layer_2',
      'tokens/pooled_output',
      'tokens/sequence_output',
    ]
  )
  assert outputs['mlm/mlm_logits'].shape == (4 * 3, 200)
  assert np.array_equal(outputs['tokens/layer_2'].ravel(), outputs['tokens/sequence_output'].ravel())
  loaded = tf.saved_model.load(str(module), tags=[])
  expected = loaded.signatures['sop'](
    **{k: tf.constant(batch.for_source[k]) for k in ('input_ids', 'input_mask', 'segment_ids')}
  )
  np.testing.assert_allclose(outputs['sop/sop_log_probs'], expected['sop_log_probs'], atol=1e-6)


def test_graph_that_may_not_be_run_is_never_started(own_module, start_run):
  modules.edit_graph(own_module, lambda meta_graph: meta_graph.graph_def.node.add(name='hidden', op='PyFunc'))
  with pytest.raises(errors.UntrustedGraphError, match='PyFunc'), start_run(own_module):
    pass


def test_graph_that_is_refused_in_the_child_is_reported(own_module, start_run):
  def edit(meta_graph):
    node = meta_graph.signature_def['tokens'].outputs['pooled_output'].name.split(':')[0]
    assignment = next(n.name for n in meta_graph.graph_def.node if n.op == 'AssignVariableOp')
    next(n for n in meta_graph.graph_def.node if n.name == node).input.append(f'^{assignment}')

  modules.edit_graph(own_module, edit)
  with (
    start_run(own_module) as run,
    pytest.raises(errors.UntrustedGraphError, match='AssignVariableOp .*not allowed in a signature'),
  ):
    run.outputs()


def test_child_that_fails_is_an_error(module, batch, start_run):
  too_long = proof_inputs.Batch(*[np.ones((1, 129), np.int32)] * 3, batch.masked_lm_positions[:1])
  with (
    start_run(module, batch=too_long) as run,
    pytest.raises(errors.SourceError, match='running saved_model.pb failed'),
  ):
    run.outputs()


def test_child_that_is_killed_is_an_error(module, batch, start_run):
  with start_run(module) as run:
    os.kill(run.process.pid, signal.SIGKILL)
    with pytest.raises(errors.SourceError, match='failed .signal 9.'):
      run.outputs()


def test_child_is_gone_with_its_context(module, batch, start_run):
  with start_run(module) as run:
    directory = run.directory
  assert run.process.returncode == -signal.SIGKILL
  assert not directory.exists()


def test_gives_the_derivatives_of_the_training_graph(module, config, start_run):
  with start_run(module) as run:
    run.outputs()
    gradient = dict(run.gradient())
  assert sorted(gradient) == sorted(row.tf1 for row in weight_map.rows(config, set(weight_map.Part)))
  scalar = proof_inputs.make_scalar(config, set(weight_map.Part))
  loaded = tf.saved_model.load(str(module), tags=['train'])
  with tf.GradientTape() as tape:
    tape.watch(loaded.variables)
    outputs = loaded.signatures['mlm'](**{k: tf.constant(v) for k, v in scalar.batch.for_source.items()})
    value = sum(
      tf.reduce_sum(tf.reshape(outputs[name], [-1]) * factors.ravel())
      for name, factors in scalar.factors.items()
      if name != 'sop_log_probs'
    )
  for variable, right in zip(loaded.variables, tape.gradient(value, loaded.variables), strict=True):
    if right is not None:
      np.testing.assert_allclose(
        gradient[variable.name.removesuffix(':0')], tf.convert_to_tensor(right), rtol=1e-3, atol=1e-3
      )


def test_child_that_is_killed_after_the_outputs_gives_no_gradient(module, start_run):
  with start_run(module) as run:
    run.outputs()
    os.kill(run.process.pid, signal.SIGKILL)
    with pytest.raises(errors.SourceError, match='failed .signal 9.'):
      run.gradient()


def test_outputs_and_gradient_can_be_read_again(module, start_run):
  with start_run(module) as run:
    assert sorted(run.outputs()[0]) == sorted(run.outputs()[0])
    assert sorted(run.gradient()) == sorted(run.gradient())


def test_child_that_is_dead_before_it_has_a_job_is_an_error(module, config, batch):
  with source_process.prepare() as child:
    os.kill(child.process.pid, signal.SIGKILL)
    child.process.wait()
    run = child.run(module, batch, ALL, proof_inputs.make_scalar(config, set(weight_map.Part)))
    with pytest.raises(errors.SourceError, match='failed .signal 9.'):
      run.outputs()


def test_gradient_that_is_not_whole_is_an_error(module, start_run):
  with start_run(module) as run:
    run.gradient()
    (run.directory / 'gradient/names.json').write_text('[')
    with pytest.raises(errors.SourceError, match='the outputs of its graph cannot be read'):
      run.gradient()
    shutil.rmtree(run.directory / 'gradient')  # like a child that ends early with exit status 0
    with pytest.raises(errors.SourceError, match='the outputs of its graph cannot be read'):
      run.gradient()
