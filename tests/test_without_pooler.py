"""An encoder without pooler: refused without --nopooler, and the same contract in every artifact with it."""

import dataclasses
import json
import subprocess

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
from official.nlp.modeling import networks
from safetensors import numpy as safetensors_numpy
from support import releases
from test_hugging_face import grouped
from test_tf1_checkpoint import write_checkpoint

from converters import albert_config
from converters import build_encoder
from converters import errors
from converters import source as source_lib
from converters import weight_map
from converters.writers import hugging_face as hugging_face_writer
from converters.writers import tf2_checkpoint
from export import record as record_lib
from export.release import compatibility
from export.release import integrity
from export.validation import golden_file

NONE = source_lib.Reading(pooler=False)
_E, _M, _S = weight_map.Part
POOLER = ['bert/pooler/dense/kernel', 'bert/pooler/dense/bias']


def _write(module, directory, head, reading=NONE, architecture=None):
  """Writes a model of Hugging Face without pooler, with the weights of a head of a task."""
  directory.mkdir()
  with source_lib.open_source(str(module), reading) as source:
    hugging_face_writer.write(source, directory, architecture=architecture)
  tensors = safetensors_numpy.load_file(directory / 'model.safetensors')
  if head is not None:
    tensors |= {f'{head}.{name}': np.zeros(2, np.float32) for name in ('weight', 'bias')}
  safetensors_numpy.save_file(tensors, directory / 'model.safetensors')
  return directory


@pytest.fixture(scope='module')
def masked_lm(module, tmp_path_factory):
  """AlbertForMaskedLM as Transformers saves it. Not to be changed."""
  return _write(module, tmp_path_factory.mktemp('masked_lm') / 'model', None)


@pytest.mark.parametrize(
  'head, architecture, named',
  [
    ('qa_outputs', 'AlbertModel', 'AlbertForQuestionAnswering'),
    ('classifier', 'AlbertModel', 'AlbertForTokenClassification'),
    ('sequence_summary', 'AlbertModel', 'a class with sequence_summary'),
    (None, 'AlbertModel', 'AlbertModel with add_pooling_layer=False'),
    (None, 'AlbertForMaskedLM', 'AlbertForMaskedLM'),
  ],
)
def test_a_class_without_pooler_is_named_and_opened_with_the_flag(module, tmp_path, refused, head, architecture, named):
  own = _write(module, tmp_path / 'own', head, architecture=architecture)
  if architecture == 'AlbertModel' and head:
    tensors = safetensors_numpy.load_file(own / 'model.safetensors')
    tensors = {name if name.startswith(head) else f'albert.{name}': value for name, value in tensors.items()}
    safetensors_numpy.save_file(tensors, own / 'model.safetensors')
  refused(own, rf'no albert.pooler.weight, so no pooled output \(the model is {named}\); give option pooler=False')
  with source_lib.open_source(str(own), NONE) as source, source_lib.open_source(str(module)) as original:
    assert source.parts == ({_E, _M} if architecture == 'AlbertForMaskedLM' else {_E})
    assert 'no pooler, so no pooled output' in source.notes
    rows = weight_map.rows(source.config, source.parts)
    assert len(rows) == (28 if _M in source.parts else 23)
    assert all(np.array_equal(source.tensor(row), original.tensor(row)) for row in rows)


def test_a_checkpoint_without_pooler_names_the_option(module, tmp_path, refused):
  made = write_checkpoint(tmp_path / 'made', module, without=POOLER)
  refused(made, 'no pooler, so no pooled output; give option pooler=False')
  with source_lib.open_source(str(made), NONE) as source:
    assert source.parts == {_E, _M} and source_lib.missing_heads(source) == []


@pytest.fixture(scope='module')
def published(masked_lm, tmp_path_factory, source_results):
  """A tree with an encoder without pooler and its text model. Not to be changed."""
  root = tmp_path_factory.mktemp('published')
  return releases.Release(root, source_results)(masked_lm, 'albert_np', version=1, reading=NONE, with_text=True)


def test_every_artifact_has_the_same_contract(published, module, released):
  path, outcome = published
  record = record_lib.read(path)
  assert record.config['pooler'] is False and record.heads == ['mlm']
  assert integrity.check(path, record) == 28
  outputs = outcome.pieces[1].certificate.outputs
  assert list(outputs) == ['sequence_output', 'mlm_logits', 'layer_0', 'layer_1', 'layer_2']
  assert not any('pooler' in name for name in outcome.pieces[1].certificate.gradient)
  interface = compatibility.describe(path)
  assert list(interface.calls) == ['', 'padding_free', 'mlm']
  assert interface.trainable == {'': 23, 'padding_free': 23, 'mlm': 28}
  layers = {f'encoder_outputs[{number}]' for number in range(3)}
  for trace in interface.calls['']:
    assert trace.outputs.keys() == {'sequence_output', *layers}
  assert interface.signatures['serving_default'].outputs.keys() == {'sequence_output'}
  # The weights and the outputs are those of the same model with its pooler.
  whole = tf.saved_model.load(str(released.root / 'tensorflow/albert_en_tiny/2'))
  batch = {name: tf.constant([[2, 7, 9, 3]]) for name in ('input_word_ids', 'input_mask', 'input_type_ids')}
  batch['input_type_ids'] = tf.zeros_like(batch['input_mask'])
  batch['input_mask'] = tf.ones_like(batch['input_mask'])
  ours, right = tf.saved_model.load(str(path))(batch), whole(batch)
  assert np.array_equal(ours['sequence_output'], right['sequence_output'])


@pytest.mark.slow
def test_the_text_model_has_it_too(published):
  path, outcome = published
  text = path.parents[1] / 'albert_np_text/1'
  assert integrity.check(text, record_lib.read(text)) == 23
  assert set(outcome.pieces[2].certificate.outputs) == {
    *('sequence_output', 'serving_default/sequence_output', 'layer_0', 'layer_1', 'layer_2')
  }
  outputs = tf.saved_model.load(str(text))(tf.constant(['a b']))
  assert outputs.keys() == {'sequence_output', 'encoder_outputs'}


def test_cards_show_only_what_there_is(published):
  path, _ = published
  for card in (path.with_name('1.md'), path.parents[1] / 'albert_np_text/1.md'):
    text = card.read_text()
    assert 'outputs["pooled_output"]' not in text and 'This model has no pooler' in text
    assert 'tf.keras.Model(text_input, sequence_output)' in text
  assert 'outputs["pooled_output"]' not in (path.parents[1] / 'collections/albert/1.md').read_text()


def test_no_output_is_the_default(published):
  """`default` is a [batch, H] vector elsewhere: a tensor of another rank under that name would surprise."""
  path, _ = published
  ids = tf.ones([1, 4], tf.int32)
  batch = {'input_word_ids': ids, 'input_mask': ids, 'input_type_ids': ids * 0}
  for name in ('default', 'pooled_output'):
    with pytest.raises(ValueError, match=f'does not contain the output key {name}'):
      hub.KerasLayer(str(path), output_key=name)(batch)
  layer = hub.KerasLayer(str(path), output_key='sequence_output', trainable=True)
  assert layer(batch).shape == (1, 4, 16) and len(layer.trainable_weights) == 23


def test_a_record_that_claims_a_pooler_is_refused(published, tmp_path):
  path, _ = published
  record = record_lib.read(path)
  del record.config['pooler']
  with pytest.raises(errors.IntegrityError, match='the weights in the record are not those of this model'):
    integrity.check(path, record)


def test_golden_outputs(published, masked_lm):
  path, _ = published
  with source_lib.open_source(str(masked_lm), NONE) as source:
    golden = golden_file.of_source(source)
  assert list(golden['outputs']) == ['sequence_output', 'mlm_logits']
  assert list(golden_file.check(path, record_lib.read(path), golden)) == ['sequence_output', 'mlm_logits']


def test_a_release_without_pooler_says_so_as_a_source(published, masked_lm, module, tmp_path):
  path, _ = published
  for place in (path, path.with_name('1.tar.gz')):
    with source_lib.open_source(str(place)) as source, source_lib.open_source(str(masked_lm), NONE) as original:
      assert source.config == original.config and not source.config.pooler and source.parts == {_E, _M}
      for row in weight_map.rows(source.config, source.parts):
        assert np.array_equal(source.tensor(row), original.tensor(row))


@pytest.mark.slow
def test_a_pooler_of_the_source_is_left_out_and_named(module, prove, source_results):
  with source_lib.open_source(str(module), NONE) as source:
    assert source.parts == {_E, _M} and source_lib.missing_heads(source) == []
    assert source.notes == [
      'left out, the pooler and its head: bert/pooler/dense/bias, bert/pooler/dense/kernel, '
      'cls/seq_relationship/output_bias, cls/seq_relationship/output_weights'
    ]
  path, certificate = prove(module, reading=NONE)
  assert certificate.against == 'graph' and {'sequence_output', 'mlm_logits'} <= certificate.outputs.keys()
  assert all(check.source < 1e-9 for name, check in certificate.outputs.items() if not name.startswith('layer_'))
  assert 'pooled_output' not in certificate.outputs and len(certificate.gradient) == 28
  assert not hasattr(tf.saved_model.load(str(path)), 'sop')


def test_a_version_that_lost_its_pooler_breaks_users(module, released, published):
  old = compatibility.describe(released.root / 'tensorflow/albert_en_tiny/2')
  found = compatibility.breaking_differences(old, compatibility.describe(published[0]))
  assert 'the model does not return default, pooled_output any more' in found
  assert 'signature serving_default does not return default, pooled_output any more' in found and 'sop is gone' in found


@pytest.mark.parametrize('slots', [(), ('adam_m', 'adam_v')])
def test_slots_of_the_pooler_go_with_it(module, tmp_path, slots):
  made = write_checkpoint(tmp_path / 'made', module, slots=slots)
  with source_lib.open_source(str(made), NONE) as source:
    assert source.notes[0].startswith('left out, the pooler and its head: bert/pooler') and len(source.notes) == 1


@pytest.mark.slow
def test_groups_and_dropout_without_pooler(module, tmp_path, release):
  own = grouped(module, tmp_path / 'own', 3, 1)
  config = json.loads((own / 'config.json').read_text()) | {'hidden_dropout_prob': 0.1}
  (own / 'config.json').write_text(json.dumps(config))
  _, outcome = release(own, 'albert_np', version=1, reading=NONE)
  certificate = outcome.pieces[1].certificate
  assert certificate.dropout and 'pooled_output' not in certificate.outputs and len(certificate.gradient) == 23 + 32


def test_the_list_interface_has_a_pooled_output(module, published, refused, release):
  with pytest.raises(
    errors.UsageError, match='option pooler=False: not available with the list interface; give option io=dict'
  ):
    release(module, reading=NONE, interface='list')
  with pytest.raises(errors.UsageError, match='option pooler=False and option sop: the head reads the pooled output'):
    release(module, reading=NONE, sop=True)
  refused(published[0], 'no pooled output, which the list interface has; give option io=dict', interface='list')


@pytest.mark.parametrize(
  'parts, architecture', [({_E, _M}, 'AlbertForMaskedLM'), ({_E}, 'AlbertModel')], ids=['with mlm', 'without']
)
def test_transformers_gets_a_class_whose_weights_are_all_there(module, tmp_path, parts, architecture):
  with source_lib.open_source(str(module), NONE) as source:
    source.parts = frozenset(parts)
    assert hugging_face_writer.write(source, tmp_path) == []
  config = json.loads((tmp_path / 'config.json').read_text())
  assert config['architectures'] == [architecture] and 'pooler' not in config
  assert not any('pooler' in name for name in safetensors_numpy.load_file(tmp_path / 'model.safetensors'))
  assert 'AutoModel.from_pretrained(".", add_pooling_layer=False)' in (tmp_path / 'README.md').read_text()


def test_the_checkpoint_restores_an_encoder_but_for_its_pooler(module, tmp_path):
  with source_lib.open_source(str(module)) as source:
    right = build_encoder.build(source, [_E]).encoder
  with source_lib.open_source(str(module), NONE) as source:
    left = tf2_checkpoint.write(source, tmp_path)
  assert left[-1] == 'encoder.yaml: the encoders that tf-models makes of it have a pooler'
  assert sorted(p.name for p in tmp_path.glob('*.yaml')) == []
  encoder = networks.AlbertEncoder(
    **right.get_config() | {'activation': build_encoder.ACTIVATIONS[source.config.activation]}
  )
  tf.train.Checkpoint(encoder=encoder).restore(str(tmp_path / 'ckpt-1')).expect_partial()
  for found, wanted in zip(encoder.variables, right.variables, strict=True):
    assert np.array_equal(found, wanted) != found.name.startswith('pooler_transform'), found.name
  with source_lib.open_source(str(tmp_path)) as again:
    assert not again.config.pooler and again.parts == {_E}


def test_the_key_of_the_config(module, config):
  values = config.as_json()
  assert 'pooler' not in values and albert_config.parse(values | {'pooler': True}) == config
  assert albert_config.parse(values | {'pooler': False}) == dataclasses.replace(config, pooler=False)
  with pytest.raises(errors.ConfigError, match="pooler is 'no', not true or false"):
    albert_config.parse(values | {'pooler': 'no'})


def test_verify_follows_the_record(published, masked_lm, python_module):
  path, _ = published
  text = path.parents[1] / 'albert_np_text/1'
  done = subprocess.run(
    python_module('export.verify', f'--release={text}', f'--source={masked_lm}'), capture_output=True, text=True
  )
  assert done.returncode == 0 and 'the published model and an independent evaluation' in done.stdout, done.stderr


def test_a_preprocessor_needs_no_pooler(masked_lm, python_module, tmp_path):
  flags = ('--model=albert_en_preprocess', '--version=4', f'--export_root={tmp_path}/dist', '--dry_run')
  done = subprocess.run(python_module('export', f'--source={masked_lm}', *flags), capture_output=True, text=True)
  assert done.returncode == 0 and 'albert_en_preprocess/4' in done.stdout, done.stderr
