"""The preprocessing SavedModel computes the same as the published ones, with operations of old runtimes."""

import pathlib
import random
import unicodedata

import numpy as np
import pytest
import sentencepiece as spm
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops)
from official.nlp.modeling.layers import text_layers
from tensorflow.core.protobuf import saved_model_pb2

from export import spec
from export.model import preprocessor as preprocessor_model
from export.model import saved_model

TEXTS = [
  'Is this the Road to the mill?',
  'CAFÉ naïve 1,200 (or £3.50) – "so"',
  '',
  '   ',
  '\t\n',
  'straße ﬁnal Ǆ',
  'x' * 10_000,
  '1,2,3,4',
  'a\u200bb',
  '😀 gulls',
  '東京 ǆ',
  '[CLS] <pad>',
  'é' + '\u0301' * 5,
  '\u0301',
]


@pytest.fixture(scope='module')
def loaded(preprocessor_path):
  return tf.saved_model.load(preprocessor_path)


@pytest.fixture(scope='module')
def published(sp_model):
  """The layers of tf-models that the published preprocessors were made with."""
  return text_layers.SentencepieceTokenizer(lower_case=True, model_serialized_proto=sp_model, strip_diacritics=True)


def test_call_gives_the_encoders_inputs(loaded):
  outputs = loaded(tf.constant(TEXTS))
  assert sorted(outputs) == ['input_mask', 'input_type_ids', 'input_word_ids']
  for tensor in outputs.values():
    assert tensor.dtype == tf.int32 and tensor.shape == (len(TEXTS), 128)
  assert loaded(tf.constant([], tf.string))['input_mask'].shape == (0, 128)


def test_tokenizes_like_tf_models(loaded, published):
  tokens = loaded.tokenize(tf.constant(TEXTS))
  assert (
    isinstance(tokens, tf.RaggedTensor) and tokens.dtype == tf.int32 and tokens.shape.as_list() == [len(TEXTS), None]
  )
  assert tokens.to_list() == published(tf.constant(TEXTS)).to_list()


def test_tokenizes_like_the_rule_in_plain_python(loaded, sp_model):
  processor = spm.SentencePieceProcessor(model_proto=sp_model)

  def rule(sentence):
    decomposed = unicodedata.normalize('NFD', sentence)
    return processor.encode(''.join(c for c in decomposed if unicodedata.category(c) != 'Mn').casefold())

  # ICU's case folding also drops invisible characters; Python's does not.
  texts = [t for t in TEXTS if '\u200b' not in t]
  assert loaded.tokenize(tf.constant(texts)).to_list() == [rule(t) for t in texts]
  assert loaded.tokenize(tf.constant(['a\u200bb'])).to_list() == [rule('ab')]


def _random_segments(rng, count, ragged_rank, batch):
  def tokens():
    return [rng.randint(5, 199) for _ in range(rng.randint(0, 9))]

  def row():
    return tokens() if ragged_rank == 1 else [tokens() for _ in range(rng.randint(0, 3))]

  return [tf.ragged.constant([row() for _ in range(batch)], tf.int32, ragged_rank) for _ in range(count)]


@pytest.mark.parametrize('ragged_rank', [1, 2])
@pytest.mark.parametrize('count', [1, 2])
def test_packs_like_tf_models(loaded, published, count, ragged_rank):
  rng = random.Random(count * 10 + ragged_rank)
  for _ in range(15):
    segments = _random_segments(rng, count, ragged_rank, rng.randint(1, 5))
    seq_length = rng.randint(count + 1, 30)
    pack = text_layers.BertPackInputs(seq_length, special_tokens_dict=published.get_special_tokens_dict())
    expected, actual = pack(segments), loaded.bert_pack_inputs(segments, seq_length=seq_length)
    for name, tensor in expected.items():
      assert np.array_equal(actual[name], tensor), (name, segments, seq_length)


def test_packs_two_segments_in_near_equal_prefixes(loaded):
  a, b = tf.ragged.constant([[11, 12, 13, 14, 15]]), tf.ragged.constant([[21, 22, 23, 24]])
  outputs = loaded.bert_pack_inputs([a, b], seq_length=8)
  assert outputs['input_word_ids'].numpy().tolist() == [[2, 11, 12, 13, 3, 21, 22, 3]]
  assert outputs['input_type_ids'].numpy().tolist() == [[0, 0, 0, 0, 0, 1, 1, 1]]
  outputs = loaded.bert_pack_inputs([a, b], seq_length=14)
  assert outputs['input_word_ids'].numpy().tolist() == [[2, 11, 12, 13, 14, 15, 3, 21, 22, 23, 24, 3, 0, 0]]
  assert outputs['input_mask'].numpy().tolist() == [[1] * 12 + [0] * 2]
  assert outputs['input_type_ids'].numpy().tolist() == [[0] * 7 + [1] * 5 + [0] * 2]


def test_segments_of_different_batches_are_refused(loaded):
  with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match='[Rr]eshape'):
    loaded.bert_pack_inputs([tf.ragged.constant([[11, 12], [9]]), tf.ragged.constant([[21]])], seq_length=9)


def test_seq_length_defaults_to_128_and_may_be_a_tensor(loaded):
  segment = tf.ragged.constant([[7, 8]])
  assert loaded.bert_pack_inputs([segment])['input_mask'].shape == (1, 128)
  # Keras cannot reload a layer on a list of one.
  assert loaded.bert_pack_inputs(segment, seq_length=tf.constant(9))['input_mask'].shape == (1, 9)
  assert loaded.bert_pack_inputs([segment], seq_length=tf.constant(9))['input_mask'].shape == (1, 9)
  assert loaded.bert_pack_inputs([segment], seq_length=2)['input_word_ids'].numpy().tolist() == [[2, 3]]
  assert loaded.bert_pack_inputs([segment], seq_length=1)['input_word_ids'].numpy().tolist() == [[2]]


@pytest.mark.parametrize('version', spec.PREPROCESSOR_VERSIONS)
def test_versions(tmp_path, sp_model, version):
  saved_model.write(*preprocessor_model.exportable(sp_model, version), tmp_path / 'model')
  loaded = tf.saved_model.load(str(tmp_path / 'model'))
  special = {name: int(value) for name, value in loaded.tokenize.get_special_tokens_dict().items()}
  expected = dict(padding_id=0, start_of_sequence_id=2, end_of_segment_id=3, mask_id=4)
  assert special == (expected | {'vocab_size': 200} if version >= 3 else expected)
  assert all(v.dtype == tf.int32 and v.shape == () for v in loaded.tokenize.get_special_tokens_dict().values())
  if version >= 2:
    assert 'Assert' not in saved_model.ops(tmp_path / 'model')


def test_graph_has_only_core_ops_and_tf_texts_sentencepiece_and_normalization(preprocessor_path):
  ops = saved_model.ops(pathlib.Path(preprocessor_path))
  assert {op for op in ops if 'Sentencepiece' in op or 'UTF8' in op or '>' in op} == {
    'SentencepieceOp',
    'SentencepieceTokenizeOp',
    'CaseFoldUTF8',
    'NormalizeUTF8',
  }
  assert 'Assert' not in ops and 'PyFunc' not in ops


def test_sentencepiece_model_is_in_the_graph_twice(preprocessor_path, sp_model):
  with open(f'{preprocessor_path}/saved_model.pb', 'rb') as f:
    content = f.read()
  assert content.count(sp_model) == 2
  assert len(content) < 2 * len(sp_model) + 100_000
  assert not list(saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].asset_file_def)


def test_has_no_parameters(loaded):
  assert not loaded.variables and not loaded.trainable_variables
