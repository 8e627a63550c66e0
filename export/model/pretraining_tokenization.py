"""The tokenization that the weights were trained with, in core TensorFlow ops: what stands before SentencePiece, and after it.

Before it, ALBERT's authors collapse white space, decompose (Unicode NFKD), drop what combines, and put into lower case.
After it, a piece that ends in a digit and a comma is cut once more. All but white space and one letter goes character
by character, and the pieces go by themselves: so both are tables, made here from what Python and SentencePiece
themselves say, and gathered from in the graph.
"""

import dataclasses
import functools
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import sentencepiece as spm
import tensorflow as tf

from converters import errors

_UNICODE = 0x110000  # one more than the last code point
_BLOCK = 128  # code points a page of the table: the smallest table
# A text's last code point while it is worked on: no white space is left by then but the space.
_END = '\n'
# What a character is to the sigma at a word's end. The table's values are a code point, and one of these times _KIND.
_PLAIN, _CASED, _IGNORABLE = range(3)
_KIND = 1 << 21
# Rows of the table that stand for no replacement. 0 and 1 are Hangul syllables of two letters and of three, which are
# computed: listed, they would be half of the table. Then a character itself, of each kind.
_ITSELF = 2
_REPLACED = 5


@dataclasses.dataclass(frozen=True)
class Table:
  """What becomes of each code point.

  Attributes:
    whitespace: a regular expression for what becomes one space.
    page: int16 [0x110000 / 128], where in `row` each 128 code points are.
    row: int16 [pages * 128], which row each of them has.
    starts: int16 [rows + 1], where in `values` each row begins, and ends.
    values: int32, the rows one after the other: code points, with their kinds.
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
    ids: int32 [count + 1], theirs, ascending; and one that is greater than all there are.
    starts: int32 [count + 2], where in `values` the ids for each of them begin, and end.
    values: int32.
  """

  ids: np.ndarray
  starts: np.ndarray
  values: np.ndarray


@functools.cache
def table() -> Table:
  """Makes the table of this Python's version of Unicode."""
  rows: list[tuple[int, ...]] = [(0, 0), (0, 0, 0), (0,), (0,), (0,)]  # as long as what they stand for
  numbers = dict[tuple[int, ...], int]()
  row = np.full(_UNICODE, _ITSELF + _PLAIN, np.int16)
  spaces = []
  for point in range(_UNICODE):
    character = chr(point)
    if unicodedata.category(character) in ('Cn', 'Co', 'Cs'):  # unassigned, private, surrogates
      continue
    replacement = tuple(_lower(c) for c in unicodedata.normalize('NFKD', character) if not unicodedata.combining(c))
    if character.isspace():
      spaces.append(point)
    if len(replacement) == 1 and replacement[0] % _KIND == point:
      row[point] = _ITSELF + replacement[0] // _KIND
    elif 0xAC00 <= point <= 0xD7A3:
      row[point] = len(replacement) - 2
    else:
      row[point] = numbers.setdefault(replacement, len(rows))
      if row[point] == len(rows):
        rows.append(replacement)
  pages, page = np.unique(row.reshape(-1, _BLOCK), axis=0, return_inverse=True)
  starts = np.cumsum([0, *map(len, rows)])
  odd = ''.join(f'\\x{{{point:x}}}' for point in spaces if point != ord(' '))
  # Most white space is one space already: nothing to find in it.
  return Table(
    f'[ {odd}]{{2,}}|[{odd}]',
    page.reshape(-1).astype(np.int16),
    pages.reshape(-1),
    starts.astype(np.int16),
    np.array([value for values in rows for value in values], np.int32),
  )


def _lower(character: str) -> int:
  """A character of a decomposed text in lower case, with its kind; a capital sigma stays, since what it becomes is for its word to say."""
  # Python's own rule for the sigma tells what it takes a character for.
  if f'{character}Σ'.lower().endswith('ς'):
    kind = _CASED
  elif f'A{character}Σ'.lower().endswith('ς'):
    kind = _IGNORABLE
  else:
    kind = _PLAIN
  return ord(character if character == 'Σ' else character.lower()) + kind * _KIND


def commas(sp_model: bytes) -> Commas:
  """Cuts the pieces of a SentencePiece model that end in a digit and a comma.

  Such a piece is encoded again without the comma, and without the mark of a space; if it had no such mark, neither has
  what comes of it.
  What is then no piece any more is unknown. The comma follows.

  Raises:
    VocabularyError: a comma is no piece of the model, so that texts have pieces with one which no table can list.
  """
  processor = spm.SentencePieceProcessor(model_proto=sp_model)
  comma = processor.piece_to_id(',')
  if comma == processor.unk_id():
    raise errors.VocabularyError(
      "',' is no piece of the SentencePiece model, and version 4 of the preprocessor ends numbers with it: "
      'give --preprocessor=NAME/3'
    )
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


def normalize(sentences: Any) -> Any:
  """Puts texts into the form that SentencePiece was given.

  Args:
    sentences: string [batch], of UTF-8; what is not is replaced by U+FFFD, as Python's `errors='replace'` does.

  Returns:
    string [batch].
  """
  what = table()
  spaced = tf.strings.strip(tf.strings.regex_replace(sentences, what.whitespace, ' '))
  splits, points = tf.raw_ops.UnicodeDecode(input=tf.strings.join([spaced, _END]), input_encoding='UTF-8')

  block = points // _BLOCK
  row = tf.gather(what.row, (tf.cast(tf.gather(what.page, block), tf.int32) - block) * _BLOCK + points)
  row = tf.cast(row, tf.int32)
  starts = tf.constant(what.starts)
  start, end = (tf.cast(tf.gather(starts, number), tf.int32) for number in (row, row + 1))
  itself = points + (tf.minimum(row, _REPLACED) - _ITSELF) * _KIND
  count, known = tf.size(points), len(what.values)
  # Behind the table's values stand the characters themselves, and then the letters of the syllables that there are.
  places = tf.where(row < _ITSELF)
  letters = tf.reshape(_letters(tf.gather(points, places[:, 0])), [-1])
  begin = tf.where(row < _REPLACED, tf.range(count) + known, start)
  begin = tf.tensor_scatter_nd_update(begin, places, tf.range(0, tf.size(letters), 3) + known + count)
  values, at = _rows([what.values, itself, letters], begin, end - start)
  points = _end_words(values)

  # The ends of texts are texts of their own, which are left out.
  ends = tf.gather(at, splits[1:])
  splits = tf.concat([[0], tf.reshape(tf.stack([ends - 1, ends], axis=1), [-1])], axis=0)
  return tf.raw_ops.UnicodeEncode(input_values=points, input_splits=splits, output_encoding='UTF-8')[::2]


def split_commas(tokens: Any, cut: Commas) -> Any:
  """Replaces the pieces that are cut once more.

  Args:
    tokens: int32 RaggedTensor [batch, (tokens)].
    cut: of the SentencePiece model.

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
  """Hangul syllables, int32 [count], as their letters, int32 [count, 3]; the third is of no meaning where there are two."""
  # Section 3.12 of the Unicode Standard: 19 leading consonants, 21 vowels, 27 trailing consonants or none.
  syllable = points - 0xAC00
  pair = syllable // 28
  lead = pair // 21
  return tf.stack([lead + 0x1100, pair - lead * 21 + 0x1161, syllable - pair * 28 + 0x11A7], axis=1)


def _end_words(values: Any) -> Any:
  """Puts capital sigmas into lower case: at the end of a word, which is after a cased letter and not before one, another than elsewhere.

  Characters that are ignorable to that are looked past.

  Args:
    values: int32, code points with their kinds; of all texts in a row, each of which ends in a character that is
      neither cased nor ignorable.

  Returns:
    int32, code points.
  """
  kind = values // _KIND
  points = values - kind * _KIND
  sigmas = tf.where(tf.equal(points, ord('Σ')))
  seen = tf.where(kind < _IGNORABLE)[:, 0]
  # Which of those that are seen each sigma is: it is one.
  number = tf.reshape(
    tf.raw_ops.LowerBound(sorted_inputs=tf.expand_dims(seen, 0), values=tf.reshape(sigmas, [1, -1])), [-1]
  )
  after = tf.gather(kind, tf.gather(seen, number + 1))
  before = tf.gather(kind, tf.gather(seen, tf.maximum(number - 1, 0))) * tf.minimum(
    number, 1
  )  # none before the first: plain
  return tf.tensor_scatter_nd_update(points, sigmas, tf.where(after < before, ord('ς'), ord('σ')))


def _rows(values: Sequence[Any], begin: Any, length: Any) -> tuple[Any, Any]:
  """Takes rows from a table, one after the other.

  Args:
    values: int32, the table, in parts.
    begin, length: int32 [count], where in it each row begins, and how long it is.

  Returns:
    int32, the rows' values; and int64 [count + 1], where each row begins in them, and ends.
  """
  splits, places = tf.raw_ops.RaggedRange(starts=begin, limits=begin + length, deltas=1)
  return tf.gather(tf.concat(values, axis=0), places), splits
