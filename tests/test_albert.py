"""A built model has the bits of the source's weights, and each weight is read once."""

import collections
import hashlib

import numpy as np
import pytest
import tf_keras
from support import craft

from converters import build_encoder
from converters import errors
from converters import source as source_lib
from converters import weight_map


def _variables(albert):
  heads = [head for head in (albert.mlm_head, albert.sop_head) if head is not None]
  return {
    v.name.removesuffix(':0'): v for part in (albert.encoder, *heads) for v in part.variables if v.dtype == 'float32'
  }


def test_every_variable_is_its_source_tensor(source):
  albert = build_encoder.build(source, source.parts)
  variables = _variables(albert)
  rows = weight_map.rows(source.config, source.parts)
  assert sorted(variables) == sorted(r.tf_models for r in rows)
  for row in rows:
    canonical = row.transform.invert(variables[row.tf_models].numpy(), weight_map.shape(row.shape, source.config))
    assert np.array_equal(canonical, source.tensor(row)), row.name


def test_every_tensor_is_read_once_and_reported(source, monkeypatch):
  reads, reported = collections.Counter(), []
  read = source.tensor
  monkeypatch.setattr(source, 'tensor', lambda row: (reads.update([row.name]), read(row))[1])
  build_encoder.build(source, source.parts, progress=reported.append)
  names = [r.name for r in weight_map.rows(source.config, source.parts)]
  assert reads == collections.Counter(names)
  assert sorted(reported) == sorted(names)


def test_ledger_has_the_digest_of_each_source_tensor(source):
  weights = build_encoder.build(source, source.parts).weights
  rows = weight_map.rows(source.config, source.parts)
  assert [w.source for w in weights] == [r.name for r in rows]
  for weight, row in zip(weights, rows, strict=True):
    assert weight.sha256 == hashlib.sha256(source.tensor(row).tobytes()).hexdigest(), row.name
    assert (weight.target, tuple(weight.shape)) == (row.tf_models, source.tensor(row).shape)


def test_heads_are_built_on_demand(source):
  albert = build_encoder.build(source, {weight_map.Part.ENCODER})
  assert albert.mlm_head is None and albert.sop_head is None
  assert len(_variables(albert)) == 25


def test_unprojected_embedding(make_module):
  with source_lib.open_source(str(make_module(embedding_size=16))) as source:
    assert len(_variables(build_encoder.build(source, source.parts))) == 30


def test_dropout_is_the_configs(make_module):
  with source_lib.open_source(str(make_module(hidden_dropout=0.25, attention_dropout=0.125))) as source:
    encoder = build_encoder.build(source, source.parts).encoder
  config = encoder.get_config()
  assert (config['dropout_rate'], config['attention_dropout_rate']) == (0.25, 0.125)


def test_a_variable_that_is_not_in_the_table_is_refused(source, monkeypatch):
  build = build_encoder.build_sop_head

  def with_another_layer(config):
    tf_keras.layers.Dense(3, name='another').build((None, 2))
    return build(config)

  monkeypatch.setattr(build_encoder, 'build_sop_head', with_another_layer)
  with pytest.raises(errors.MappingError, match='variable another/kernel has no source tensor|variable kernel has no'):
    build_encoder.build(source, source.parts)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(own_module, value):
  def change(tensors):
    tensors['bert/pooler/dense/bias'][3] = value

  craft.rewrite_checkpoint(own_module, change)
  with (
    source_lib.open_source(str(own_module)) as source,
    pytest.raises(errors.SourceError, match='NaN or infinity in bert/pooler/dense/bias'),
  ):
    build_encoder.build(source, source.parts)


def test_dropout_rates_are_the_configs(make_module):
  with source_lib.open_source(str(make_module(hidden_dropout=0.3, attention_dropout=0.5))) as source:
    encoder = build_encoder.build(source, {weight_map.Part.ENCODER}).encoder
  config = encoder.get_config()
  assert (config['dropout_rate'], config['attention_dropout_rate']) == (0.3, 0.5)
