"""Makes tokenizer.json of Hugging Face's tokenizers from a SentencePiece model, with ALBERT's text normalization.

The authors' code collapses whitespace, applies NFKD, drops characters of a non-zero combining class and lower-cases.
The model's own normalization follows. The library's StripAccents drops other characters too, so a character class
replaces it. The format is that of github.com/huggingface/tokenizers.
"""

import base64
import sys
import unicodedata
from typing import Any

import sentencepiece as spm

from converters import tokenization
from converters.io import protobuf_wire
from converters.readers import sentencepiece_model

# Field numbers in ModelProto and NormalizerSpec (sentencepiece_model.proto).
_NORMALIZER_SPEC, _CHARSMAP = 3, 2
_METASPACE = {'type': 'Metaspace', 'replacement': '\u2581', 'prepend_scheme': 'always', 'split': True}


def of(sp_model: bytes, setting: tokenization.Tokenization = tokenization.DEFAULT) -> dict[str, Any]:
  """Returns the content of tokenizer.json.

  Args:
    sp_model: a serialized SentencePiece unigram model with ALBERT's special tokens.
    setting: letter case and accents.
  """
  processor = spm.SentencePieceProcessor(model_proto=sp_model)
  tokens = sentencepiece_model.SPECIAL_TOKENS
  charsmap = base64.b64encode(
    protobuf_wire.submessage(protobuf_wire.submessage(sp_model, _NORMALIZER_SPEC), _CHARSMAP)
  ).decode()
  accents = [{'type': 'NFKD'}, {'type': 'Replace', 'pattern': {'Regex': f'[{_combining()}]'}, 'content': ''}]
  return {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': [
      {
        'id': number,
        'content': token,
        'single_word': False,
        'lstrip': token == '[MASK]',
        'rstrip': False,
        'normalized': False,
        'special': True,
      }
      for token, number in tokens.items()
    ],
    'normalizer': {
      'type': 'Sequence',
      'normalizers': [
        *([] if setting.keep_accents else accents),
        *([{'type': 'Lowercase'}] if setting.lower_case else []),
        # The library's Precompiled does not compose what SentencePiece composes: Hangul and vowels of Indic scripts.
        *([] if setting.keep_accents else [{'type': 'NFC'}]),
        {'type': 'Precompiled', 'precompiled_charsmap': charsmap},
      ],
    },
    'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': [{'type': 'WhitespaceSplit'}, _METASPACE]},
    'post_processor': {
      'type': 'TemplateProcessing',
      'single': [_special('[CLS]', 0), _sequence('A', 0), _special('[SEP]', 0)],
      'pair': [_special('[CLS]', 0), _sequence('A', 0), _special('[SEP]', 0), _sequence('B', 1), _special('[SEP]', 1)],
      'special_tokens': {
        token: {'id': token, 'ids': [tokens[token]], 'tokens': [token]} for token in ('[CLS]', '[SEP]')
      },
    },
    'decoder': _METASPACE,
    'model': {
      'type': 'Unigram',
      'unk_id': tokens['<unk>'],
      'byte_fallback': False,
      'vocab': [[processor.id_to_piece(number), processor.get_score(number)] for number in range(len(processor))],
    },
  }


def _special(token: str, segment: int) -> dict[str, Any]:
  return {'SpecialToken': {'id': token, 'type_id': segment}}


def _sequence(name: str, segment: int) -> dict[str, Any]:
  return {'Sequence': {'id': name, 'type_id': segment}}


def _combining() -> str:
  """Returns all characters of a non-zero combining class, as ranges of a regular expression."""
  ranges: list[list[int]] = []
  for code in range(sys.maxunicode + 1):
    if unicodedata.combining(chr(code)):
      if ranges and ranges[-1][1] == code - 1:
        ranges[-1][1] = code
      else:
        ranges.append([code, code])
  return ''.join(f'\\x{{{first:x}}}-\\x{{{last:x}}}' for first, last in ranges)
