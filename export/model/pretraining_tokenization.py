"""The tokenization of ALBERT's pretraining in core TensorFlow ops: the steps before and after SentencePiece.

Before it, the authors' code collapses white space, decomposes (Unicode NFKD), drops combining characters, and puts
letters into lower case. After it, a piece that ends in a digit and a comma is cut once more. Each step but white space
and the final sigma maps single characters or pieces, so both are tables. Python and SentencePiece give their content;
the graph gathers from them.
"""

import dataclasses
import functools
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import sentencepiece as spm
import tensorflow as tf

from converters import tokenization

_UNICODE = 0x110000  # one more than the last code point
_BLOCK = 128  # code points a page of the table: the smallest table
# Marks the end of a text. By then, the space is the only white space.
_END = '\n'
# Kinds of characters, which decide how a sigma after or before them is lower-cased. A value in the table is a code
# point plus a kind times _KIND.
_PLAIN, _CASED, _IGNORABLE = range(3)
_KIND = 1 << 21
# Rows 0 and 1 are Hangul syllables of two and three letters, which are computed: listed, they would be half of the
# table. Rows 2 to 4 are characters that stay, of each kind.
_ITSELF = 2
_REPLACED = 5


@dataclasses.dataclass(frozen=True)
class Table:
  """The replacement of each code point.

  Attributes:
    whitespace: regular expression of white space that becomes one space.
    page: int16 [0x110000 / 128], index of each 128 code points in `row`.
    row: int16 [pages * 128], row of each code point.
    starts: int16 [rows + 1], begin and end of each row in `values`.
    values: int32, the rows one after the other: code points with their kinds.
  """

  whitespace: str
  page: np.ndarray
  row: np.ndarray
  starts: np.ndarray
  values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Commas:
  """The pieces that are cut once more.

  Attributes:
    ids: int32 [count + 1], ascending ids of the pieces, and one above all ids.
    starts: int32 [count + 2], begin and end of each piece's replacement in `values`.
    values: int32, ids.
  """

  ids: np.ndarray
  starts: np.ndarray
  values: np.ndarray


@functools.cache
def table(lower_case: bool = True, keep_accents: bool = False) -> Table:
  """Makes the table of a setting, by this Python's version of Unicode."""
  rows: list[tuple[int, ...]] = [(0, 0), (0, 0, 0), (0,), (0,), (0,)]  # only the lengths count
  numbers = dict[tuple[int, ...], int]()
  row = np.full(_UNICODE, _ITSELF + _PLAIN, np.int16)
  spaces = []
  for point in range(_UNICODE):
    character = chr(point)
    if unicodedata.category(character) in ('Cn', 'Co', 'Cs'):  # unassigned, private, surrogates
      continue
    kept = character if keep_accents else _without_accents(character)
    replacement = tuple(value for c in kept for value in (_lower(c) if lower_case else (ord(c),)))
    if character.isspace():
      spaces.append(point)
    if len(replacement) == 1 and replacement[0] % _KIND == point:
      row[point] = _ITSELF + replacement[0] // _KIND
    elif 0xAC00 <= point <= 0xD7A3 and not keep_accents:
      row[point] = len(replacement) - 2
    else:
      row[point] = numbers.setdefault(replacement, len(rows))
      if row[point] == len(rows):
        rows.append(replacement)
  pages, page = np.unique(row.reshape(-1, _BLOCK), axis=0, return_inverse=True)
  starts = np.cumsum([0, *map(len, rows)])
  odd = ''.join(f'\\x{{{point:x}}}' for point in spaces if point != ord(' '))
  # Most white space is one space already, which the expression does not match.
  return Table(
    f'[ {odd}]{{2,}}|[{odd}]',
    page.reshape(-1).astype(np.int16),
    pages.reshape(-1),
    starts.astype(np.int16),
    np.array([value for values in rows for value in values], np.int32),
  )


def _without_accents(text: str) -> str:
  return ''.join(c for c in unicodedata.normalize('NFKD', text) if not unicodedata.combining(c))


def _lower(character: str) -> tuple[int, ...]:
  """Returns a character in lower case, with its kind. A capital sigma stays: its word decides."""
  if character == 'Σ':
    return (ord(character) + _kind(character) * _KIND,)
  return tuple(ord(c) + _kind(c if len(character.lower()) > 1 else character) * _KIND for c in character.lower())


def _kind(character: str) -> int:
  # Python's own rule for the sigma shows the kind.
  if f'{character}Σ'.lower().endswith('ς'):
    return _CASED
  return _IGNORABLE if f'A{character}Σ'.lower().endswith('ς') else _PLAIN


def commas(sp_model: bytes) -> Commas:
  """Cuts the pieces of a SentencePiece model that end in a digit and a comma.

  Such a piece is encoded again without the comma and without the mark of a space. A result that is not a piece becomes
  the unknown piece. The comma follows.

  Raises:
    VocabularyError: the comma is not a piece of the model, so the table cannot be made.
  """
  tokenization.check_comma(
    sp_model, 'the SentencePiece model', 'version 4 of the preprocessor', 'give option preprocessor=NAME/3'
  )
  processor = spm.SentencePieceProcessor(model_proto=sp_model)
  comma = processor.piece_to_id(',')
  ids, rows = [], []
  for number in range(len(processor)):
    piece = processor.id_to_piece(number)
    if not piece.endswith(',') or not piece[-2:-1].isdigit():
      continue
    again = processor.encode(piece[:-1].replace('▁', ''), out_type=str)
    if not piece.startswith('▁'):
      again[0] = again[0].removeprefix('▁')
    ids.append(number)
    rows.append([*(processor.piece_to_id(p) for p in again if p), comma])
  return Commas(
    np.array([*ids, np.iinfo(np.int32).max], np.int32),
    np.cumsum([0, *map(len, rows), 1]).astype(np.int32),
    np.array([*(number for row in rows for number in row), comma], np.int32),
  )


def normalize(sentences: Any, lower_case: bool = True, keep_accents: bool = False) -> Any:
  """Normalizes texts as the authors' code does before SentencePiece.

  Args:
    sentences: string [batch] of UTF-8; invalid bytes become U+FFFD, as with Python's `errors='replace'`.
    lower_case: see `converters.tokenization`.
    keep_accents: see `converters.tokenization`.

  Returns:
    string [batch].
  """
  rules = table(lower_case, keep_accents)
  spaced = tf.strings.strip(tf.strings.regex_replace(sentences, rules.whitespace, ' '))
  splits, points = tf.raw_ops.UnicodeDecode(input=tf.strings.join([spaced, _END]), input_encoding='UTF-8')

  block = points // _BLOCK
  row = tf.gather(rules.row, (tf.cast(tf.gather(rules.page, block), tf.int32) - block) * _BLOCK + points)
  row = tf.cast(row, tf.int32)
  starts = tf.constant(rules.starts)
  start, end = (tf.cast(tf.gather(starts, number), tf.int32) for number in (row, row + 1))
  itself = points + (tf.minimum(row, _REPLACED) - _ITSELF) * _KIND
  count, known = tf.size(points), len(rules.values)
  # The characters themselves follow the table's values, and the letters of the syllables follow the characters.
  places = tf.where(row < _ITSELF)
  letters = tf.reshape(_letters(tf.gather(points, places[:, 0])), [-1])
  begin = tf.where(row < _REPLACED, tf.range(count) + known, start)
  begin = tf.tensor_scatter_nd_update(begin, places, tf.range(0, tf.size(letters), 3) + known + count)
  values, at = _rows([rules.values, itself, letters], begin, end - start)
  points = _end_words(values) if lower_case else values

  # The ends of texts are texts of their own, which are left out.
  ends = tf.gather(at, splits[1:])
  splits = tf.concat([[0], tf.reshape(tf.stack([ends - 1, ends], axis=1), [-1])], axis=0)
  return tf.raw_ops.UnicodeEncode(input_values=points, input_splits=splits, output_encoding='UTF-8')[::2]


def split_commas(tokens: Any, cut: Commas) -> Any:
  """Replaces the pieces that end in a digit and a comma.

  Args:
    tokens: int32 RaggedTensor [batch, (tokens)].
    cut: the pieces of the SentencePiece model.

  Returns:
    int32 RaggedTensor [batch, (tokens)].
  """
  ids = tokens.flat_values
  place = tf.reshape(tf.raw_ops.LowerBound(sorted_inputs=cut.ids[np.newaxis], values=tf.expand_dims(ids, 0)), [-1])
  stays = ids < tf.gather(cut.ids, place)
  starts = tf.constant(cut.starts)
  start = tf.gather(starts, place)
  begin = tf.where(stays, tf.range(tf.size(ids)) + len(cut.values), start)
  values, at = _rows([cut.values, ids], begin, tf.where(stays, 1, tf.gather(starts, place + 1) - start))
  # Not validated: that would be an Assert.
  return tf.RaggedTensor.from_row_splits(values, tf.gather(at, tokens.row_splits), validate=False)


def _letters(points: Any) -> Any:
  """Splits Hangul syllables, int32 [count], into letters, int32 [count, 3]; of two letters, the third is unused."""
  # Section 3.12 of the Unicode Standard: 19 leading consonants, 21 vowels, 27 trailing consonants or none.
  syllable = points - 0xAC00
  pair = syllable // 28
  lead = pair // 21
  return tf.stack([lead + 0x1100, pair - lead * 21 + 0x1161, syllable - pair * 28 + 0x11A7], axis=1)


def _end_words(values: Any) -> Any:
  """Puts capital sigmas into lower case: the final form after a cased letter and not before one, else the other.

  Ignorable characters in between do not count.

  Args:
    values: int32, code points with their kinds, of all texts in a row; each text ends in a plain character.

  Returns:
    int32, code points.
  """
  kind = values // _KIND
  points = values - kind * _KIND
  sigmas = tf.where(tf.equal(points, ord('Σ')))
  seen = tf.where(kind < _IGNORABLE)[:, 0]
  # Index of each sigma among the characters that are not ignorable.
  number = tf.reshape(
    tf.raw_ops.LowerBound(sorted_inputs=tf.expand_dims(seen, 0), values=tf.reshape(sigmas, [1, -1])), [-1]
  )
  after = tf.gather(kind, tf.gather(seen, number + 1))
  before = tf.gather(kind, tf.gather(seen, tf.maximum(number - 1, 0))) * tf.minimum(
    number, 1
  )  # none before the first: plain
  return tf.tensor_scatter_nd_update(points, sigmas, tf.where(after < before, ord('ς'), ord('σ')))


def _rows(values: Sequence[Any], begin: Any, length: Any) -> tuple[Any, Any]:
  """Gathers rows of a table, one after the other.

  Args:
    values: int32, the table, in parts.
    begin: int32 [count], begin of each row.
    length: int32 [count], length of each row.

  Returns:
    int32, the rows' values; and int64 [count + 1], begin and end of each row in them.
  """
  splits, places = tf.raw_ops.RaggedRange(starts=begin, limits=begin + length, deltas=1)
  return tf.gather(tf.concat(values, axis=0), places), splits
