"""The tokenization that the weights were trained with, in plain Python: what version 4 of the preprocessor is held against.

It is that of ALBERT's authors (`preprocess_text` and `encode_pieces` in tokenization.py of
github.com/google-research/albert), a statement a line, and shares nothing with the tables that go into the graph.
"""

import unicodedata
from collections.abc import Iterable

import sentencepiece as spm

# What this rule treats in a way of its own, beside the texts that all preprocessors are compared on.
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


def normalized(sentence: str) -> str:
  """A text as SentencePiece was given it."""
  text = ' '.join(sentence.strip().split())
  decomposed = unicodedata.normalize('NFKD', text)
  return ''.join(c for c in decomposed if not unicodedata.combining(c)).lower()


def cut(processor: spm.SentencePieceProcessor, pieces: Iterable[str]) -> list[int]:
  """The ids of pieces; those that end in a digit and a comma are cut once more."""
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
  return [processor.piece_to_id(piece) for piece in result]


def ids(processor: spm.SentencePieceProcessor, sentence: str) -> list[int]:
  """The ids of a text."""
  return cut(processor, processor.encode(normalized(sentence), out_type=str))
