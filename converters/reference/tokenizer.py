"""Implements the tokenization that the weights were trained with in plain Python, to check preprocessor version 4.

It follows ALBERT's authors statement by statement (`preprocess_text` and `encode_pieces` in tokenization.py of
github.com/google-research/albert). It shares no code with the tables of the exported graph.
"""

import math
import unicodedata
from collections.abc import Iterable

import sentencepiece as spm

from converters import tokenization

# Texts that this rule treats specially, in addition to the texts for all preprocessors.
TEXTS = (
  '1,000,000.00 or 1,2,3, and 10,000, or (12,) and x1, y22,z 333,',
  'ΟΔΥΣΣΕΥΣ. Σ ΑΣ, ΑΣ\u0301 ΑΣ\u00adΑ ΑΣ\u200b 1Σ \u0301Σ Α\u0345Σ ΑΣ\' ΑΣ\'Σ ϹϹ 𝚺𝚺 ὈΔΥΣΣΕΎΣ Aσ Aς',
  '\x1ca\x1db\x1ec\x1fd\x85e\u1680f\u2000\u200ag\u2028\u2029h\u202fi\u205fj\u3000\x0b\x0ck\xa0',
  '\u00a8a \u00b4b\u00b8 c\u02d8 \u037a \u1fed\u1fbd',
  '가각힣 한국어 \u1100\u1161\u11a8 ガギ ｶﾞ \u3131 \uac00\u11a8',
  '🄁 🄂x 1⒈ ①, ²,³, ٣, ⅓, ½,¼, \uff11\uff0c\uff12,',
  'ŉ ĳ ǆ ﬃ ẛ̣ \ufdfa ℡ ㋿ ㍿ Ⅷ ⅷ Ⓐ 𝔄 𝟘, ꭰᏸ Ა ჿ \u1e9e \u0130 \u0149',
  'ก็ ที่ क्षि कु \u0904 \u0cc6\u0cd5 \ufe0f❤\ufe0f \u20dd \U000e0041 \U000e0100',
  'noncharacters \ufdd0 \ufffe \uffff \U0001fffe, private \U000f0000 \U0010fffd',
)


def normalized(sentence: str, setting: tokenization.Tokenization = tokenization.DEFAULT) -> str:
  """Returns a text as normalized by the authors' code, which is the input of SentencePiece."""
  text = ' '.join(sentence.strip().split())
  if not setting.keep_accents:
    text = ''.join(c for c in unicodedata.normalize('NFKD', text) if not unicodedata.combining(c))
  return text.lower() if setting.lower_case else text


def cut(processor: spm.SentencePieceProcessor, pieces: Iterable[str]) -> list[int]:
  """Returns the ids of pieces, after splitting pieces that end in a digit and a comma.

  A special token's name is an unknown piece.
  """
  result = []
  for piece in pieces:
    if len(piece) > 1 and piece[-1] == ',' and piece[-2].isdigit():
      again = processor.encode(piece[:-1].replace('▁', ''), out_type=str)
      if piece[0] != '▁' and again[0][0] == '▁':
        if len(again[0]) == 1:
          again = again[1:]
        else:
          again[0] = again[0][1:]
      result += [*again, ',']
    else:
      result.append(piece)
  return [_id(processor, piece) for piece in result]


def _id(processor: spm.SentencePieceProcessor, piece: str) -> int:
  number = processor.piece_to_id(piece)
  # The authors' code looks up an unknown run of characters by its text too. So a text that spells a special token, in
  # characters that no piece has, becomes that token there. The graph's SentencePiece never makes one of text.
  return processor.unk_id() if processor.is_control(number) or processor.is_unused(number) else number


def ids(
  processor: spm.SentencePieceProcessor, sentence: str, setting: tokenization.Tokenization = tokenization.DEFAULT
) -> list[int]:
  """Returns the ids of a text."""
  return cut(processor, processor.encode(normalized(sentence, setting), out_type=str))


def equally_likely(processor: spm.SentencePieceProcessor, one: list[int], other: list[int]) -> bool:
  """Returns whether two lists of ids are segmentations of the same text with equal SentencePiece scores.

  For '000', versions of SentencePiece choose '0' and '00', or '00' and '0'.
  """
  pieces = [''.join(map(processor.id_to_piece, tokens)) for tokens in (one, other)]
  scores = [sum(map(processor.get_score, tokens)) for tokens in (one, other)]
  return pieces[0] == pieces[1] and math.isclose(*scores, rel_tol=1e-6)
