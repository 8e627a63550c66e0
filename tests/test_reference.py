"""The float64 reference agrees with the TF1 graph, to float32 rounding, and is more exact than it."""

import numpy as np
import pytest
import tensorflow as tf

from converters import source as source_lib
from converters import weight_map
from export.proof import parity
from export.proof import reference


def _reference(source, batch):
  return parity.Expected(source, source.parts, batch)


@pytest.mark.parametrize('changes', [{}, dict(embedding_size=16), dict(num_attention_heads=1, type_vocab_size=3, seed=5)],
                         ids=['projected', 'not projected', 'one head'])
def test_agrees_with_the_tf1_graph(make_module, changes):
  module = make_module(**changes)
  with source_lib.open_source(str(module)) as source:
    batch = parity.make_batch(source.config)
    expected = _reference(source, batch)
  loaded = tf.saved_model.load(str(module), tags=[])
  inputs = {name: tf.constant(value) for name, value in batch.for_source.items()}
  mlm = {f'mlm/{k}': v.numpy() for k, v in loaded.signatures['mlm'](**inputs).items()}
  del inputs['mlm_positions']
  sop = {f'sop/{k}': v.numpy() for k, v in loaded.signatures['sop'](**inputs).items()}
  mask = batch.input_mask.astype(bool)
  np.testing.assert_allclose(mlm['mlm/sequence_output'][mask], expected.layers[-1], atol=1e-5)
  np.testing.assert_allclose(mlm['mlm/pooled_output'], expected.pooled_output, atol=1e-5)
  logits = expected.of('mlm/mlm_logits', mlm)
  np.testing.assert_allclose(mlm['mlm/mlm_logits'].reshape(logits.shape), logits, atol=1e-5)
  np.testing.assert_allclose(sop['sop/sop_log_probs'], expected.of('sop/sop_log_probs', sop), atol=1e-5)
  for value in (*expected.layers, expected.pooled_output, logits):
    assert value.dtype == np.float64


def test_padding_and_other_rows_do_not_matter(source):
  batch = parity.make_batch(source.config)
  together = _reference(source, batch)
  for number in range(4):
    length = int(batch.input_mask[number].sum())
    alone = parity.Batch(*(v[number:number + 1, :length] for v in (batch.input_word_ids, batch.input_mask, batch.input_type_ids)),
                         batch.masked_lm_positions[number:number + 1])
    single = _reference(source, alone)
    np.testing.assert_allclose(single.layers[-1], together.layers[-1][together.rows == number], atol=1e-12)
    np.testing.assert_allclose(single.pooled_output[0], together.pooled_output[number], atol=1e-12)


def test_kernels_in_pieces_come_to_the_same(source, monkeypatch):
  batch = parity.make_batch(source.config)
  whole = _reference(source, batch)
  monkeypatch.setattr(reference, '_PIECE', 40)
  np.testing.assert_allclose(_reference(source, batch).layers[-1], whole.layers[-1], atol=1e-12)


def test_every_weight_counts(source):
  batch = parity.make_batch(source.config)
  rows = weight_map.rows(source.config, source.parts)
  weights = {row.name: source.tensor(row) for row in rows}

  def outputs(changed=None):
    def tensor(name):
      return weights[name] * np.float32(1.01) + np.float32(0.01) if name == changed else weights[name]
    layers, pooled = reference.encode(tensor, source.config, batch.input_word_ids, batch.input_mask, batch.input_type_ids)
    sequence = np.zeros((*batch.input_mask.shape, source.config.hidden_size))
    sequence[batch.input_mask.astype(bool)] = layers[-1]
    return np.concatenate([v.ravel() for v in (
        layers[-1], pooled, reference.mlm_logits(tensor, sequence, batch.masked_lm_positions),
        reference.sop_log_probs(tensor, pooled))])

  right = outputs()
  for row in rows:
    moved = np.abs(outputs(row.name) - right).max()
    if row.name == 'attention.key.bias':
      assert moved < 0.1  # the same for all keys but for the factor: only that counts
    else:
      assert moved > 1e-4, row.name
