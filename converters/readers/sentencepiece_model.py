"""Checks a SentencePiece model against the weights it came with."""

import math
import pathlib

import sentencepiece as spm

from converters import errors
from converters.io import protobuf_wire
from converters.io import source_files

# Ids in every published ALBERT (training command in github.com/google-research/albert).
SPECIAL_TOKENS = {'<pad>': 0, '<unk>': 1, '[CLS]': 2, '[SEP]': 3, '[MASK]': 4}
# Field numbers in ModelProto and TrainerSpec (sentencepiece_model.proto).
_TRAINER_SPEC, _MODEL_TYPE, _BYTE_FALLBACK = 2, 3, 35
_UNIGRAM = 1
# SentencePiece's default, which that command does not change.
_NORMALIZER = 'nmt_nfkc'
# Characters whose normal form has never changed: letters, signs, ligatures, fractions, circled and full-width forms.
_NORMALIZED = [
  f'a{chr(c)}b'
  for first, last in (
    (0x00, 0x24F),
    (0x370, 0x3FF),
    (0x400, 0x4FF),
    (0x2070, 0x209F),
    (0x2150, 0x218B),
    (0x2460, 0x24FF),
    (0xFB00, 0xFB06),
    (0xFF01, 0xFF9F),
  )
  for c in range(first, last + 1)
] + ['', ' ', ' a', 'a ', '  a  b  ', 'a\u3000b', '\u2581a']


def read(directory: pathlib.Path, pattern: str, vocab_size: int, shown: str = '') -> tuple[str, bytes]:
  """Reads the SentencePiece model of a source and checks it together with its `.vocab` file, if any.

  Args:
    directory: directory of the model.
    pattern: glob of the model's file name.
    vocab_size: rows of the word embedding.
    shown: prefix of the file name in messages.

  Returns:
    The name and the content of the model's file.

  Raises:
    SourceError: there is none, or there are different ones.
    VocabularyError: the model is invalid or does not match the weights.
  """
  path = source_files.only(directory, pattern, 'SentencePiece models')
  model, text = source_files.read(path), path.with_suffix('.vocab')
  check(model, vocab_size, f'{shown}{path.name}', source_files.read(text) if text.exists() else None)
  return path.name, model


def check(model: bytes, vocab_size: int, name: str, text: bytes | None = None) -> None:
  """Checks a model: one piece for each row of the embedding, ALBERT's normalizer and special tokens.

  Args:
    model: a serialized SentencePiece ModelProto.
    vocab_size: rows of the word embedding.
    name: the file, for the message.
    text: content of its `.vocab` file, with a piece, a tab and a score a line; None without such a file.

  Raises:
    VocabularyError: the model is invalid or does not match the weights.
  """
  try:
    processor = _load(model)
    _check_type(model, name)
    _check(processor, vocab_size, name)
    if text is not None:
      _check_text(processor, text, name)
  except errors.VocabularyError:
    raise
  except Exception as e:  # from the library: the model does not load, or a piece is not UTF-8
    raise errors.VocabularyError(f'{name}: not a SentencePiece model ({e}); restore the file') from e


def _check(processor: spm.SentencePieceProcessor, vocab_size: int, name: str) -> None:
  size = len(processor)
  if size != vocab_size:
    added = f', or remove rows that were added, as resize_token_embeddings({size}) of Transformers does'
    raise errors.VocabularyError(
      f'{name}: {size} pieces, but the embedding has {vocab_size} rows; give the model that the weights were trained '
      f'with{added if size < vocab_size else ""}'
    )
  for token, wanted in SPECIAL_TOKENS.items():
    found = processor.piece_to_id(token)
    if found != wanted or processor.id_to_piece(wanted) != token:
      raise errors.VocabularyError(
        f'{name}: {token} is not piece {wanted}; give the model that the weights were trained with'
      )
  for number in range(size):
    processor.id_to_piece(number)  # raises if the piece is not UTF-8
    if not math.isfinite(processor.get_score(number)):
      raise errors.VocabularyError(f'{name}: piece {number} has no finite score; restore the file')
    if processor.is_unused(number):
      raise errors.VocabularyError(
        f'{name}: piece {number} is unused; give the model that the weights were trained with'
      )
  expected = spm.SentencePieceNormalizer(rule_name=_NORMALIZER).normalize(_NORMALIZED)
  for text, ours, theirs in zip(_NORMALIZED, expected, processor.normalize(_NORMALIZED), strict=True):
    if ours != theirs:
      raise errors.VocabularyError(
        f'{name}: {text!r} is normalized to {theirs[:40]!r}, and by {_NORMALIZER} to {ours!r}; give a model with the '
        f'normalizer {_NORMALIZER}'
      )


def _check_type(model: bytes, name: str) -> None:
  """Refuses models other than unigram, and pieces for bytes, which tokenizers of other formats cannot represent."""
  options = {
    number: value
    for number, value in protobuf_wire.fields(protobuf_wire.submessage(model, _TRAINER_SPEC))
    if isinstance(value, int)
  }
  if options.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM or options.get(_BYTE_FALLBACK, 0):
    raise errors.VocabularyError(
      f'{name}: not a unigram model, or has pieces for bytes; give the model that the weights were trained with'
    )


def _check_text(processor: spm.SentencePieceProcessor, text: bytes, name: str) -> None:
  text_name = f'{name.rpartition(".")[0]}.vocab'
  lines = text.decode(errors='replace').removesuffix('\n').split('\n')
  if len(lines) != len(processor):
    raise errors.VocabularyError(
      f'{text_name}: {len(lines)} pieces, and {name} has {len(processor)}; remove the .vocab file'
    )
  for number, line in enumerate(lines):
    piece, _, score = line.partition('\t')
    wanted = processor.get_score(number)
    if piece != processor.id_to_piece(number) or not math.isclose(_number(score), wanted, rel_tol=1e-4, abs_tol=1e-6):
      raise errors.VocabularyError(
        f'{text_name}: line {number + 1} is {line[:60]!r}, but piece {number} of {name} is '
        f'{processor.id_to_piece(number)!r} with {wanted:g}; remove the .vocab file'
      )


def _number(text: str) -> float:
  try:
    return float(text)
  except ValueError:
    return math.nan


def _load(model: bytes) -> spm.SentencePieceProcessor:
  if not model:  # the library takes empty bytes for a missing model
    raise ValueError('the file is empty')
  processor = spm.SentencePieceProcessor()
  processor.LoadFromSerializedProto(model)
  return processor
