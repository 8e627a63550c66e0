"""Version 4 of the preprocessor tokenizes like the pretraining, in plain Python and in the graph."""

import dataclasses
import itertools
import json
import pathlib
import random
import struct
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import sentencepiece as spm
import tensorflow as tf

from converters import errors
from converters.reference import tokenizer as reference_tokenizer
from export.demo import vocabulary
from export.model import preprocessor as preprocessor_model
from export.model import pretraining_tokenization
from export.model import saved_model
from export.validation import preprocessor_certificate

# Without private-use characters, which are all alike.
ASSIGNED = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ('Cn', 'Co', 'Cs')]
# Digits with commas, with and without the remaining piece, and letters that differ between the rules.
PIECES = [
  '▁1,',
  '1,',
  '00,',
  '0,',
  '000,',
  '▁',
  '1',
  '2',
  '▁2',
  '9',
  '▁57',
  '57,',
  '▁57,',
  '3',
  '٣',
  '٣,',
  '▁x1',
  'x1,',
  'ς',
  'σ',
  'ß',
  'ss',
  'α',
  'é',
  'か',
  '한',
  'ि',
  'ु',
]


def _with_pieces(model, pieces):
  """Adds pieces to a SentencePiece model: concatenated protocol buffers are one message."""

  def field(number, payload):
    return bytes([number << 3 | 2, len(payload)]) + payload

  processor = spm.SentencePieceProcessor(model_proto=model)
  fresh = [piece for piece in pieces if processor.piece_to_id(piece) == processor.unk_id()]
  return model + b''.join(
    field(1, field(1, piece.encode()) + b'\x15' + struct.pack('<f', -3 - number / 7))
    for number, piece in enumerate(fresh)
  )


def _saved(model, version, path):
  saved_model.write(*preprocessor_model.exportable(model, version), path)
  return path


@pytest.fixture(scope='module')
def rich(sp_model):
  """A vocabulary with pieces that show a difference between the rules."""
  return _with_pieces(sp_model, PIECES)


@pytest.fixture(scope='module')
def processor(rich):
  return spm.SentencePieceProcessor(model_proto=rich)


@pytest.fixture(scope='module')
def path(rich, tmp_path_factory):
  return _saved(rich, 4, tmp_path_factory.mktemp('original') / '4')


@pytest.fixture(scope='module')
def published(rich, tmp_path_factory):
  return _saved(rich, 3, tmp_path_factory.mktemp('original') / '3')


@pytest.fixture(scope='module')
def loaded(path):
  return tf.saved_model.load(str(path))


@pytest.fixture(scope='module')
def normalize():
  graph = tf.function(
    pretraining_tokenization.normalize, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
  )
  return lambda texts: [text.decode() for text in graph(tf.constant(texts, tf.string)).numpy()]


def _differences(texts, actual, expected):
  assert len(texts) == len(actual) == len(expected)
  return [(text[:60], one, other) for text, one, other in zip(texts, actual, expected, strict=True) if one != other][:5]


@pytest.mark.parametrize('form', ['{}', 'a{}b', 'Α{}Σ', '{}Σ{}A'])
def test_every_assigned_character_becomes_what_the_rule_says(normalize, form):
  assert len(ASSIGNED) > 140_000
  texts = [form.format(c, c) for c in ASSIGNED]
  assert not _differences(texts, normalize(texts), list(map(reference_tokenizer.normalized, texts)))


@pytest.mark.parametrize('form', ['{}', 'a{}b'])
def test_every_assigned_character_has_the_ids_of_the_rule(loaded, processor, form):
  texts = [form.format(c) for c in ASSIGNED]
  pieces = processor.encode(list(map(reference_tokenizer.normalized, texts)), out_type=str)
  expected = [reference_tokenizer.cut(processor, one) for one in pieces]
  assert not _differences(texts, loaded.tokenize(tf.constant(texts)).to_list(), expected)
  assert expected[:500] == [reference_tokenizer.ids(processor, text) for text in texts[:500]]
  comma = processor.piece_to_id(',')
  assert sum(comma in ids for ids in expected) > 10  # U+1F101 and the nine after it are a digit and a comma


def test_private_and_unassigned_characters_and_noncharacters(loaded, processor, normalize):
  points = [
    0xE000,
    0xF8FF,
    0xF0000,
    0x10FFFD,
    0x378,
    0x1FFFC,
    0xE0FFF,
    0xFDD0,
    0xFDEF,
    *(plane << 16 | n for plane in range(17) for n in (0xFFFE, 0xFFFF)),
  ]
  texts = [form.format(chr(point)) for form in ('{}', 'a{}b', '{0}{0} Σ{0}', 'Α{}Σ') for point in points]
  assert normalize(texts) == list(map(reference_tokenizer.normalized, texts))
  assert loaded.tokenize(tf.constant(texts)).to_list() == [reference_tokenizer.ids(processor, text) for text in texts]


@pytest.mark.parametrize('number', range(4))
def test_long_texts_of_every_kind(loaded, processor, normalize, number):
  rng = random.Random(number)
  awkward = [*preprocessor_certificate.texts(4), *map(str, range(990, 1010)), *PIECES]
  parts = [
    *rng.sample(ASSIGNED, 20_000),
    *(rng.choice(awkward) for _ in range(40)),
    *(rng.choice([' ', 'Σ', '1,', 'a', 'É', '\t\n', '\u200d', ',']) for _ in range(10_000)),
  ]
  rng.shuffle(parts)
  text = ''.join(parts)
  assert normalize([text]) == [reference_tokenizer.normalized(text)]
  actual, expected = loaded.tokenize(tf.constant([text, 'a'])).to_list()[0], reference_tokenizer.ids(processor, text)
  assert actual == expected or reference_tokenizer.equally_likely(processor, actual, expected)


def test_a_sigma_ends_a_word_or_does_not(normalize):
  # Also in one batch: the start of the next text must not matter.
  letters = ['Σ', 'A', 'σ', '1', ' ', '\u0301', '\u0345', '\u00ad', "'", 'Ϲ', '\u02b0', '𝚺']
  texts = [''.join(one) for length in range(5) for one in itertools.product(letters, repeat=length)]
  assert not _differences(texts, normalize(texts), list(map(reference_tokenizer.normalized, texts)))
  for first in ('Σ', "'Σ", 'Σ1', 'AΣ'):
    assert normalize([first, 'A']) == [reference_tokenizer.normalized(first), 'a']
  assert normalize(['ΟΔΥΣΣΕΎΣ', 'Σ', 'ΑΣ\u0301', 'ΑΣ\u00adΑ', 'ς σ']) == ['οδυσσευς', 'σ', 'ας', 'ασ\u00adα', 'ς σ']


def test_white_space_is_what_python_takes_for_it(normalize):
  spaces = [c for c in map(chr, range(0x110000)) if c.isspace()]
  assert len(spaces) > 20 and '\x1c' in spaces and '\u200b' not in spaces
  letters = [*spaces, 'a', '\u200b', '\u00a8', '\u0301']
  texts = [''.join(one) for length in range(4) for one in itertools.product(letters, repeat=length)]
  assert not _differences(texts, normalize(texts), list(map(reference_tokenizer.normalized, texts)))
  assert normalize([' a \x1c\x85 b\u3000', '\u2028', 'a\u00a8b \u00a8']) == ['a b', '', 'a b  ']


BROKEN = [
  b'\xff',
  b'a\xffb',
  b'\x80',
  b'\xc3',
  b'caf\xc3',
  b'\xe2\x82',
  b'\xe2\x82 x',
  b'\xf0\x9f\x98',
  b'a\xf0\x9f\x98\x80\xf0\x9fb',
  b'\xc0\x80',
  b'\xed\xa0\x80',
  b'\xed\xa0\xbd\xed\xb8\x80',
  b'\xf4\x90\x80\x80',
  b'\xf8\x88\x80\x80\x80',
  b'\xe2\xc2\x85a',
  b'\xe1\x9a\xe1\x9a\x80b',
  b'\x85',
  b'\xa0 x \xa0',
  b'\xce\xa3\xce',
  b'A\xce\xa3\xce',
  b'\xef\xbb\xbfa',
  b'\xff\xfea\x00',
  b'\xe3\x80\xe3\x80\x80',
]


def test_what_is_no_utf8_is_replaced(loaded, processor, normalize):
  texts = [broken.decode(errors='replace') for broken in BROKEN]
  assert normalize(BROKEN) == list(map(reference_tokenizer.normalized, texts))
  assert loaded.tokenize(tf.constant(BROKEN)).to_list() == [reference_tokenizer.ids(processor, text) for text in texts]


def test_nothing_and_nul(loaded, processor, normalize):
  for texts in (
    [],
    [''],
    ['', ''],
    ['', 'a', ''],
    ['\x00'],
    ['a\x00b', '\x00\x00', ' \x00 '],
    [' '],
    ['\u0301'],
    ['', '\u0301', ' '],
  ):
    assert normalize(texts) == list(map(reference_tokenizer.normalized, texts))
    assert loaded.tokenize(tf.constant(texts, tf.string)).to_list() == [
      reference_tokenizer.ids(processor, text) for text in texts
    ]
    assert loaded(tf.constant(texts, tf.string))['input_word_ids'].shape == (len(texts), 128)


def _pieces(loaded, processor, text):
  return [processor.id_to_piece(number) for number in loaded.tokenize(tf.constant([text])).to_list()[0]]


def test_a_comma_after_a_digit_is_a_piece_of_its_own(loaded, processor):
  assert processor.encode('1,', out_type=str) == ['▁1,']
  assert _pieces(loaded, processor, '1,') == [*processor.encode('1', out_type=str), ',']
  assert '00,' in processor.encode('ab00,', out_type=str)
  assert _pieces(loaded, processor, 'ab00,')[-2:] == ['00', ',']
  # '57' is a piece only at the beginning of a word. Within a word, the rest of '57,' is unknown.
  assert processor.encode('57', out_type=str) == ['▁57'] and processor.piece_to_id('57') == processor.unk_id()
  assert '57,' in processor.encode('a57,', out_type=str)
  assert _pieces(loaded, processor, 'a57,')[-2:] == ['<unk>', ',']
  texts = [''.join(one) for length in range(6) for one in itertools.product('0125 7,', repeat=length)]
  texts += [
    f'{sign}{number:,}{sign}'
    for number in (*range(0, 3000, 7), 10**9, 570_000, 57)
    for sign in ('', ' ', 'x', ',', '٣')
  ]
  for text, ids in zip(texts, loaded.tokenize(tf.constant(texts)).to_list(), strict=True):
    expected = reference_tokenizer.ids(processor, text)
    assert ids == expected or reference_tokenizer.equally_likely(processor, ids, expected), text


def test_a_vocabulary_without_such_pieces(sp_model, tmp_path):
  lines = [
    ''.join(c for c in line if not c.isdigit()) for line in vocabulary.CORPUS.read_text(encoding='utf-8').splitlines()
  ]
  model = vocabulary.train(lines, 150)
  assert len(pretraining_tokenization.commas(model).ids) == 1
  assert preprocessor_certificate.check(_saved(model, 4, tmp_path / 'model'), model, 4) > 10_000


def test_a_vocabulary_without_comma_is_refused():
  lines = [line.replace(',', '') for line in vocabulary.CORPUS.read_text(encoding='utf-8').splitlines()]
  with pytest.raises(errors.VocabularyError, match="no piece ',' .*; give option preprocessor=NAME/3"):
    preprocessor_model.exportable(vocabulary.train(lines, 150), 4)


def test_ordinary_text_keeps_its_ids_and_packing_is_the_same(loaded, published):
  before = tf.saved_model.load(str(published))
  lines = tf.constant(
    [line for line in vocabulary.CORPUS.read_text(encoding='utf-8').splitlines() if not any(map(str.isdigit, line))]
  )
  for name, value in before(lines).items():
    assert np.array_equal(loaded(lines)[name], value)
  tokens = loaded.tokenize(lines)
  assert tokens.dtype == tf.int32 and tokens.row_splits.dtype == before.tokenize(lines).row_splits.dtype
  for segments in ([tokens], [tokens, tokens]):
    for length in (5, 40, 128):
      ours, theirs = (model.bert_pack_inputs(segments, seq_length=tf.constant(length)) for model in (loaded, before))
      assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
  assert before.tokenize(tf.constant(['1,'])).to_list() != loaded.tokenize(tf.constant(['1,'])).to_list()


def test_its_graph(path, published, rich):
  content, before = ((place / 'saved_model.pb').read_bytes() for place in (path, published))
  assert content.count(rich) == 2
  assert len(content) - len(before) < 150_000
  ops = saved_model.ops(path)
  assert not [op for op in ops if 'Assert' in op or 'PyFunc' in op or '>' in op]
  assert not {'NormalizeUTF8', 'CaseFoldUTF8'} & set(ops)


def test_the_same_model_gives_the_same_table(monkeypatch):
  one = pretraining_tokenization.table()
  other = pretraining_tokenization.table.__wrapped__()
  assert one.whitespace == other.whitespace
  for field in ('page', 'row', 'starts', 'values'):
    assert np.array_equal(getattr(one, field), getattr(other, field))
  # No overflow.
  assert one.starts[-1] == len(one.values) and (np.diff(one.starts) >= 0).all() and one.row.min() == 0


@pytest.mark.slow
def test_it_works_in_a_process_without_this_project(path, processor, tmp_path):
  program = (
    'import json, sys\nimport tensorflow as tf\nimport tensorflow_text\nloaded = tf.saved_model.load(sys.argv[1])\n'
    'print(json.dumps(loaded.tokenize(tf.constant(json.loads(sys.argv[2]))).to_list()))\n'
  )
  texts = [text for text in reference_tokenizer.TEXTS if '\x00' not in text]
  run = subprocess.run(
    [sys.executable, '-I', '-c', program, str(path), json.dumps(texts)],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    check=True,
  )
  for text, ids in zip(texts, json.loads(run.stdout.splitlines()[-1]), strict=True):
    expected = reference_tokenizer.ids(processor, text)
    assert ids == expected or reference_tokenizer.equally_likely(processor, ids, expected), text


def test_in_an_input_pipeline(loaded):
  texts = list(preprocessor_certificate.texts(4))
  data = tf.data.Dataset.from_tensor_slices(texts).batch(5).map(loaded, num_parallel_calls=2)
  assert np.array_equal(
    np.concatenate([batch['input_word_ids'] for batch in data]), loaded(tf.constant(texts))['input_word_ids']
  )


def _ascii_space(*setting, table=pretraining_tokenization.table):
  return dataclasses.replace(table(*setting), whitespace=r'\s+')


def _o_for_e(*setting, table=pretraining_tokenization.table):
  values = table(*setting).values
  return dataclasses.replace(
    table(*setting),
    values=np.where(values % pretraining_tokenization._KIND == ord('e'), values + ord('o') - ord('e'), values),
  )


def _no_comma(model, commas=pretraining_tokenization.commas):
  return dataclasses.replace(
    commas(model), values=np.where(commas(model).values == commas(model).values[-1], 5, commas(model).values)
  )


def _plain_sigma(values):
  points = values - values // pretraining_tokenization._KIND * pretraining_tokenization._KIND
  return tf.where(tf.equal(points, ord('Σ')), ord('σ'), points)


WRONG = {
  'no cut': ('split_commas', lambda tokens, cut: tokens),
  'no comma': ('commas', _no_comma),
  'ASCII white space only': ('table', _ascii_space),
  'no end of a word': ('_end_words', _plain_sigma),
  'another letter': ('table', _o_for_e),
  'points taken for Hangul': ('_ITSELF', 3),
  'ignorable characters replaced': ('_REPLACED', 4),
}


@pytest.mark.parametrize('fault', WRONG)
def test_what_is_wrong_is_noticed_when_it_is_exported(rich, tmp_path, monkeypatch, fault):
  name, wrong = WRONG[fault]
  pretraining_tokenization.table(True, False)  # cached, so that no patched name is in the table of later tests
  with monkeypatch.context() as patch:
    patch.setattr(pretraining_tokenization, name, wrong)
    saved = _saved(rich, 4, tmp_path / 'model')
  with pytest.raises(errors.ParityError, match='no parity for .* .ids '):
    preprocessor_certificate.check(saved, rich, 4)


def test_versions_are_told_apart(path, published, rich):
  assert preprocessor_certificate.check(pathlib.Path(path), rich, 4) > preprocessor_certificate.check(
    published, rich, 3
  )
  for saved, version in ((path, 3), (published, 4)):
    with pytest.raises(errors.ParityError, match='no parity for .* .ids '):
      preprocessor_certificate.check(saved, rich, version)
