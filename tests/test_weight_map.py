"""The table is one to one, and an error lists all mismatches."""

import numpy as np
import pytest

from converters import albert_config
from converters import errors
from converters import weight_map

ALL = frozenset(weight_map.Part)
LARGE = albert_config.parse(
  dict(
    vocab_size=30000,
    embedding_size=128,
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    max_position_embeddings=512,
    type_vocab_size=2,
    hidden_dropout_prob=0,
    attention_probs_dropout_prob=0,
  )
)


def _tensors(**changes):
  tensors = {r.tf1: (weight_map.shape(r.shape, LARGE), np.dtype(np.float32)) for r in weight_map.rows(LARGE, ALL)}
  return {name: value for name, value in (tensors | changes).items() if value is not None}


def test_every_name_stands_once():
  rows = weight_map.rows(LARGE, ALL)
  assert len(rows) == 32
  for column in ('name', 'tf1', 'tf_models', 'hugging_face'):
    assert len({getattr(r, column) for r in rows}) == 32, column


def test_counts_the_parameters_of_albert_large():
  rows = weight_map.rows(LARGE, {weight_map.Part.ENCODER})
  assert sum(np.prod(weight_map.shape(r.shape, LARGE)) for r in rows) == 17_683_968  # like tensorflow/albert_en_large/2


def test_every_transform_keeps_the_elements_and_has_an_inverse():
  small = albert_config.AlbertConfig(11, 6, 8, 1, 2, 10, 7, 3, 0.0, 0.0)
  for row in weight_map.rows(small, ALL):
    shape, target = weight_map.shape(row.shape, small), weight_map.shape(row.tf_models_shape, small)
    value = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    there = row.transform.apply(value, target)
    assert there.shape == target, row.name
    assert np.array_equal(row.transform.invert(there, shape), value), row.name
    stored = row.stored_shape(weight_map.Format.HUGGING_FACE, small)
    there = row.hugging_face_transform.apply(value, stored)
    assert there.shape == stored, row.name
    assert np.array_equal(row.hugging_face_transform.invert(there, shape), value), row.name


def test_kernels_of_hugging_face_are_transposed_but_for_the_sentence_order_head():
  small = albert_config.AlbertConfig(11, 6, 8, 1, 2, 10, 7, 3, 0.0, 0.0)
  shapes = {row.name: row.stored_shape(weight_map.Format.HUGGING_FACE, small) for row in weight_map.rows(small, ALL)}
  assert shapes['feed_forward.intermediate.kernel'] == (10, 8) and shapes['embeddings.projection.kernel'] == (8, 6)
  assert (
    shapes['mlm.transform.kernel'] == (6, 8) and shapes['sop.kernel'] == (2, 8) and shapes['embeddings.word'] == (11, 6)
  )


def test_heads_split_the_columns_of_query_and_the_rows_of_output():
  small = albert_config.AlbertConfig(11, 6, 8, 1, 2, 10, 7, 3, 0.0, 0.0)
  rows = {r.name: r for r in weight_map.rows(small, ALL)}
  kernel = np.arange(64.0).reshape(8, 8)
  query = rows['attention.query.kernel'].transform.apply(kernel, (8, 2, 4))
  assert np.array_equal(query[:, 1, :], kernel[:, 4:])
  output = rows['attention.output.kernel'].transform.apply(kernel, (2, 4, 8))
  assert np.array_equal(output[1], kernel[4:])
  sop = np.arange(16.0).reshape(2, 8)
  assert np.array_equal(rows['sop.kernel'].transform.apply(sop, (8, 2)), sop.T)


def test_an_embedding_as_wide_as_the_hidden_size_is_not_projected():
  square = albert_config.AlbertConfig(11, 8, 8, 1, 2, 10, 7, 3, 0.0, 0.0)
  assert not [r for r in weight_map.rows(square, ALL) if 'projection' in r.name]
  assert len(weight_map.rows(square, ALL)) == 30


def test_a_complete_checkpoint_passes():
  weight_map.check_source(LARGE, ALL, _tensors())
  weight_map.check_source(
    LARGE, ALL, _tensors(global_step=((), np.dtype(np.int64))), ignored=frozenset({'global_step'}).__contains__
  )


def test_every_fault_of_a_checkpoint_is_listed_at_once():
  tensors = _tensors(
    **{
      'bert/pooler/dense/bias': None,
      'cls/seq_relationship/output_bias': None,
      'bert/pooler/dense/kernel_2': ((2, 2), np.dtype(np.float32)),
      'bert/embeddings/LayerNorm/beta': ((64,), np.dtype(np.float32)),
      'bert/embeddings/LayerNorm/gamma': ((128,), np.dtype(np.float64)),
    }
  )
  with pytest.raises(errors.MappingError) as caught:
    weight_map.check_source(LARGE, ALL, tensors, where='m/variables')
  assert str(caught.value) == (
    'm/variables: 5 weights do not fit (missing bert/pooler/dense/bias; '
    'missing cls/seq_relationship/output_bias; '
    'unexpected bert/pooler/dense/kernel_2; bert/embeddings/LayerNorm/gamma is float64, not float32; '
    'bert/embeddings/LayerNorm/beta has shape [64], not [128]); give a complete module with its own '
    'albert_config.json'
  )


def test_every_fault_of_a_model_is_listed_at_once():
  created = [(r.tf_models, weight_map.shape(r.tf_models_shape, LARGE)) for r in weight_map.rows(LARGE, ALL)]
  weight_map.check_model(LARGE, ALL, created)
  broken = [*created[1:-1], created[5], (created[-1][0], (3,)), ('extra/kernel', (1,))]
  with pytest.raises(errors.MappingError) as caught:
    weight_map.check_model(LARGE, ALL, broken)
  for fault in (
    '4 weights do not fit',
    'embedding_projection/kernel exists twice',
    'logits/bias has shape [3], not [2]',
    'variable extra/kernel has no source tensor',
    'no variable word_embeddings/embeddings for embeddings.word',
  ):
    assert fault in str(caught.value)


def test_parts_are_what_the_variables_tell():
  assert weight_map.parts_in(LARGE, ['bert/pooler/dense/bias']) == {weight_map.Part.ENCODER}
  assert weight_map.parts_in(LARGE, ['cls/predictions/output_bias']) == {weight_map.Part.ENCODER, weight_map.Part.MLM}
