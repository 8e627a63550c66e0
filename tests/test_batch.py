"""The inputs of both sides are deterministic, and reach every reachable weight."""

import dataclasses

import numpy as np
import pytest

from converters import albert_config
from converters import weight_map
from converters.reference import inputs as proof_inputs


def _config(**changes):
  return albert_config.AlbertConfig(
    **(
      {
        'vocab_size': 200,
        'embedding_size': 8,
        'hidden_size': 16,
        'num_hidden_layers': 3,
        'num_attention_heads': 4,
        'intermediate_size': 24,
        'max_position_embeddings': 128,
        'type_vocab_size': 2,
        'hidden_dropout_prob': 0.0,
        'attention_probs_dropout_prob': 0.0,
      }
      | changes
    )
  )


def test_batch_has_different_lengths_both_types_and_padding():
  batch = proof_inputs.make(_config())
  lengths = batch.input_mask.sum(axis=1)
  assert len(set(lengths)) == 4 and lengths.max() == batch.input_mask.shape[1] and lengths.min() >= 1
  assert {
    tuple(sorted(set(row[mask == 1]))) for row, mask in zip(batch.input_type_ids, batch.input_mask, strict=True)
  } == {(0,), (0, 1)}
  assert not batch.input_type_ids[batch.input_mask == 0].any() and not batch.input_word_ids[batch.input_mask == 0].any()
  assert (batch.masked_lm_positions < lengths[:, np.newaxis]).all() and not batch.masked_lm_positions[:, -1].any()
  assert all(a.dtype == np.int32 for a in dataclasses.astuple(batch))


@pytest.mark.parametrize(
  'changes', [dict(max_position_embeddings=1), dict(max_position_embeddings=2), dict(type_vocab_size=1)]
)
def test_batch_fits_the_smallest_models(changes):
  config = _config(**changes)
  batch = proof_inputs.make(config)
  assert batch.input_mask.shape[1] <= config.max_position_embeddings
  assert batch.input_type_ids.max() < config.type_vocab_size
  assert (batch.masked_lm_positions < batch.input_mask.sum(axis=1)[:, np.newaxis]).all()


def test_scalar_asks_nothing_of_padding_and_has_a_factor_for_every_output():
  config = _config()
  scalar = proof_inputs.make_scalar(config, set(weight_map.Part))
  assert {name: f.shape for name, f in scalar.factors.items()} == {
    'pooled_output': (2, 16),
    'sequence_output': (2, 6, 16),
    'mlm_logits': (2, 3, 200),
    'sop_log_probs': (2, 2),
  }
  assert scalar.signature == 'mlm' and 0 < scalar.batch.input_mask.sum() < 12
  factors = scalar.factors['sequence_output']
  assert factors[scalar.batch.input_mask == 1].all() and not factors[scalar.batch.input_mask == 0].any()
  assert proof_inputs.make_scalar(config, {weight_map.Part.ENCODER}).signature == 'tokens'
  assert list(proof_inputs.make_scalar(config, {weight_map.Part.ENCODER}).factors) == [
    'pooled_output',
    'sequence_output',
  ]


@pytest.mark.parametrize(
  'changes, training',
  [({}, True), (dict(hidden_dropout_prob=0.1), False), (dict(attention_probs_dropout_prob=0.1), False)],
)
def test_the_mode_without_randomness_is_differentiated(changes, training):
  assert proof_inputs.make_scalar(_config(**changes), set(weight_map.Part)).training is training
