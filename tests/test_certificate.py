"""A certificate is given for a right conversion, and refused for one that computes or trains otherwise."""

import dataclasses
import json
import pathlib

import conftest
import numpy as np
import pytest
import tensorflow as tf

from converters import config as config_lib
from converters import errors
from converters import tf1_hub
from converters import weight_map
from export import encoder as encoder_lib
from export.proof import batch as batch_lib
from export.proof import certificate
from export.proof import controls as controls_lib
from export.proof import exported as exported_lib
from export.proof import function_graph
from export.proof import parity

DROPOUT = dict(hidden_dropout=0.1, attention_dropout=0.1)


def test_controls_leave_the_model_as_it_was_and_are_recorded(encoder_path, theirs):
  batch, expected, source_outputs = theirs
  exported = exported_lib.Exported(pathlib.Path(encoder_path), 'dict')
  before = exported.outputs(batch, ['tokens'])
  controls = controls_lib.run(exported, batch, expected, source_outputs)
  assert sorted(controls) == ['layer norms swapped', 'query and key swapped', 'value kernel transposed', 'word embedding shifted by a row']
  assert all(control.export.rms > 1000 * control.allowed.rms for control in controls.values())
  after = exported.outputs(batch, ['tokens'])
  assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_control_that_is_not_noticed_refuses_the_certificate(encoder_path, theirs, monkeypatch):
  batch, expected, source_outputs = theirs
  exported = exported_lib.Exported(pathlib.Path(encoder_path), 'dict')
  monkeypatch.setattr(controls_lib, '_mistakes', lambda variables: iter([('nothing at all', [])]))
  with pytest.raises(errors.ParityError, match='does not notice a wrong model .nothing at all.'):
    controls_lib.run(exported, batch, expected, source_outputs)


def test_weights_that_hide_mistakes_are_refused(release, module, source, monkeypatch):
  # Query and key alike: swapping them changes nothing, so this module cannot prove that they are in their places.
  read, compare = tf1_hub.Module.tensor, parity.compare
  rows = {r.name: r for r in weight_map.rows(source.config, source.parts)}
  monkeypatch.setattr(tf1_hub.Module, 'tensor', lambda self, row: read(self, rows[row.name.replace('.key.', '.query.')]))
  monkeypatch.setattr(parity, 'compare', lambda source, export, expected, mask: compare(export, export, expected, mask))
  with pytest.raises(errors.ParityError, match='does not notice a wrong model .query and key swapped.'):
    release(module)
  assert conftest.leftovers(release.root) == []


def test_a_blind_comparison_gives_no_certificate(encoder_path, examination, monkeypatch):
  monkeypatch.setattr(parity.Check, 'passes', True)
  with pytest.raises(errors.ParityError, match='does not notice a wrong model .query and key swapped, layer norms swapped, '):
    examination.certify(pathlib.Path(encoder_path), 'dict')


def test_mistakes_that_the_first_layer_does_not_show_are_looked_for_in_all(encoder_path, theirs, monkeypatch):
  batch, expected, source_outputs = theirs
  exported = exported_lib.Exported(pathlib.Path(encoder_path), 'dict')
  whole = exported.outputs(batch.first(1), ['tokens'])
  monkeypatch.setattr(exported, 'first_layer', lambda batch: {'tokens/layer_0': whole['tokens/layer_0']})
  assert len(controls_lib.run(exported, batch, expected, source_outputs)) == 4


def test_wrong_models_run_no_further_than_they_have_to(encoder_path, theirs, monkeypatch):
  batch, expected, source_outputs = theirs
  exported = exported_lib.Exported(pathlib.Path(encoder_path), 'dict')
  monkeypatch.setattr(exported, 'outputs', None)  # to call it would fail
  assert len(controls_lib.run(exported, batch, expected, source_outputs)) == 4


def test_a_first_layer_that_is_wrong_to_begin_with_shows_nothing(encoder_path, theirs, monkeypatch):
  batch, expected, source_outputs = theirs
  exported = exported_lib.Exported(pathlib.Path(encoder_path), 'dict')
  first_layer = exported.first_layer
  monkeypatch.setattr(exported, 'first_layer', lambda batch: {name: -value for name, value in first_layer(batch).items()})
  monkeypatch.setattr(controls_lib, '_mistakes', lambda variables: iter([('nothing at all', [])]))
  with pytest.raises(errors.ParityError, match='does not notice a wrong model .nothing at all.'):
    controls_lib.run(exported, batch, expected, source_outputs)


@pytest.mark.parametrize('in_training, fault', [
    (False, r'no parity .default/pooled_output is [^;]*\) in'), (True, 'training=True is not the same as training=False')])
def test_another_default_of_the_encoder_is_refused(release, module, monkeypatch, two_modes, in_training, fault):
  encode, exportable = encoder_lib._Outlined.encode, encoder_lib.exportable
  def wrong(self, inputs, training):
    outputs = encode(self, inputs, training)
    return dict(outputs, default=outputs['sequence_output'][:, 0]) if training or not in_training else outputs
  def changed(*args):
    root, _ = exportable(*args)
    inputs = ('input_word_ids', 'input_mask', 'input_type_ids')
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, name=name) for name in inputs])
    def serving_default(*values):
      outputs = encoder_lib.traces(root, True).call(dict(zip(inputs, values, strict=True)), False)
      return {name: outputs[name] for name in ('pooled_output', 'sequence_output')} | {'default': outputs['pooled_output']}
    return root, {'serving_default': serving_default}
  monkeypatch.setattr(encoder_lib._Outlined, 'encode', wrong)
  monkeypatch.setattr(encoder_lib, 'exportable', changed)
  with pytest.raises(errors.ParityError, match=fault):
    release(module, mlm=False)


@pytest.mark.parametrize('wrong', [
    lambda call, ids, mask, types: call(ids, types, mask),
    lambda call, ids, mask, types: call(ids, tf.ones_like(mask), types),
    lambda call, ids, mask, types: {name: value * 1.001 for name, value in call(ids, mask, types).items()},
    lambda call, ids, mask, types: dict(call(ids, mask, types), default=call(ids, mask, types)['sequence_output'][:, 0])],
    ids=['mask and types swapped', 'no mask', 'scaled', 'another default'])
def test_a_signature_that_computes_something_else_is_refused(release, module, monkeypatch, wrong):
  exportable = encoder_lib.exportable
  def changed(*args):
    root, _ = exportable(*args)
    encode = encoder_lib.traces(root, False)
    def call(*inputs):
      outputs = encode.call(dict(zip(('input_word_ids', 'input_mask', 'input_type_ids'), inputs, strict=True)), False)
      return {name: outputs[name] for name in ('default', 'pooled_output', 'sequence_output')}
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, name=name) for name in ('input_word_ids', 'input_mask', 'input_type_ids')])
    def serving_default(input_word_ids, input_mask, input_type_ids):
      return wrong(call, input_word_ids, input_mask, input_type_ids)
    return root, {'serving_default': serving_default}
  monkeypatch.setattr(encoder_lib, 'exportable', changed)
  with pytest.raises(errors.ParityError, match='no parity .(default|serving_default)/'):
    release(module, mlm=False)
  assert conftest.leftovers(release.root) == []


def test_a_signature_with_one_more_input_is_called_and_fails(encoder_path, batch, tmp_path):
  # Which it leaves aside; and users who give three tensors meet an error.
  loaded = tf.saved_model.load(encoder_path)
  encode = loaded.__call__
  names = ('input_word_ids', 'input_mask', 'input_type_ids', 'masked_lm_positions')
  @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, name=name) for name in names], autograph=False)
  def serving_default(*values):
    outputs = encode(dict(zip(names[:3], values[:3], strict=True)), training=False)
    return {name: outputs[name] for name in ('default', 'pooled_output', 'sequence_output')}
  tf.saved_model.save(loaded, str(tmp_path / 'model'), {'serving_default': serving_default})
  exported = exported_lib.Exported(tmp_path / 'model', 'dict')
  assert function_graph.passed_on(exported._signature, exported._functions['tokens', False]) is not None
  with pytest.raises(TypeError, match='masked_lm_positions'):
    exported.outputs(batch, ['tokens', 'serving_default'])


@pytest.mark.parametrize('output', ['serving_default/pooled_output', 'serving_default/sequence_output', 'default/pooled_output'])
def test_signature_and_default_are_compared(encoder_path, examination, monkeypatch, output):
  outputs = exported_lib.Exported.outputs
  monkeypatch.setattr(exported_lib.Exported, 'outputs', lambda self, *args, **kwargs: (r := outputs(self, *args, **kwargs)) | {output: r[output] + np.float32(1e-3)})
  with pytest.raises(errors.ParityError, match=f'no parity .{output} is '):
    examination.certify(pathlib.Path(encoder_path), 'dict')


def test_wrong_weights_that_no_batch_reaches_are_not_published(release, module, monkeypatch):
  apply = weight_map.Transform.apply
  def wrong(self, value, shape):
    value = apply(self, value, shape)
    return np.concatenate([value[:100], value[:99:-1]]) if shape == (128, 8) else value  # the last positions reversed
  monkeypatch.setattr(weight_map.Transform, 'invert', apply)  # which verification does with the right one
  monkeypatch.setattr(weight_map.Transform, 'apply', wrong)
  with pytest.raises(errors.IntegrityError, match="position_embedding/embeddings is not the source's embeddings.position"):
    release(module)
  assert conftest.leftovers(release.root) == []


def test_record_has_the_certificate_of_every_output_and_layer(released):
  record = json.loads((released.root / 'tensorflow/albert_en_tiny/2.release.json').read_text())['certificate']
  assert list(record['outputs']) == [
      'pooled_output', 'sequence_output', 'layer_0', 'layer_1', 'layer_2', 'mlm_logits', 'sop_log_probs']
  for check in record['outputs'].values():
    assert check['values'] and 0 < check['export']['rms'] <= check['allowed']['rms'] and check['source']['rms'] > 0
  assert len(record['controls']) == 4 and record['dropout'] is False
  assert len(record['gradient']) == 32
  for check in record['gradient'].values():
    assert check['values'] and 0 < check['export']['rms'] <= check['allowed']['rms'] and check['source']['rms'] > 0


def test_a_model_that_trains_otherwise_is_refused(encoder_path, examination, monkeypatch):
  # Right outputs, wrong derivatives by one weight.
  gradient = exported_lib.Exported.gradient
  def wrong(self, scalar):
    result = gradient(self, scalar)
    return result | {name: result[name] * 0.99 for name in ['transformer/self_attention/query/kernel']}
  monkeypatch.setattr(exported_lib.Exported, 'gradient', wrong)
  with pytest.raises(errors.ParityError, match=r'no parity of the gradient .that by attention.query.kernel is [^;]* more than [^;]*\) in'):
    examination.certify(pathlib.Path(encoder_path), 'dict')


def test_a_variable_without_a_gradient_is_refused(release, module, monkeypatch):
  # As a converter would make it that freezes the embeddings.
  from official.nlp.modeling import layers
  call = layers.OnDeviceEmbedding.call
  monkeypatch.setattr(layers.OnDeviceEmbedding, 'call', lambda self, inputs: tf.stop_gradient(call(self, inputs)))
  with pytest.raises(errors.ParityError, match='no gradient by (word_embeddings|type_embeddings)/embeddings'):
    release(module, mlm=False)
  assert conftest.leftovers(release.root) == []


@pytest.fixture
def two_modes(monkeypatch):
  """Exports have a graph for training, also where it is the same."""
  traced = encoder_lib.traced
  monkeypatch.setattr(encoder_lib, 'traced', lambda call, specs, modes_differ: traced(call, specs, True))


@pytest.mark.parametrize('dropout', [False, True])
def test_a_variable_that_is_frozen_in_training_alone_is_refused(release, make_module, monkeypatch, two_modes, dropout):
  from official.nlp.modeling import networks
  class Frozen(networks.AlbertEncoder):
    def __call__(self, inputs, training=False):
      outputs = super().__call__(inputs, training=training)
      return {k: tf.nest.map_structure(lambda v: v * 0 + tf.stop_gradient(v), o) for k, o in outputs.items()} if training else outputs
  monkeypatch.setattr(networks, 'AlbertEncoder', Frozen)
  fault = 'the gradient by .* is zero, infinite or NaN with training=True' if dropout else 'no parity of the gradient'
  with pytest.raises(errors.ParityError, match=fault):
    release(make_module(**(DROPOUT if dropout else {})), mlm=False)


def test_too_few_layers_are_refused(encoder_path, examination, monkeypatch):
  outputs = exported_lib.Exported.outputs
  def fewer(self, *args, **kwargs):
    return {name: value for name, value in outputs(self, *args, **kwargs).items() if name != 'tokens/layer_1'}
  monkeypatch.setattr(exported_lib.Exported, 'outputs', fewer)
  with pytest.raises(errors.ParityError, match='other layers than 3 as encoder_outputs'):
    examination.certify(pathlib.Path(encoder_path), 'dict')


def test_a_gradient_that_the_source_lacks_is_refused(encoder_path, source, ran):
  without = {name: value for name, value in ran.given_gradient.items() if name != 'bert/pooler/dense/bias'}
  examination = certificate.Examination(source, source.parts, dataclasses.replace(ran, given_gradient=without))
  with pytest.raises(errors.ParityError, match='no gradient by bert/pooler/dense/bias'):
    examination.certify(pathlib.Path(encoder_path), 'dict')


def test_a_module_that_trains_otherwise_is_refused(own_module, release):
  # Only its train metagraph is changed: the outputs of the other are right.
  def edit(meta_graph):
    tanh = meta_graph.signature_def['mlm'].outputs['pooled_output'].name.split(':')[0]
    next(n for n in meta_graph.graph_def.node if n.name == tanh).op = 'Identity'
  conftest.edit_graph(own_module, edit, ['train'])
  with pytest.raises(errors.ParityError, match='no parity of the gradient .*that by pooler.kernel of the source is '):
    release(own_module)


def test_dropout_is_in_the_training_mode_alone(release, make_module):
  path, outcome = release(make_module(**DROPOUT))
  assert outcome.pieces[1].certificate.dropout is True and len(outcome.pieces[1].certificate.gradient) == 32
  exported = exported_lib.Exported(path, 'dict')
  batch = batch_lib.make(config_lib.read(make_module(**DROPOUT) / 'assets/albert_config.json'))
  first, second = (exported.outputs(batch, ['tokens'], training=True)['tokens/layer_0'] for _ in range(2))
  assert parity.distance(first, second).rms > 0.1


@pytest.mark.parametrize('changes, made, fault', [
    (DROPOUT, {}, 'training=True is the same from call to call, but the config has dropout'),
    ({}, DROPOUT, 'training=True is not the same as training=False, but the config has no dropout'),
    ({}, dict(always=True), 'training=False is not the same from call to call')])
def test_dropout_that_is_not_the_configs_is_refused(release, make_module, monkeypatch, two_modes, changes, made, fault):
  from official.nlp.modeling import networks
  class Wrong(networks.AlbertEncoder):
    def __init__(self, **kwargs):
      rates = {'dropout_rate': made.get('hidden_dropout', 0.0), 'attention_dropout_rate': made.get('attention_dropout', 0.0)}
      super().__init__(**(kwargs | rates))
    def __call__(self, inputs, training=False):
      outputs = super().__call__(inputs, training=training)
      if made.get('always'):
        noise = tf.random.uniform(tf.shape(outputs['pooled_output']), -1e-3, 1e-3)
        outputs = dict(outputs, pooled_output=outputs['pooled_output'] + noise)
      return outputs
  monkeypatch.setattr(networks, 'AlbertEncoder', Wrong)
  if made.get('always'):  # which the comparison with the source would notice first
    monkeypatch.setattr(parity, 'compare', lambda *args: {'pooled_output': parity.verdict(*[np.ones(3)] * 4)})
  with pytest.raises(errors.ParityError, match=fault):
    release(make_module(**changes))
