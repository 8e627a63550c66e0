"""A text model is compared with its two parts: other weights, ids or modes and missing outputs fail."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import sentencepiece as spm
import tensorflow as tf
from support import modules

from converters import albert_config
from converters import build_encoder
from converters import errors
from converters import source as source_lib
from converters import weight_map
from export import record as record_lib
from export.model import encoder as encoder_lib
from export.model import preprocessor as preprocessor_model
from export.model import saved_model
from export.model import text_encoder
from export.validation import preprocessor_certificate
from export.validation import text_certificate


@pytest.fixture(scope='module')
def paths(text_path):
  root = pathlib.Path(text_path).parents[1]
  return [pathlib.Path(text_path), root / 'albert_en_demo_preprocess/3', root / 'albert_en_demo/3']


@pytest.fixture
def make(module, sp_model, tmp_path, config):
  """A function that saves a text model after a change of its parts."""

  def save(version=3, change=lambda root, encoder: None, encode=lambda preprocessor, encoder: None):
    with source_lib.open_source(str(module)) as source:
      albert = build_encoder.build(source, {weight_map.Part.ENCODER})
    (tmp_path / 'x.model').write_bytes(sp_model)
    encoder, _ = encoder_lib.exportable(albert, str(tmp_path / 'x.model'))
    preprocessor, _ = preprocessor_model.exportable(sp_model, version)
    encode(preprocessor, encoder)
    root, signatures = text_encoder.exportable(preprocessor, encoder, False)
    change(root, encoder)
    saved_model.write(root, signatures, tmp_path / 'text')
    return tmp_path / 'text'

  return save


def test_the_certificate_of_what_is_published(paths, config):
  certificate = text_certificate.check(*paths, 3, config)
  served = ['default', 'pooled_output', 'sequence_output']
  assert sorted(certificate.outputs) == sorted(
    [*served, *(f'serving_default/{name}' for name in served), 'layer_0', 'layer_1', 'layer_2']
  )
  assert certificate.texts == len(preprocessor_certificate.TEXTS) and not certificate.dropout
  for name, check in certificate.outputs.items():
    assert check.apart.largest == 0 and check.passes, name  # the same graph on the same numbers
    assert check.control.rms > 1000 * check.allowed.rms
    assert check.values == certificate.texts * 16 * (1 if name.endswith(('default', 'pooled_output')) else 128)
  record = record_lib.read(paths[0])
  assert record.certificate == json.loads(json.dumps(certificate.as_json()))


def test_right_ones_pass(paths, make, config):
  text_certificate.check(make(), *paths[1:], 3, config)


WRONG = {
  'other weights': (
    dict(change=lambda root, encoder: encoder.variables[-1].assign(encoder.variables[-1] + 1e-4)),
    'pooled_output is .* more than',
  ),
  'other ids': (dict(version=4), 'sequence_output is .* from its parts'),
  'no layer': (
    dict(encode=lambda preprocessor, encoder: _without(encoder, 'encoder_outputs')),
    'layer_0 is missing; layer_1 is missing',
  ),
  'a variable that is not trained': (
    dict(change=lambda root, encoder: setattr(root, 'trainable_variables', root.trainable_variables[1:])),
    '24 variables are trainable, not the 25 of the encoder',
  ),
  'one more layer': (dict(encode=lambda preprocessor, encoder: _without(encoder, None)), 'layer_3 is unexpected'),
}


def _without(encoder, name):
  """Removes an output of an encoder, or adds a layer."""
  whole = encoder.padding_free.__call__
  specs = encoder_lib.traces(encoder, False).specs

  def call(inputs, training):
    outputs = dict(whole.get_concrete_function(specs, training=training)(inputs, training=training))
    if name is None:
      return dict(outputs, encoder_outputs=[*outputs['encoder_outputs'], outputs['sequence_output']])
    del outputs[name]
    return outputs

  encoder.padding_free.__call__ = encoder_lib.traced(call, specs, True).function


@pytest.mark.parametrize(
  'case',
  [name if name in ('other ids', 'other weights') else pytest.param(name, marks=pytest.mark.slow) for name in WRONG],
)
def test_wrong_ones_fail(paths, make, config, case):
  changes, message = WRONG[case]
  with pytest.raises(errors.ParityError, match=f'text model: no parity .*{message}'):
    text_certificate.check(make(**changes), *paths[1:], 3, config)


def test_a_mode_that_does_not_fit_the_config_fails(paths, config, with_dropout):
  dropping = albert_config.parse(vars(config) | {'hidden_dropout_prob': 0.1})
  with pytest.raises(errors.ParityError, match='training=True equals training=False, but the config has dropout'):
    text_certificate.check(*paths, 3, dropping)
  made = [
    with_dropout / 'tensorflow' / model
    for model in ('albert_en_tiny_text/2', 'albert_en_tiny_preprocess/3', 'albert_en_tiny/2')
  ]
  assert record_lib.read(made[0]).certificate['dropout']
  with pytest.raises(
    errors.ParityError, match='training=True differs from training=False, but the config has no dropout'
  ):
    text_certificate.check(*made, 3, config)


def test_another_kind_of_model_fails(paths, config):
  with pytest.raises(errors.ParityError, match='text model: unexpected interface '):
    text_certificate.check(paths[2], *paths[1:], 3, config)
  with pytest.raises(errors.ParityError, match='text model: unexpected interface '):
    text_certificate.Text(paths[2]).served(['a'])


def test_a_missing_output_is_named(paths, config, monkeypatch):
  outputs = text_certificate.Text.outputs
  monkeypatch.setattr(
    text_certificate.Text,
    'outputs',
    lambda self, *given, **more: {
      name: value for name, value in outputs(self, *given, **more).items() if name != 'sequence_output'
    },
  )
  with pytest.raises(errors.ParityError, match=r'no parity with its parts \(sequence_output is missing\)'):
    text_certificate.check(*paths, 3, config)


def test_texts_that_say_nothing_fail(paths, config, monkeypatch):
  monkeypatch.setattr(text_certificate, 'texts', lambda version, rows: ('', '   '))
  with pytest.raises(errors.ParityError, match='sequence_output passes the negative control with another text'):
    text_certificate.check(*paths, 3, config)


def test_what_is_no_number_fails():
  right = np.random.default_rng(1).normal(size=[3, 4]).astype(np.float32)
  assert text_certificate.compare(right, right).passes
  assert text_certificate.compare(right + np.float32(1e-6), right).passes  # 16 units in the last place are 1.9e-6
  for wrong in (right + np.float32(4e-6), right * np.nan, right[:2], right[:0]):
    assert not text_certificate.compare(wrong, right).passes


def test_a_large_model_runs_few_texts(config):
  def rows(**sizes):
    return text_certificate.affordable(albert_config.parse(vars(config) | sizes))

  assert rows() > len(text_certificate.texts(4, 1000))
  assert rows(num_hidden_layers=12, hidden_size=768, num_attention_heads=12, intermediate_size=3072) == 4
  assert rows(num_hidden_layers=12, hidden_size=4096, num_attention_heads=64, intermediate_size=16384) == 2
  for version in (1, 4):
    assert sorted(text_certificate.texts(version, 1000)) == sorted(preprocessor_certificate.texts(version))
    assert '1,200' in text_certificate.texts(version, 2)[0]


def test_the_least_there_can_be_tells_preprocessors_apart(sp_model):
  processor = spm.SentencePieceProcessor(model_proto=sp_model)
  few = text_certificate.texts(4, 2)
  assert [preprocessor_certificate.ids(processor, text, 3) for text in few] != [
    preprocessor_certificate.ids(processor, text, 4) for text in few
  ]


def test_what_was_tampered_with_is_not_run(paths, tmp_path, monkeypatch, config):
  path = pathlib.Path(shutil.copytree(paths[0], tmp_path / 'text'))
  modules.edit_graph(
    path, lambda m: m.graph_def.library.function[0].node_def.add(name='hidden', op='ReadFile'), ['serve']
  )
  monkeypatch.setattr(tf.saved_model, 'load', None)
  with pytest.raises(errors.UntrustedGraphError, match="operation ReadFile at node 'hidden'"):
    text_certificate.Text(path)
