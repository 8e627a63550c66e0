"""Pruning a graph changes no result, no side effect and no order of execution."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from export.graphs import graph_defs
from export.model import prune_graph


class _Model(tf.Module):
  """A model that reads, calls, changes and forwards arguments; exports do only some of these."""

  def __init__(self):
    super().__init__()
    self.weight = tf.Variable([2.0, 3.0])
    self.count = tf.Variable(0)

  @tf.function(input_signature=[tf.TensorSpec([2])])
  def scale(self, x):
    return x * self.weight.read_value()

  @tf.function(input_signature=[tf.TensorSpec([2])])
  def twice(self, x):
    inner = self.scale.get_concrete_function()
    once = inner(x)
    return {'once': once, 'twice': inner(once), 'given': x}

  @tf.function(input_signature=[tf.TensorSpec([2])])
  def reads_in_vain(self, x):
    self.weight.read_value()
    return x * 2.0

  @tf.function(input_signature=[tf.TensorSpec([2])])
  def counting(self, x):
    self.count.assign_add(1)
    return x + 1.0

  @tf.function(input_signature=[tf.TensorSpec([2])])
  def calls_what_it_does_not_return(self, x):
    self.counting.get_concrete_function()(x)
    return self.scale.get_concrete_function()(x)

  @tf.function(input_signature=[tf.TensorSpec([2])])
  def counts_twice(self, x):
    counting = self.counting.get_concrete_function()
    return counting(x), counting(x + 1.0)

  @tf.function(input_signature=[tf.TensorSpec([2])])
  def reads_late(self, x):
    power = tf.fill([400, 400], 1 / 400)
    for _ in range(20):
      power = tf.matmul(power, power)
    with tf.control_dependencies([power]):
      return x * self.weight.read_value()

  @tf.function(input_signature=[tf.TensorSpec([2])])
  def changes_what_it_read(self, x):
    before = self.weight.read_value()
    self.weight.assign(x)
    return before, self.weight.read_value()


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  """The model as TensorFlow saves it, and pruned: directories and messages."""
  paths, messages = [], []
  for name in ('whole', 'slim'):
    path = tmp_path_factory.mktemp('models') / name
    tf.saved_model.save(_Model(), str(path))
    message = saved_model_pb2.SavedModel.FromString((path / 'saved_model.pb').read_bytes())
    if name == 'slim':
      prune_graph.slim(message)
      (path / 'saved_model.pb').write_bytes(message.SerializeToString())
    paths.append(path)
    messages.append(message)
  return paths, messages


def _functions(message):
  return {
    function.signature.name.rsplit('_', 1)[0].removeprefix('__inference_'): function
    for function in message.meta_graphs[0].graph_def.library.function
  }


def _ops(function):
  return [node.op for node in function.node_def]


@pytest.mark.parametrize(
  'name',
  [
    'scale',
    'twice',
    'reads_in_vain',
    'counting',
    'calls_what_it_does_not_return',
    'counts_twice',
    'changes_what_it_read',
  ],
)
def test_results_derivatives_and_changes_are_the_same(models, name):
  seen = []
  for path in models[0]:
    model, x = tf.saved_model.load(str(path)), tf.constant([5.0, 7.0])
    with tf.GradientTape() as tape:
      tape.watch(x)
      results = tf.nest.flatten(getattr(model, name)(x))
      total = tf.add_n([tf.reduce_sum(tf.square(result)) for result in results])
    seen.append([*results, *tape.gradient(total, [x, model.weight]), model.weight, model.count])
  for whole, slim in zip(*seen, strict=True):
    assert (whole is None) == (slim is None)
    assert whole is None or np.array_equal(whole, slim)


def test_what_only_hands_on_is_taken_out(models):
  whole, slim = map(_functions, models[1])
  assert 'Identity' in _ops(whole['scale']) and _ops(slim['scale']) == ['ReadVariableOp', 'Mul']
  # A returned argument is forwarded: its derivative depends on that.
  assert _ops(whole['twice']).count('Identity') == 3
  assert [node.op for node in slim['twice'].node_def if node.name == slim['twice'].ret['identity'].split(':')[0]] == [
    'Identity'
  ]
  assert _ops(slim['twice']).count('Identity') == 1


@pytest.mark.parametrize('name', ['counting', 'calls_what_it_does_not_return', 'counts_twice', 'changes_what_it_read'])
def test_results_wait_for_changes(models, name):
  slim = _functions(models[1][1])[name]
  nodes = {node.name: node for node in slim.node_def}
  assert slim.ret and all(
    any(i.startswith('^') for i in nodes[tensor.split(':')[0]].input) for tensor in slim.ret.values()
  )


def test_callers_wait_for_all_that_a_function_does(models):
  whole, slim = map(_functions, models[1])
  assert whole.keys() == slim.keys()
  for name, function in whole.items():
    waited = {node.name for node in graph_defs.ancestors(slim[name].node_def, slim[name].control_ret.values())}
    assert set(function.control_ret.values()) <= waited
    assert sorted(slim[name].control_ret) == sorted(slim[name].signature.control_output)
  save = next(name for name in whole if 'traced_save' in name)
  assert len(slim[save].control_ret) < len(whole[save].control_ret)


def test_a_change_after_a_call_waits_for_what_the_call_reads(models):
  model = tf.saved_model.load(str(models[0][1]))

  @tf.function
  def call_and_change(x):
    result = model.reads_late(x)
    model.weight.assign([-1.0, -1.0])
    return result

  assert call_and_change(tf.constant([5.0, 7.0])).numpy().tolist() == [10.0, 21.0]


def test_it_can_be_saved_and_restored_as_before(models, tmp_path):
  """TensorFlow 1's loader and saver run the functions of the model to save and restore."""
  for number, path in enumerate(models[0]):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      tf.compat.v1.saved_model.load(session, ['serve'], str(path))
      definition = models[1][number].meta_graphs[0].saver_def
      prefix = str(tmp_path / f'{number}')
      session.run(definition.save_tensor_name, {definition.filename_tensor_name: prefix})
    reader = tf.train.load_checkpoint(prefix)
    assert reader.get_tensor('weight/.ATTRIBUTES/VARIABLE_VALUE').tolist() == [2.0, 3.0]
