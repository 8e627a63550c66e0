"""The encoder SavedModel keeps the published contract, and its graph has the transformer block once per mode."""

import collections
import pathlib
import platform

import numpy as np
import pytest
import tensorflow as tf
from support import releases
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.util import _pywrap_util_port


@pytest.fixture(scope='module')
def loaded(encoder_path):
  return tf.saved_model.load(encoder_path)


@pytest.fixture(scope='module')
def inputs():
  return {
    'input_word_ids': tf.constant([[2, 17, 60, 3, 9, 3], [2, 5, 3, 0, 0, 0]]),
    'input_mask': tf.constant([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]),
    'input_type_ids': tf.constant([[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]]),
  }


def test_returns_a_dict_with_a_list_of_all_layers(loaded, inputs):
  outputs = loaded(inputs)
  assert sorted(outputs) == ['default', 'encoder_outputs', 'pooled_output', 'sequence_output']
  assert outputs['pooled_output'].shape == (2, 16)
  assert outputs['sequence_output'].shape == (2, 6, 16)
  assert isinstance(outputs['encoder_outputs'], list)
  assert [o.shape for o in outputs['encoder_outputs']] == [(2, 6, 16)] * 3
  assert np.array_equal(outputs['encoder_outputs'][-1], outputs['sequence_output'])
  assert np.array_equal(outputs['default'], outputs['pooled_output'])
  assert not np.array_equal(outputs['encoder_outputs'][0], outputs['encoder_outputs'][1])


@pytest.mark.parametrize('batch, length', [(1, 1), (3, 7), (2, 128)])
def test_batch_and_length_are_free(loaded, batch, length):
  ones = tf.ones([batch, length], tf.int32)
  outputs = loaded(dict(input_word_ids=ones * 7, input_mask=ones, input_type_ids=ones * 0), training=True)
  assert outputs['sequence_output'].shape == (batch, length, 16)


def test_training_defaults_to_false_and_may_be_positional(loaded, inputs):
  default = loaded(inputs)['pooled_output']
  assert np.array_equal(default, loaded(inputs, training=False)['pooled_output'])
  assert np.array_equal(default, loaded(inputs, False)['pooled_output'])
  assert np.array_equal(default, loaded(inputs, True)['pooled_output'])  # this config has no dropout


@pytest.mark.parametrize(
  'dropout',
  [dict(hidden_dropout=0.3), pytest.param(dict(attention_dropout=0.5), marks=pytest.mark.slow)],
  ids=['hidden', 'attention'],
)
def test_dropout_is_applied_in_training_only(make_module, prove, inputs, dropout):
  path, _ = prove(make_module(**dropout))  # the proof sees a rate in the wrong place
  loaded = tf.saved_model.load(str(path))
  for call in (loaded, loaded.sop, loaded.mlm):
    given = dict(inputs, masked_lm_positions=tf.constant([[1], [0]])) if call is loaded.mlm else inputs
    drawn = [call(given, training=True)['pooled_output'].numpy() for _ in range(2)]
    still = [call(given, training=False)['pooled_output'].numpy() for _ in range(2)]
    assert not np.allclose(*drawn, atol=1e-3)
    assert np.array_equal(*still)
    layers = [o.numpy() for o in call(given, training=True)['encoder_outputs']]
    assert not any(
      np.allclose(a, b.numpy(), atol=1e-3) for a, b in zip(layers, call(given)['encoder_outputs'], strict=True)
    )


def test_masked_positions_do_not_matter(loaded, inputs):
  other = dict(inputs, input_word_ids=tf.constant([[2, 17, 60, 3, 9, 3], [2, 5, 3, 44, 45, 46]]))
  one, two = loaded(inputs)['sequence_output'][1, :3], loaded(other)['sequence_output'][1, :3]
  np.testing.assert_allclose(one, two, atol=1e-6)


def test_every_variable_is_trainable_and_has_a_gradient(loaded, inputs):
  assert len(loaded.variables) == len(loaded.trainable_variables) == 25
  with tf.GradientTape() as tape:
    outputs = loaded(inputs, training=True)
    loss = tf.reduce_sum(outputs['pooled_output'] ** 2) + tf.reduce_sum(outputs['sequence_output'] ** 3)
  gradients = tape.gradient(loss, loaded.trainable_variables)
  for variable, gradient in zip(loaded.trainable_variables, gradients, strict=True):
    assert gradient is not None, variable.name
    # A bias of all keys does not change a softmax.
    assert np.any(tf.convert_to_tensor(gradient)) or 'key/bias' in variable.name, variable.name


def test_heads_share_the_encoders_variables(loaded):
  encoder = {id(v) for v in loaded.variables}
  for head, own in ((loaded.mlm, 5), (loaded.sop, 2)):
    variables = {id(v) for v in head.trainable_variables}
    assert len(head.trainable_variables) == len(variables)
    assert encoder < variables
    assert len(variables - encoder) == own
    assert variables == {id(v) for v in head.variables}
  assert not [v.name for v in loaded.trainable_variables if v.name.startswith('cls/')]


def test_mlm_logits_are_one_row_a_position(loaded, inputs):
  outputs = loaded.mlm(dict(inputs, masked_lm_positions=tf.constant([[1, 4, 0], [2, 0, 0]])))
  assert sorted(outputs) == ['default', 'encoder_outputs', 'mlm_logits', 'pooled_output', 'sequence_output']
  assert outputs['mlm_logits'].shape == (2, 3, 200)
  assert np.array_equal(outputs['pooled_output'], loaded(inputs)['pooled_output'])
  assert np.array_equal(outputs['mlm_logits'][1, 1], outputs['mlm_logits'][1, 2])
  assert not np.allclose(outputs['mlm_logits'][0, 0], outputs['mlm_logits'][0, 1])


def test_sop_log_probs_are_log_probabilities(loaded, inputs):
  outputs = loaded.sop(inputs)
  np.testing.assert_allclose(np.exp(outputs['sop_log_probs']).sum(axis=1), [1, 1], rtol=1e-6)


def test_without_heads(make_module, tmp_path, inputs):
  path, _ = releases.save_encoder(make_module(mlm=False, sop=False), tmp_path)
  loaded = tf.saved_model.load(str(path))
  assert not hasattr(loaded, 'mlm') and not hasattr(loaded, 'sop')
  assert loaded(inputs)['pooled_output'].shape == (2, 16)


def test_heads_can_be_left_out(module, prove):
  path, certificate = prove(module, mlm=False, sop=False)
  loaded = tf.saved_model.load(str(path))
  assert not hasattr(loaded, 'mlm') and not hasattr(loaded, 'sop')
  assert sorted(certificate.outputs) == ['layer_0', 'layer_1', 'layer_2', 'pooled_output', 'sequence_output']


def test_list_interface_of_version_1(module, prove, loaded, inputs):
  path, certificate = prove(module, version=1, interface='list')
  version_1 = tf.saved_model.load(str(path))
  pooled_output, sequence_output = version_1(list(inputs.values()))
  assert np.array_equal(pooled_output, loaded(inputs)['pooled_output'])
  assert np.array_equal(sequence_output, loaded(inputs)['sequence_output'])
  assert version_1.sp_model_file.asset_path.numpy().endswith(b'/assets/30k-clean.model')
  assert not hasattr(version_1, 'mlm')
  assert sorted(certificate.outputs) == ['pooled_output', 'sequence_output']


def test_asset_is_the_sentencepiece_model(loaded, sp_model):
  with open(loaded.sp_model_file.asset_path.numpy(), 'rb') as f:
    assert f.read() == sp_model


def test_signature_has_named_inputs_and_outputs(loaded, inputs):
  signature = loaded.signatures['serving_default']
  assert sorted(signature.structured_input_signature[1]) == ['input_mask', 'input_type_ids', 'input_word_ids']
  outputs = signature(**inputs)
  assert sorted(outputs) == ['default', 'pooled_output', 'sequence_output']
  # Not the same bits: Grappler optimizes a signature's graph as a whole.
  np.testing.assert_allclose(outputs['sequence_output'], loaded(inputs)['sequence_output'], atol=1e-6)


@pytest.fixture(scope='module')
def deep(make_module, tmp_path_factory):
  """An encoder of 24 layers."""
  return releases.save_encoder(make_module(num_hidden_layers=24), tmp_path_factory.mktemp('deep'))[0]


def test_graph_of_24_layers_with_both_heads_is_small(deep):
  # With the plain and the padding-free call. Keras' saving gives 3,290,000 with one call and no heads.
  assert (deep / 'saved_model.pb').stat().st_size < 275_000


@pytest.mark.parametrize('modes', [1, 2])
def test_transformer_block_is_in_the_graph_once_per_mode_that_differs(encoder_path, with_dropout, modes):
  path = encoder_path if modes == 1 else with_dropout / 'tensorflow/albert_en_tiny/2'
  graph = (
    saved_model_pb2.SavedModel.FromString((pathlib.Path(path) / 'saved_model.pb').read_bytes()).meta_graphs[0].graph_def
  )
  with_softmax = [f for f in graph.library.function if any(n.op == 'Softmax' for n in f.node_def)]
  # The plain block and that of rows without padding.
  assert [sum(n.op == 'Softmax' for n in f.node_def) for f in with_softmax] == [1, 1] * modes
  names = {f.signature.name for f in with_softmax}
  calls = [f.signature.name for f in graph.library.function for n in f.node_def if n.attr['f'].func.name in names]
  assert len(calls) == 2 * modes * 3 and len(set(calls)) == 2 * modes  # three layers each


def test_the_block_is_computed_in_matrix_products(encoder_path):
  with open(f'{encoder_path}/saved_model.pb', 'rb') as f:
    graph = saved_model_pb2.SavedModel.FromString(f.read()).meta_graphs[0].graph_def
  for block in (f for f in graph.library.function if any(n.op == 'Softmax' for n in f.node_def)):
    ops = [n.op for n in block.node_def]
    assert 'Einsum' not in ops and (ops.count('MatMul'), ops.count('BatchMatMulV2')) == (6, 2)
    assert 'Pow' not in ops  # its derivative would be, too
    assert ops.count('AddN') == 2  # the derivative of `+` would keep both operands for their shapes


@pytest.mark.skipif(
  platform.machine() != 'x86_64' or not _pywrap_util_port.IsMklEnabled(), reason='only oneDNN has such products'
)
def test_what_follows_a_product_becomes_part_of_it(loaded, inputs, what_runs):
  loaded(inputs)
  ran = what_runs(lambda: loaded(inputs))
  products = {name for name, op in ran if op.endswith(('FusedMatMul', 'FusedBatchMatMulV2'))}
  # Three with a bias, one with the mask, one with an activation, two with a residual.
  assert {'query/BiasAdd', 'key/BiasAdd', 'value/BiasAdd', 'add', 'AddN', 'AddN_1'} <= products
  assert any(name.startswith('intermediate/Gelu/') for name in products)
  assert not any(name.startswith('intermediate/Gelu/') for name, op in ran if 'FusedMatMul' not in op)
  # Only those of attention, and none for derivatives.
  assert {name for name, op in ran if op.endswith('Transpose')} == {
    'transpose',
    'transpose_1',
    'transpose_2',
    'transpose_3',
  }


def test_all_layers_call_the_same_function_in_the_same_way(encoder_path):
  """Otherwise graph rewriting would make another function without the unused outputs."""
  with open(f'{encoder_path}/saved_model.pb', 'rb') as f:
    graph = saved_model_pb2.SavedModel.FromString(f.read()).meta_graphs[0].graph_def
  block = next(f.signature.name for f in graph.library.function if any(n.op == 'Softmax' for n in f.node_def))
  encode = next(f for f in graph.library.function if any(n.attr['f'].func.name == block for n in f.node_def))
  used = {i for n in encode.node_def for i in n.input}
  layers = [n.name for n in encode.node_def if n.attr['f'].func.name == block]
  assert len(layers) == 3
  for name in layers:
    assert {f'{name}:output:{number}' for number in range(7)} <= used


def test_only_what_loading_needs_is_in_the_file(encoder_path):
  with open(f'{encoder_path}/saved_model.pb', 'rb') as f:
    graph = saved_model_pb2.SavedModel.FromString(f.read()).meta_graphs[0].graph_def
  nodes = [n for node_defs in (graph.node, *(f.node_def for f in graph.library.function)) for n in node_defs]
  assert {n.op for n in nodes if '_output_shapes' in n.attr} == {'PartitionedCall', 'StatefulPartitionedCall'}
  named = {
    a.attr['_user_specified_name'].s.decode()
    for f in graph.library.function
    for a in f.arg_attr.values()
    if '_user_specified_name' in a.attr
  }
  assert {'input_word_ids', 'masked_lm_positions'} < named and not any('resource' in name for name in named)


@pytest.fixture(scope='module')
def derivative(deep, inputs):
  """The model's variables, and its derivative functions."""
  loaded = tf.saved_model.load(deep)

  @tf.function
  def gradient():
    with tf.GradientTape() as tape:
      pooled = loaded(inputs, training=True)['pooled_output']
    return tape.gradient(pooled, loaded.trainable_variables)

  return loaded.variables, gradient.get_concrete_function().graph.as_graph_def().library.function


def test_derivatives_of_a_kernel_are_not_held_until_every_layer_has_one(derivative):
  variables, library = derivative
  sums = collections.Counter(
    node.attr['N'].i for function in library for node in function.node_def if node.op == 'AddN'
  )
  others = [v for v in variables if 'transformer' in v.name and 'kernel' not in v.name]
  assert len(others) == 10
  assert sums[24] == len(others)  # one derivative a layer


def test_derivatives_by_the_inputs_of_four_products_take_the_kernel_as_it_is(derivative):
  """With few rows, a transposed kernel would take up to four times as long."""
  _, library = derivative
  by_input = collections.defaultdict(list)
  for node in (node for function in library for node in function.node_def if node.name.endswith('/MatMul_grad/MatMul')):
    by_input[node.name.split('/')[1]].append(node)
  for layer in ('query', 'key', 'value', 'intermediate', 'attention_output', 'output'):
    (node,) = by_input[layer]
    kernel = next(i for i, name in enumerate(node.input) if ':' not in name)  # an argument; the other one is computed
    assert node.attr['transpose_b'].b and not node.attr['transpose_a'].b
    assert kernel == (1 if layer.endswith('output') else 0)
