"""Compares an exported preprocessor's ids with a plain-Python statement of the published rule."""

import os
import pathlib
import unicodedata

import sentencepiece as spm

from converters import errors
from converters import vocabulary

# Every kind of text the published normalization treats in a way of its own.
_SENTENCES = (
    'The bridge was closed, and the ferry was late.',
    'CAFÉ au lait: naïve, 1,200 boats (or 3.5)!',
    '  spaces\tand\nlines  ',
    'Straße, ﬁnale, Ωmega and 東京',
    '“quotes” – dashes — £3 or €4 …',
    '[CLS] is text here, and so is <pad>',
    '',
)


def check(path: pathlib.Path, sp_model: bytes) -> int:
  """Loads an exported preprocessor and compares its ids with a plain-Python statement of the published rule.

  Returns:
    The number of tokens compared.

  Raises:
    ParityError: naming the first text whose ids differ.
  """
  import tensorflow as tf
  import tensorflow_text  # noqa: F401  (registers the ops)
  processor = spm.SentencePieceProcessor(model_proto=sp_model)
  loaded = tf.saved_model.load(os.fspath(path))
  actual = loaded.tokenize(tf.constant(_SENTENCES)).to_list()
  packed = loaded(tf.constant(_SENTENCES))['input_word_ids'].numpy()
  cls, sep = vocabulary.SPECIAL_TOKENS['[CLS]'], vocabulary.SPECIAL_TOKENS['[SEP]']
  count = 0
  for sentence, tokens, row in zip(_SENTENCES, actual, packed, strict=True):
    decomposed = unicodedata.normalize('NFD', sentence)
    plain = ''.join(c for c in decomposed if unicodedata.category(c) != 'Mn')
    # TF-Text's case folding is ICU's NFKC_Casefold.
    expected = processor.encode(unicodedata.normalize('NFKC', unicodedata.normalize('NFKC', plain).casefold()))
    if tokens != expected or row[:len(tokens) + 2].tolist() != [cls, *expected, sep][:len(row)]:
      raise errors.ParityError(
          f'no parity (ids {tokens} instead of {expected}) in the preprocessor for {sentence!r}: this is a fault of the '
          'conversion, nothing was published')
    count += len(tokens)
  return count
