"""Values are traced through functions by their graphs, and parts of functions run alone."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from converters.reference import inputs as proof_inputs
from export.graphs import functions as graph_functions
from export.validation import exported_encoder

SPEC = tf.TensorSpec([None], tf.float32)


@pytest.fixture(scope='module')
def target():
  held = [tf.Variable(3.0)]  # by no other function
  function = tf.function(lambda first, second: [first * held[0], second + 1.0, first + second])
  yield function.get_concrete_function(SPEC, SPEC)


def _passed_on(target, call):
  traced = tf.function(call, autograph=False).get_concrete_function(SPEC, SPEC)
  return graph_functions.passed_on(graph_functions.Function.of(traced), graph_functions.Function.of(target))


def test_arguments_and_results_that_are_passed_on(target):
  # The last argument is the handle of the variable.
  assert _passed_on(target, lambda one, two: target(one, two)) == ([0, 1, 2], [0, 1, 2])
  assert _passed_on(target, lambda one, two: target(two, one)[::-2]) == ([1, 0, 2], [2, 0])
  assert _passed_on(target, lambda one, two: tf.identity(target(tf.identity(one), one)[1])) == ([0, 0, 2], [1])


def test_through_another_function(target):
  between = tf.function(lambda one, two: target(two, one)[::-1]).get_concrete_function(SPEC, SPEC)
  assert _passed_on(target, lambda one, two: between(one, two)[0]) == ([1, 0, 2], [2])
  assert _passed_on(target, lambda one, two: between(two, one)) == ([0, 1, 2], [2, 1, 0])


@pytest.mark.parametrize(
  'call',
  [
    lambda target, one, two: [target(one, two)[0] + 1.0],
    lambda target, one, two: target(one, two + 0.0),
    lambda target, one, two: target(one, tf.constant([1.0])),
    lambda target, one, two: [target(one, two)[0], two],
    lambda target, one, two: [target(one, two)[0], target(two, one)[0]],
    lambda target, one, two: [one * two],
    lambda target, one, two: [tf.constant(1.0)],
  ],
  ids=[
    'a result changed',
    'an argument changed',
    'a constant',
    'an argument returned',
    'two calls',
    'no call',
    'nothing',
  ],
)
def test_a_function_that_does_more(target, call):
  assert _passed_on(target, lambda one, two: call(target, one, two)) is None
  # Nor inside another function.
  between = tf.function(lambda one, two: call(target, one, two)).get_concrete_function(SPEC, SPEC)
  assert _passed_on(target, lambda one, two: between(one, two)) is None


def test_another_function_is_not_the_target(target):
  other = tf.function(lambda one, two: [one - two]).get_concrete_function(SPEC, SPEC)
  assert _passed_on(target, lambda one, two: other(one, two)) is None


@pytest.fixture
def exported(encoder_path):
  return exported_encoder.Exported(pathlib.Path(encoder_path), 'dict')


def test_the_first_layer_alone(exported, batch):
  whole = exported.outputs(batch, ['tokens'])
  alone = exported.first_layer(batch)
  assert list(alone) == ['tokens/layer_0']
  np.testing.assert_allclose(alone['tokens/layer_0'], whole['tokens/layer_0'], atol=1e-6)
  encoder = exported.functions['tokens', False]
  part, _ = graph_functions.upto(encoder, encoder.pack(encoder.outputs)['encoder_outputs'][0])

  def blocks(graph):
    return sum(node.name.startswith('block/') and 'f' in node.attr for node in graph.node)

  assert (blocks(part), blocks(encoder.graph)) == (1, 3)


def test_the_encoder_is_run_once_for_all_that_call_it(exported, batch, config, source, monkeypatch):
  expected = exported.outputs(batch, ['tokens', 'mlm', 'sop', 'serving_default'])
  # Differentiation changes the graphs of the functions.
  exported.gradient(proof_inputs.make_scalar(config, source.parts))
  called = []
  call = exported_encoder.Exported.call
  monkeypatch.setattr(
    exported_encoder.Exported,
    'call',
    lambda self, signature, *args: called.append(signature) or call(self, signature, *args),
  )
  monkeypatch.setattr(exported.loaded, 'signatures', {})  # running it would fail
  again = exported.outputs(batch, ['tokens', 'mlm', 'sop', 'serving_default'])
  assert called == ['tokens'] and list(again) == list(expected)
  for name, value in again.items():
    np.testing.assert_allclose(value, expected[name], atol=1e-5, err_msg=name)
