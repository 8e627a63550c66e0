"""Compares an exported preprocessor with a plain-Python implementation of its version's rule."""

import operator
import pathlib
import unicodedata
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
import sentencepiece as spm

from converters import errors
from converters import interface
from converters import tokenization
from converters.readers import sentencepiece_model
from converters.reference import tokenizer as reference_tokenizer
from export import spec
from export.graphs import op_allow_list

_ORIGINAL = 4  # first version with the tokenization that the weights were trained with


# Every kind of text that the published normalization treats specially, and texts that often break tokenizers.
TEXTS = (
  'The bridge was closed, and the ferry was late.',
  'CAFÉ au lait: naïve, 1,200 boats (or 3.5)!',
  '  spaces\tand\nlines  ',
  'Straße, ﬁnale, Ωmega and 東京',
  '“quotes” – dashes — £3 or €4 …',
  '[CLS] is text here, and so is <pad>',
  '',
  '   ',
  'e\u0301 and \u00e9 are one letter in two forms, \u1e9b\u0323 in three',
  '1,000,000 people, 12, 3,4,5 and ٣,٤',
  '\'single\' "double" «angle» „low“ ‚low‘ `back`',
  'an emoji 🙂, a family 👩‍👩‍👧, a flag 🇳🇴, a skin 👍🏽',
  'zero\u200bwidth, non\u200djoiner, byte\ufeffmark, soft\u00adhyphen, right\u200fto left',
  'no\u00a0break, thin\u2009space, ideographic\u3000space, line\u2028separator',
  'ＦＵＬＬ ｗｉｄｔｈ, ½, ², ™, Ⅷ, ㎏',
  'İstanbul, ıI, ǅ, ΣΑΣ, Ǆ',
  'हिन्दी, ภาษาไทย, العَرَبِيَّة, עִבְרִית, 한국어',
  'control\x01 \x7f characters and a nul\x00 one',
  '▁ is what SentencePiece marks a space with',
  'private \ue000, unassigned \u0378, last \U0010ffff, replaced \ufffd',
  'a' * 10_000,
  'ab,' * 3_334,
  'Many words. ' * 200,
)

# Default_Ignorable_Code_Point of the Unicode Character Database (DerivedCoreProperties.txt, version 15.1): zero-width
# characters, soft hyphen, variation selectors and the like.
_IGNORABLE = tuple(
  range(first, last + 1)
  for first, last in (
    (0xAD, 0xAD),
    (0x34F, 0x34F),
    (0x61C, 0x61C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
  )
)


def texts(version: int) -> tuple[str, ...]:
  """Returns the texts that a version of the contract is compared on."""
  return TEXTS + reference_tokenizer.TEXTS if version >= _ORIGINAL else TEXTS


def normalized(sentence: str, version: int, setting: tokenization.Tokenization = tokenization.DEFAULT) -> str:
  """Returns a text as normalized by the rule of a version, which is the input of SentencePiece.

  Up to version 3, the rule is canonical decomposition, removal of nonspacing marks, and case folding.
  """
  if version >= _ORIGINAL:
    return reference_tokenizer.normalized(sentence, setting)
  plain = sentence
  if not setting.keep_accents:
    plain = ''.join(c for c in unicodedata.normalize('NFD', sentence) if unicodedata.category(c) != 'Mn')
  if not setting.lower_case:
    return plain
  # TF-Text's case folding is ICU's NFKC_Casefold, which removes default-ignorable code points before and after folding.
  folded = unicodedata.normalize('NFKC', unicodedata.normalize('NFKC', _visible(plain)).casefold())
  return _visible(folded)


def ids(
  processor: spm.SentencePieceProcessor,
  sentence: str,
  version: int,
  setting: tokenization.Tokenization = tokenization.DEFAULT,
) -> list[int]:
  """Returns the ids of a sentence by the rule of a version."""
  if version >= _ORIGINAL:
    return reference_tokenizer.ids(processor, sentence, setting)
  return processor.encode(normalized(sentence, version, setting))


def finished(processor: spm.SentencePieceProcessor, tokens: list[int], version: int) -> list[int]:
  """Returns the ids by the rule of a version, from SentencePiece's ids of the normalized text."""
  return reference_tokenizer.cut(processor, map(processor.id_to_piece, tokens)) if version >= _ORIGINAL else tokens


def special_tokens(version: int, vocab_size: int) -> dict[str, int]:
  """Returns the expected result of `get_special_tokens_dict` in a version of the contract."""
  tokens = sentencepiece_model.SPECIAL_TOKENS
  result = {
    'padding_id': tokens['<pad>'],
    'start_of_sequence_id': tokens['[CLS]'],
    'end_of_segment_id': tokens['[SEP]'],
    'mask_id': tokens['[MASK]'],
  }
  return result | {'vocab_size': vocab_size} if version >= 3 else result


class Preprocessor:
  """A preprocessor loaded from its exported files."""

  def __init__(self, path: pathlib.Path):
    import tensorflow_text  # noqa: F401  (registers the ops)

    self._loaded = op_allow_list.load(path)

  def ids(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the token ids of each text."""
    import tensorflow as tf

    return self._loaded.tokenize(tf.constant(texts)).to_list()

  def packed(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the encoder's inputs by name, int32 [batch, seq] each."""
    import tensorflow as tf

    return {name: value.numpy() for name, value in self._loaded(tf.constant(texts)).items()}

  def special_tokens(self) -> dict[str, int]:
    """Returns the result of `get_special_tokens_dict`."""
    return {name: int(value) for name, value in self._loaded.tokenize.get_special_tokens_dict().items()}


def check(
  path: pathlib.Path,
  sp_model: bytes,
  version: int,
  setting: tokenization.Tokenization = tokenization.DEFAULT,
  seq_length: int = spec.SEQ_LENGTH,
) -> int:
  """Loads an exported preprocessor and compares it with a plain-Python implementation of its version's rule.

  Args:
    path: directory of the SavedModel.
    sp_model: serialized SentencePiece model that the preprocessor was made from.
    version: version of the contract.
    setting: letter case and accents.
    seq_length: default number of ids for each text.

  Returns:
    Number of compared tokens.

  Raises:
    ParityError: special tokens, ids or packed inputs differ; names the first difference.
  """
  processor = spm.SentencePieceProcessor(model_proto=sp_model)

  expected = {text: ids(processor, text, version, setting) for text in texts(version)}
  compare(
    Preprocessor(path),
    expected,
    special_tokens(version, processor.vocab_size()),
    lambda one, other: reference_tokenizer.equally_likely(processor, one, other),
    seq_length,
  )
  return sum(map(len, expected.values()))


def compare(
  preprocessor: Preprocessor,
  expected: dict[str, list[int]],
  special: dict[str, int],
  same: Callable[[list[int], list[int]], bool] = operator.eq,
  seq_length: int = spec.SEQ_LENGTH,
) -> None:
  """Compares a preprocessor with expected ids and special tokens.

  Args:
    preprocessor: the loaded preprocessor.
    expected: expected ids by text.
    special: expected special tokens.
    same: function of two lists of ids that returns whether both are correct for one text.
    seq_length: default number of ids for each text.

  Raises:
    ParityError: special tokens, ids or packed inputs differ; names the first difference.
  """

  def differs(what: str, actual: Any, right: Any, text: str) -> errors.ParityError:
    return errors.ParityError(
      f'preprocessor: no parity for {_short(text)} ({what} {_short(actual)} instead of {_short(right)}); report this '
      'fault of the conversion'
    )

  if preprocessor.special_tokens() != special:
    raise differs('special tokens', preprocessor.special_tokens(), special, 'all text')
  texts = list(expected)
  packed = preprocessor.packed(texts)
  for number, (text, actual) in enumerate(zip(texts, preprocessor.ids(texts), strict=True)):
    right = expected[text]
    if not same(actual, right):
      raise differs('ids', actual, right, text)
    kept = [special['start_of_sequence_id'], *actual[: seq_length - 2], special['end_of_segment_id']]
    padding = [special['padding_id']] * (seq_length - len(kept))
    rows = (kept + padding, [1] * len(kept) + [0] * len(padding), [0] * seq_length)
    for name, row in zip(interface.ENCODER_INPUTS, rows, strict=True):
      if packed[name][number].tolist() != row:
        raise differs(name, packed[name][number].tolist(), row, text)


def _visible(text: str) -> str:
  return ''.join(c for c in text if not any(ord(c) in ignorable for ignorable in _IGNORABLE))


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 200 else f'{text[:100]} ... {text[-60:]}'
