"""The reference agrees with the TF1 graph, and measures the float32 error."""

import numpy as np
import pytest
import tensorflow as tf

from converters import source as source_lib
from converters import weight_map
from converters.reference import albert as reference_albert
from converters.reference import inputs as proof_inputs
from converters.reference import measures
from converters.reference import outputs as reference_outputs


def _reference(source, batch):
  return reference_outputs.Expected(source, source.parts, batch, proof_inputs.make_scalar(source.config, source.parts))


@pytest.mark.parametrize(
  'changes',
  [{}, dict(embedding_size=16), dict(num_attention_heads=1, type_vocab_size=3, seed=5)],
  ids=['projected', 'not projected', 'one head'],
)
def test_agrees_with_the_tf1_graph(make_module, changes):
  module = make_module(**changes)
  with source_lib.open_source(str(module)) as source:
    batch = proof_inputs.make(source.config)
    right = _reference(source, batch)
  loaded = tf.saved_model.load(str(module), tags=[])
  inputs = {name: tf.constant(value) for name, value in batch.for_source.items()}
  mlm = {f'mlm/{k}': v.numpy() for k, v in loaded.signatures['mlm'](**inputs).items()}
  del inputs['mlm_positions']
  sop = {f'sop/{k}': v.numpy() for k, v in loaded.signatures['sop'](**inputs).items()}
  mask = batch.input_mask.astype(bool)
  right = right.outputs
  np.testing.assert_allclose(mlm['mlm/sequence_output'][mask], right['sequence_output'], atol=1e-5)
  np.testing.assert_allclose(mlm['mlm/pooled_output'], right['pooled_output'], atol=1e-5)
  np.testing.assert_allclose(mlm['mlm/mlm_logits'].reshape(right['mlm_logits'].shape), right['mlm_logits'], atol=1e-5)
  np.testing.assert_allclose(sop['sop/sop_log_probs'], right['sop_log_probs'], atol=1e-5)
  assert len(right) == 4 + source.config.num_hidden_layers and {value.dtype for value in right.values()} == {
    np.dtype(np.float64)
  }


def test_float32_evaluations_are_as_far_off_as_float32_is(expecting, ran, batch):
  _, expected = expecting
  in_float32, _ = ran.outputs()
  assert expected.float32.keys() == expected.outputs.keys()
  for name, distance in expected.float32.items():
    source = (
      measures.relative(measures.packed(in_float32[f'tokens/{name}'], batch.input_mask, name), expected.outputs[name])
      if (f'tokens/{name}' in in_float32)
      else None
    )
    assert 1e-8 < distance.rms <= distance.largest < 1e-4
    assert source is None or 0.05 < distance.rms / source.rms < 50


def test_padding_and_other_rows_do_not_matter(source):
  batch = proof_inputs.make(source.config)
  together, rows = _reference(source, batch), np.nonzero(batch.input_mask)[0]
  for number in range(4):
    length = int(batch.input_mask[number].sum())
    alone = proof_inputs.Batch(
      *(v[number : number + 1, :length] for v in (batch.input_word_ids, batch.input_mask, batch.input_type_ids)),
      batch.masked_lm_positions[number : number + 1],
    )
    single = _reference(source, alone)
    np.testing.assert_allclose(
      single.outputs['sequence_output'], together.outputs['sequence_output'][rows == number], atol=1e-12
    )
    np.testing.assert_allclose(
      single.outputs['pooled_output'][0], together.outputs['pooled_output'][number], atol=1e-12
    )


def test_kernels_in_pieces_come_to_the_same(source, monkeypatch):
  batch = proof_inputs.make(source.config)
  whole = _reference(source, batch)
  right = {
    row.name: np.concatenate([*whole.gradient.pieces(row.name, weight_map.shape(row.shape, source.config))])
    for row in weight_map.rows(source.config, source.parts)
  }
  monkeypatch.setattr(reference_albert, '_PIECE', 40)
  monkeypatch.setattr(reference_albert, '_ROWS', 5)
  monkeypatch.setattr(reference_albert, '_COLUMNS', 3)
  monkeypatch.setattr(reference_outputs, '_SMALL', 0)
  pieces = _reference(source, batch)
  np.testing.assert_allclose(pieces.outputs['sequence_output'], whole.outputs['sequence_output'], atol=1e-12)
  for row in weight_map.rows(source.config, source.parts):
    shape = weight_map.shape(row.shape, source.config)
    np.testing.assert_allclose(
      np.concatenate([*pieces.gradient.pieces(row.name, shape)]), right[row.name], atol=1e-10, err_msg=row.name
    )


@pytest.mark.parametrize(
  'changes', [{}, dict(embedding_size=16), dict(num_attention_heads=1)], ids=['projected', 'not projected', 'one head']
)
def test_gradient_is_the_slope_of_the_forward_pass(make_module, changes):
  with source_lib.open_source(str(make_module(**changes))) as source:
    rows = weight_map.rows(source.config, source.parts)
    weights = {row.name: source.tensor(row).astype(np.float64) for row in rows}
    scalar = proof_inputs.make_scalar(source.config, source.parts)
    batch, factors = scalar.batch, scalar.factors
    longer = proof_inputs.make(source.config)
    own, other = (reference_albert.Inputs(b.input_word_ids, b.input_mask, b.input_type_ids) for b in (batch, longer))

  def run(tensor, inputs):
    return reference_albert.encode_and_differentiate(
      tensor, source.config, inputs, own, batch.masked_lm_positions, factors
    )

  def value(changed, head_only):
    layers, pooled, _ = run(changed.__getitem__, own)
    sequence = np.zeros((*batch.input_mask.shape, source.config.hidden_size))
    sequence[batch.input_mask.astype(bool)] = layers[-1]
    if head_only:
      return (reference_albert.sop_log_probs(changed.__getitem__, pooled) * factors['sop_log_probs']).sum()
    logits = reference_albert.mlm_logits(changed.__getitem__, source.config, sequence, batch.masked_lm_positions)
    return sum(
      (one * factors[name]).sum()
      for name, one in (('pooled_output', pooled), ('sequence_output', sequence), ('mlm_logits', logits))
    )

  # Next to another batch, as in use.
  _, _, gradient = run(weights.__getitem__, other)
  rng = np.random.default_rng(0)
  for row in rows:
    direction = rng.standard_normal(weights[row.name].shape)
    step = 1e-6 * direction
    up, down = (value(weights | {row.name: weights[row.name] + s}, row.name.startswith('sop.')) for s in (step, -step))
    slope = (np.concatenate([*gradient.pieces(row.name, direction.shape)]) * direction).sum()
    assert slope == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-5), row.name


def test_every_weight_counts(source):
  batch = proof_inputs.make(source.config)
  scalar = proof_inputs.make_scalar(source.config, source.parts)
  rows = weight_map.rows(source.config, source.parts)
  weights = {row.name: source.tensor(row) for row in rows}

  def outputs(changed=None):
    def tensor(name):
      return weights[name] * np.float32(1.01) + np.float32(0.01) if name == changed else weights[name]

    inputs, other = (
      reference_albert.Inputs(b.input_word_ids, b.input_mask, b.input_type_ids) for b in (batch, scalar.batch)
    )
    layers, pooled, _ = reference_albert.encode_and_differentiate(
      tensor, source.config, inputs, other, scalar.batch.masked_lm_positions, scalar.factors
    )
    sequence = np.zeros((*batch.input_mask.shape, source.config.hidden_size))
    sequence[batch.input_mask.astype(bool)] = layers[-1]
    return np.concatenate(
      [
        v.ravel()
        for v in (
          layers[-1],
          pooled,
          reference_albert.mlm_logits(tensor, source.config, sequence, batch.masked_lm_positions),
          reference_albert.sop_log_probs(tensor, pooled),
        )
      ]
    )

  right = outputs()
  for row in rows:
    moved = np.abs(outputs(row.name) - right).max()
    if row.name == 'attention.key.bias':
      assert moved < 0.1  # equal for all keys except for the factor, which alone matters
    else:
      assert moved > 1e-4, row.name


@pytest.mark.parametrize('shape', [(2 * 512 + 7, 2 * 1024 + 5), (3, 2), (512, 1024)])
def test_products_in_blocks(shape):
  rng = np.random.default_rng(0)
  kernel = rng.standard_normal(shape, np.float32)
  for x in (rng.standard_normal((3, shape[0])), rng.standard_normal((2, 3, shape[0]))):
    for blocks in (kernel, kernel.T.copy().T):
      result = reference_albert.matmul(x, blocks)
      assert result.dtype == np.float64
      np.testing.assert_allclose(result, x @ kernel.astype(np.float64), rtol=0, atol=1e-11)


def test_the_worst_of_all_float32_evaluations_counts(source, monkeypatch):
  figures = iter(range(1000, 0, -1))  # the first evaluation is the worst
  monkeypatch.setattr(
    reference_outputs.measures, 'relative', lambda value, right: measures.Distance(*[float(next(figures))] * 2)
  )
  found = reference_outputs.Expected(
    source, source.parts, proof_inputs.make(source.config), proof_inputs.make_scalar(source.config, source.parts)
  )
  assert sorted(distance.rms for distance in found.float32.values()) == [
    float(number) for number in range(1001 - len(found.outputs), 1001)
  ]
