"""Wrong conversions, made on purpose in the loaded artifact, fail the comparison; or there is no certificate."""

import json
import pathlib

import conftest
import numpy as np
import pytest

from converters import errors
from converters import tf1_hub
from converters import weight_map
from export.proof import certificate
from export.proof import parity


def test_controls_leave_the_model_as_it_was_and_are_recorded(encoder_path, theirs):
  batch, expected, source_outputs = theirs
  exported = certificate.Exported(pathlib.Path(encoder_path), 'dict')
  before = exported.outputs(batch, ['tokens'])
  controls = certificate.run_controls(exported, batch, expected, source_outputs)
  assert sorted(controls) == ['layer norms swapped', 'query and key swapped', 'value kernel transposed', 'word embedding shifted by a row']
  assert all(control.export.rms > 1000 * control.allowed.rms for control in controls.values())
  after = exported.outputs(batch, ['tokens'])
  assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_control_that_is_not_noticed_refuses_the_certificate(encoder_path, theirs, monkeypatch):
  batch, expected, source_outputs = theirs
  exported = certificate.Exported(pathlib.Path(encoder_path), 'dict')
  monkeypatch.setattr(certificate, '_mistakes', lambda variables: iter([('nothing at all', [])]))
  with pytest.raises(errors.ParityError, match='does not notice a wrong model .nothing at all.'):
    certificate.run_controls(exported, batch, expected, source_outputs)


def test_weights_that_hide_mistakes_are_refused(release, module, source, monkeypatch):
  # Query and key alike: swapping them changes nothing, so this module cannot prove that they are in their places.
  read, compare = tf1_hub.Module.tensor, parity.compare
  rows = {r.name: r for r in weight_map.rows(source.config, source.parts)}
  monkeypatch.setattr(tf1_hub.Module, 'tensor', lambda self, row: read(self, rows[row.name.replace('.key.', '.query.')]))
  monkeypatch.setattr(parity, 'compare', lambda source, export, expected, mask: compare(export, export, expected, mask))
  with pytest.raises(errors.ParityError, match='does not notice a wrong model .query and key swapped.'):
    release(module)
  assert conftest.leftovers(release.root) == []


def test_a_blind_comparison_gives_no_certificate(encoder_path, theirs, monkeypatch):
  batch, expected, source_outputs = theirs
  monkeypatch.setattr(parity.Check, 'passes', True)
  with pytest.raises(errors.ParityError, match='does not notice a wrong model .query and key swapped, layer norms swapped, '):
    certificate.certify(pathlib.Path(encoder_path), 'dict', batch, conftest.SIGNATURES, expected, lambda: source_outputs)


@pytest.mark.parametrize('output', ['serving_default/pooled_output', 'serving_default/sequence_output', 'default/pooled_output'])
def test_signature_and_default_are_compared(encoder_path, theirs, monkeypatch, output):
  batch, expected, source_outputs = theirs
  outputs = certificate.Exported.outputs
  monkeypatch.setattr(certificate.Exported, 'outputs', lambda self, *args: (r := outputs(self, *args)) | {output: r[output] + np.float32(1e-3)})
  with pytest.raises(errors.ParityError, match=f'no parity .{output} is '):
    certificate.certify(pathlib.Path(encoder_path), 'dict', batch, conftest.SIGNATURES, expected, lambda: source_outputs)


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
  assert len(record['controls']) == 4
