"""A right conversion gets a certificate; a conversion that computes or trains differently is refused."""

import contextlib
import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from official.nlp.modeling import networks
from support import modules
from support import trees

from converters import errors
from converters import source as source_lib
from converters import weight_map
from converters.reference import measures
from export.model import encoder as encoder_lib
from export.validation import encoder_certificate
from export.validation import exported_encoder
from export.validation import negative_controls
from export.validation import parity
from trials import wrong_conversions

DROPOUT = dict(hidden_dropout=0.1, attention_dropout=0.1)


def test_controls_leave_the_model_as_it_was_and_are_recorded(encoder_path, expecting):
  batch, expected = expecting
  exported = exported_encoder.Exported(pathlib.Path(encoder_path), 'dict', widened=True)
  before = exported.outputs(batch, ['tokens'])
  controls = negative_controls.run(exported, batch, expected.outputs)
  assert sorted(controls) == [
    'layer norms swapped',
    'query and key swapped',
    'value kernel transposed',
    'word embedding shifted by a row',
  ]
  assert all(distance > 1e6 * parity.OUTPUT_BOUND for distance in controls.values())
  after = exported.outputs(batch, ['tokens'])
  assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
  'mistake',
  [
    lambda variables: [],
    lambda variables: [(variables['pooler_transform/bias'], variables['pooler_transform/bias'].numpy() + 1e-7)],
  ],
  ids=['none', 'too small'],
)
def test_a_control_that_is_not_noticed_refuses_the_certificate(encoder_path, expecting, monkeypatch, mistake):
  batch, expected = expecting
  exported = exported_encoder.Exported(pathlib.Path(encoder_path), 'dict', widened=True)
  monkeypatch.setattr(negative_controls, 'mistakes', lambda variables: iter([('nothing at all', mistake(variables))]))
  with pytest.raises(errors.ParityError, match='negative controls: not refused for these weights .nothing at all.'):
    negative_controls.run(exported, batch, expected.outputs)


def test_weights_that_hide_mistakes_are_refused(release, own_module, source, monkeypatch):
  # Query and key are equal, so this module cannot prove that they are not swapped.
  rows = {r.name: r for r in weight_map.rows(source.config, source.parts)}
  read = tf.train.load_checkpoint(str(own_module / 'variables/variables'))
  tensors = {row.tf1: read.get_tensor(row.tf1.replace('/key/', '/query/')) for row in rows.values()}
  for path in (own_module / 'variables').iterdir():
    path.unlink()
  tf.raw_ops.SaveV2(
    prefix=str(own_module / 'variables/variables'),
    tensor_names=list(tensors),
    shape_and_slices=[''] * len(tensors),
    tensors=list(tensors.values()),
  )
  with pytest.raises(errors.ParityError, match='negative controls: not refused .* .query and key swapped.'):
    release(own_module)
  assert trees.leftovers(release.root) == []


def test_weights_that_float32_cannot_tell_apart_are_told_apart_in_float64(encoder_path, examination, monkeypatch):
  """A weight differs by a few units in the last place, which float32 cannot resolve."""
  load = exported_encoder.Exported.__init__

  def moved(self, path, interface, widened=False):
    load(self, path, interface, widened)
    if widened:
      kernel = self.variables['transformer/output/kernel']
      value = kernel.numpy()
      value[3, 5] *= 1 + 1e-6
      kernel.assign(value)

  monkeypatch.setattr(exported_encoder.Exported, '__init__', moved)
  with pytest.raises(
    errors.ParityError, match="layer_2 is [^;]* from the source's graph in float64, more than 1e-09"
  ) as caught:
    examination.certify(pathlib.Path(encoder_path), 'dict')
  assert 'in float32' not in str(caught.value)


@pytest.mark.parametrize(
  'in_training, fault',
  [
    (False, r'no parity with its source .default/tokens/pooled_output is '),
    pytest.param(True, 'default/tokens/pooled_output with training=True is ', marks=pytest.mark.slow),
  ],
)
def test_another_default_of_the_encoder_is_refused(prove, module, monkeypatch, two_modes, in_training, fault):
  encode, exportable = encoder_lib.Outlined.encode, encoder_lib.exportable

  def wrong(self, inputs, training):
    outputs = encode(self, inputs, training)
    return dict(outputs, default=outputs['sequence_output'][:, 0]) if training or not in_training else outputs

  def changed(*args):
    root, signatures = exportable(*args)
    inputs = ('input_word_ids', 'input_mask', 'input_type_ids')

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, name=name) for name in inputs])
    def serving_default(*values):
      outputs = encoder_lib.traces(root, True).call(dict(zip(inputs, values, strict=True)), False)
      return {name: outputs[name] for name in ('pooled_output', 'sequence_output')} | {
        'default': outputs['pooled_output']
      }

    return root, dict(signatures, serving_default=serving_default)

  monkeypatch.setattr(encoder_lib.Outlined, 'encode', wrong)
  monkeypatch.setattr(encoder_lib, 'exportable', changed)
  with pytest.raises(errors.ParityError, match=fault):
    prove(module, mlm=False)


@pytest.mark.parametrize(
  'wrong',
  [
    pytest.param(lambda call, ids, mask, types: call(ids, types, mask), marks=pytest.mark.slow),
    lambda call, ids, mask, types: call(ids, tf.ones_like(mask), types),
    pytest.param(
      lambda call, ids, mask, types: {name: value * 1.001 for name, value in call(ids, mask, types).items()},
      marks=pytest.mark.slow,
    ),
    lambda call, ids, mask, types: dict(
      call(ids, mask, types), default=call(ids, mask, types)['sequence_output'][:, 0]
    ),
  ],
  ids=['mask and types swapped', 'no mask', 'scaled', 'another default'],
)
def test_a_signature_that_computes_something_else_is_refused(prove, module, monkeypatch, wrong):
  exportable = encoder_lib.exportable

  def changed(*args):
    root, signatures = exportable(*args)
    encode = encoder_lib.traces(root, False)

    def call(*inputs):
      outputs = encode.call(dict(zip(('input_word_ids', 'input_mask', 'input_type_ids'), inputs, strict=True)), False)
      return {name: outputs[name] for name in ('default', 'pooled_output', 'sequence_output')}

    @tf.function(
      input_signature=[
        tf.TensorSpec([None, None], tf.int32, name=name) for name in ('input_word_ids', 'input_mask', 'input_type_ids')
      ]
    )
    def serving_default(input_word_ids, input_mask, input_type_ids):
      return wrong(call, input_word_ids, input_mask, input_type_ids)

    return root, dict(signatures, serving_default=serving_default)

  monkeypatch.setattr(encoder_lib, 'exportable', changed)
  with pytest.raises(errors.ParityError, match='no parity with its source .(default|serving_default)/'):
    prove(module, mlm=False)


@pytest.mark.parametrize(
  'output',
  [
    'serving_default/pooled_output',
    pytest.param('serving_default/sequence_output', marks=pytest.mark.slow),
    'default/tokens/pooled_output',
    pytest.param('default/mlm/pooled_output', marks=pytest.mark.slow),
    pytest.param('sop/layer_1', marks=pytest.mark.slow),
  ],
)
def test_signature_and_default_are_compared(encoder_path, examination, monkeypatch, output):
  outputs = exported_encoder.Exported.outputs

  def changed(self, batch, signatures, training=False):
    result = outputs(self, batch, signatures, training)
    return result | {output: result[output] + np.float32(1e-3)} if output in result else result

  monkeypatch.setattr(exported_encoder.Exported, 'outputs', changed)
  with pytest.raises(errors.ParityError, match=f'no parity with its source .{output} is '):
    examination.certify(pathlib.Path(encoder_path), 'dict')


def test_wrong_weights_that_no_batch_reaches_are_not_published(release, module, monkeypatch):
  apply = weight_map.Transform.apply

  def wrong(self, value, shape):
    value = apply(self, value, shape)
    return np.concatenate([value[:100], value[:99:-1]]) if shape == (128, 8) else value  # last positions reversed

  monkeypatch.setattr(weight_map.Transform, 'invert', apply)  # verification calls the original
  monkeypatch.setattr(weight_map.Transform, 'apply', wrong)
  with pytest.raises(
    errors.IntegrityError, match="position_embedding/embeddings differs from the source's embeddings.position"
  ):
    release(module)
  assert trees.leftovers(release.root) == []


def test_record_has_the_certificate_of_every_output_and_layer(released):
  record = json.loads((released.root / 'tensorflow/albert_en_tiny/2.release.json').read_text())['certificate']
  assert list(record['outputs']) == [
    'pooled_output',
    'sequence_output',
    'mlm_logits',
    'sop_log_probs',
    'layer_0',
    'layer_1',
    'layer_2',
  ]
  assert record['against'] == 'graph' and record['bounds'] == {'outputs': 1e-9, 'gradient': 1e-8, 'controls': 1e-6}
  for check in record['outputs'].values():
    assert check['values'] and 0 <= check['source'] < 1e-14 and 0 <= check['reference'] < 1e-14
    float32 = check['float32']
    assert (
      1e-9 < float32['export']['rms'] <= float32['allowed']['rms'] < 1e-5 and 1e-9 < float32['source']['rms'] < 1e-5
    )
  assert len(record['controls']) == 6 and record['dropout'] is False
  assert len(record['gradient']) == 32
  for check in record['gradient'].values():
    assert check['values'] and 0 <= check['source'] < 1e-13 and 0 <= check['reference'] < 1e-13


def test_a_model_that_trains_otherwise_is_refused(encoder_path, examination, monkeypatch):
  # Right outputs, wrong derivatives by one weight.
  gradient = exported_encoder.Exported.gradient

  def wrong(self, scalar):
    result, outputs = gradient(self, scalar)
    return result | {name: result[name] * 0.99 for name in ['transformer/self_attention/query/kernel']}, outputs

  monkeypatch.setattr(exported_encoder.Exported, 'gradient', wrong)
  with pytest.raises(
    errors.ParityError,
    match=r'the derivative by attention.query.kernel is [^;]*; the derivative by attention.query.kernel is [^;]*\);',
  ):
    examination.certify(pathlib.Path(encoder_path), 'dict')


def test_a_variable_without_a_gradient_is_refused(prove, module, monkeypatch):
  # Like a converter that freezes the embeddings.
  from official.nlp.modeling import layers

  call = layers.OnDeviceEmbedding.call
  monkeypatch.setattr(layers.OnDeviceEmbedding, 'call', lambda self, inputs: tf.stop_gradient(call(self, inputs)))
  monkeypatch.setattr(exported_encoder.Exported, 'stopped_gradients', lambda self: [])  # which would refuse it before
  with pytest.raises(errors.ParityError, match='no gradient by (word_embeddings|type_embeddings)/embeddings'):
    prove(module, mlm=False)


@pytest.fixture
def two_modes(monkeypatch):
  """Exports have a graph for training, even if both graphs are equal."""
  traced = encoder_lib.traced
  monkeypatch.setattr(encoder_lib, 'traced', lambda call, specs, modes_differ: traced(call, specs, True))


@pytest.mark.slow
@pytest.mark.parametrize('dropout', [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_variable_that_is_frozen_in_training_alone_is_refused(prove, make_module, monkeypatch, two_modes, dropout):
  encode = encoder_lib.Outlined.encode

  def frozen(self, inputs, training):
    outputs = encode(self, inputs, training)
    return tf.nest.map_structure(lambda v: v * 0 + tf.stop_gradient(v), outputs) if training else outputs

  monkeypatch.setattr(encoder_lib.Outlined, 'encode', frozen)
  monkeypatch.setattr(exported_encoder.Exported, 'stopped_gradients', lambda self: [])  # which would refuse it before
  fault = 'the gradient by .* is zero, infinite or NaN with training=True' if dropout else 'the derivative by .* is '
  with pytest.raises(errors.ParityError, match=fault):
    prove(make_module(**(DROPOUT if dropout else {})), mlm=False)


@pytest.mark.parametrize('wrong', [pytest.param('layer outputs detached', marks=pytest.mark.slow), 'sop head detached'])
def test_an_output_that_does_not_train_the_encoder_is_refused(prove, module, wrong):
  with (
    wrong_conversions.WRONG_CONVERSIONS[wrong](),
    pytest.raises(errors.ParityError, match='the gradient is stopped at .*StopGradient'),
  ):
    prove(module)


@pytest.mark.parametrize(
  'form', [pytest.param('graph', marks=pytest.mark.slow), 'weights']
)  # graphs: test_trials has one case in every run
@pytest.mark.parametrize(
  'wrong', [None, 'half of each layer in training', pytest.param('dropout rates of 0.5', marks=pytest.mark.slow)]
)
def test_another_training_mode_is_refused_with_dropout(prove, make_module, monkeypatch, wrong, form):
  module, open_source = make_module(**DROPOUT), source_lib.open_source

  @contextlib.contextmanager
  def without_graph(*args, **kwargs):
    with open_source(*args, **kwargs) as opened:
      opened.graph = None
      yield opened

  if form == 'weights':  # compared with the reference
    monkeypatch.setattr(source_lib, 'open_source', without_graph)
  if wrong is None:
    assert prove(module, mlm=False, sop=False)[1].against == ('graph' if form == 'graph' else 'reference')
    return
  with (
    wrong_conversions.WRONG_CONVERSIONS[wrong](),
    pytest.raises(errors.ParityError, match='tokens/sequence_output with training=True is '),
  ):
    prove(module, mlm=False, sop=False)


def test_too_few_layers_are_refused(encoder_path, examination, monkeypatch):
  outputs = exported_encoder.Exported.outputs

  def fewer(self, *args, **kwargs):
    return {name: value for name, value in outputs(self, *args, **kwargs).items() if name != 'tokens/layer_1'}

  monkeypatch.setattr(exported_encoder.Exported, 'outputs', fewer)
  with pytest.raises(errors.ParityError, match='layer_1 is missing in the export'):
    examination.certify(pathlib.Path(encoder_path), 'dict')


def test_a_gradient_that_the_source_lacks_is_refused(encoder_path, source, ran):
  without = {name: value for name, value in ran.given_gradient.items() if name != 'bert/pooler/dense/bias'}
  examination = encoder_certificate.Examination(source, source.parts, dataclasses.replace(ran, given_gradient=without))
  with pytest.raises(errors.ParityError, match='no gradient by bert/pooler/dense/bias'):
    examination.certify(pathlib.Path(encoder_path), 'dict')


def test_a_module_that_trains_otherwise_is_refused(own_module, prove):
  # Only the training metagraph is changed: the outputs of the other one are right.
  def edit(meta_graph):
    tanh = meta_graph.signature_def['mlm'].outputs['pooled_output'].name.split(':')[0]
    next(n for n in meta_graph.graph_def.node if n.name == tanh).op = 'Identity'

  modules.edit_graph(own_module, edit, ['train'])
  with pytest.raises(errors.ParityError, match="the derivative by pooler.kernel is [^;]* from the source's graph"):
    prove(own_module)


def test_dropout_is_in_the_training_mode_alone(with_dropout, batch):
  path = with_dropout / 'tensorflow/albert_en_tiny/2'
  record = trees.record(path)['certificate']
  assert record['dropout'] is True and len(record['gradient']) == 32
  exported = exported_encoder.Exported(path, 'dict')
  first, second = (exported.outputs(batch, ['tokens'], training=True)['tokens/layer_0'] for _ in range(2))
  assert measures.distance(first, second).rms > 0.1


@pytest.mark.parametrize(
  'changes, made, fault',
  [
    (DROPOUT, {}, 'training=True is not random, but the config has dropout'),
    pytest.param({}, DROPOUT, 'training=True is random, but the config has no dropout', marks=pytest.mark.slow),
    pytest.param({}, dict(always=True), '/pooled_output is ', marks=pytest.mark.slow),
  ],
)
def test_dropout_that_is_not_the_configs_is_refused(prove, make_module, monkeypatch, two_modes, changes, made, fault):
  class Wrong(networks.AlbertEncoder):
    def __init__(self, **kwargs):
      rates = {
        'dropout_rate': made.get('hidden_dropout', 0.0),
        'attention_dropout_rate': made.get('attention_dropout', 0.0),
      }
      super().__init__(**(kwargs | rates))

  encode = encoder_lib.Outlined.encode

  def noisy(self, inputs, training):
    outputs = encode(self, inputs, training)
    noise = tf.random.uniform(tf.shape(outputs['pooled_output']), -1e-3, 1e-3) if made.get('always') else 0.0
    return dict(outputs, pooled_output=outputs['pooled_output'] + noise)

  monkeypatch.setattr(encoder_lib.Outlined, 'encode', noisy)
  monkeypatch.setattr(networks, 'AlbertEncoder', Wrong)
  with pytest.raises(errors.ParityError, match=fault):
    prove(make_module(**changes))


@pytest.mark.slow
def test_a_large_model_is_examined_one_side_after_the_other(encoder_path, examination, monkeypatch):
  monkeypatch.setattr(encoder_certificate, '_SMALL', 0)
  steps = []
  result = examination.certify(
    pathlib.Path(encoder_path), 'dict', lambda name: steps.append(name) or contextlib.nullcontext()
  )
  assert steps.index('run the export in float32') < steps.index('wait for the source') < steps.index('widen the export')
  assert 'wait for the gradient' not in steps and len(result.gradient) == 32


@pytest.mark.parametrize(
  'call',
  ['sop/sequence_output', *(pytest.param(c, marks=pytest.mark.slow) for c in ('mlm/pooled_output', 'mlm/mlm_logits'))],
)
def test_an_output_that_one_call_lacks_is_refused(encoder_path, examination, monkeypatch, call):
  outputs = exported_encoder.Exported.outputs
  monkeypatch.setattr(
    exported_encoder.Exported,
    'outputs',
    lambda self, *args, **kwargs: {
      name: value for name, value in outputs(self, *args, **kwargs).items() if name != call
    },
  )
  with pytest.raises(errors.ParityError, match=f'{call} is missing in the export'):
    examination.certify(pathlib.Path(encoder_path), 'dict')
