"""Checks a SentencePiece model against the weights it came with."""

import math
import pathlib

import sentencepiece as spm

from converters import errors
from converters.io import protobuf_wire
from converters.io import source_files

# Where every published ALBERT has them (training command in github.com/google-research/albert).
SPECIAL_TOKENS = {'<pad>': 0, '<unk>': 1, '[CLS]': 2, '[SEP]': 3, '[MASK]': 4}
# In ModelProto and TrainerSpec (sentencepiece_model.proto).
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
  """Reads the SentencePiece model of a source and checks it, and the `.vocab` beside it if there is one.

  Args:
    directory: where it is.
    pattern: of its name, as a glob.
    vocab_size: rows of the word embedding.
    shown: what messages put before its name.

  Returns:
    Its name, and its content.

  Raises:
    SourceError: there is none, or more than one.
    VocabularyError: naming the file and what does not fit.
  """
  path = source_files.only(directory, pattern, 'SentencePiece models')
  model, text = source_files.read(path), path.with_suffix('.vocab')
  check(model, vocab_size, f'{shown}{path.name}', source_files.read(text) if text.exists() else None)
  return path.name, model


def check(model: bytes, vocab_size: int, name: str, text: bytes | None = None) -> None:
  """Checks that a model has as many pieces as the embedding has rows, ALBERT's normaliser, and the special tokens where ALBERT has them.

  Args:
    model: a serialized SentencePiece ModelProto.
    vocab_size: rows of the word embedding.
    name: the file, for the message.
    text: the `.vocab` file beside it, which has a piece, a tab and a score a line; None if there is none.

  Raises:
    VocabularyError: naming the file and what does not fit.
  """
  try:
    processor = _load(model)
    _check_type(model, name)
    _check(processor, vocab_size, name)
    if text is not None:
      _check_text(processor, text, name)
  except errors.VocabularyError:
    raise
  except Exception as e:  # of the library: a model that does not load, and text of it that is no UTF-8
    raise errors.VocabularyError(f'no SentencePiece model in {name} ({e}): restore the file') from e


def _check(processor: spm.SentencePieceProcessor, vocab_size: int, name: str) -> None:
  size = len(processor)
  if size != vocab_size:
    raise errors.VocabularyError(
      f'{size} pieces in {name}, but the embedding has {vocab_size} rows: this model belongs to other weights'
    )
  for token, wanted in SPECIAL_TOKENS.items():
    found = processor.piece_to_id(token)
    if found != wanted or processor.id_to_piece(wanted) != token:
      raise errors.VocabularyError(
        f'{token} is not piece {wanted} in {name}: this is not a vocabulary ALBERT was trained with'
      )
  for number in range(size):
    processor.id_to_piece(number)  # which raises if it is no text
    if not math.isfinite(processor.get_score(number)):
      raise errors.VocabularyError(f'piece {number} has no finite score in {name}: restore the file')
    if processor.is_unused(number):
      raise errors.VocabularyError(
        f'piece {number} is never used in {name}: this is not a vocabulary ALBERT was trained with'
      )
  expected = spm.SentencePieceNormalizer(rule_name=_NORMALIZER).normalize(_NORMALIZED)
  for text, ours, theirs in zip(_NORMALIZED, expected, processor.normalize(_NORMALIZED), strict=True):
    if ours != theirs:
      raise errors.VocabularyError(
        f'{text!r} is normalized to {theirs[:40]!r}, and by {_NORMALIZER} to {ours!r}, in {name}: this is not a '
        'vocabulary ALBERT was trained with'
      )


def _check_type(model: bytes, name: str) -> None:
  """Refuses what is no unigram model, or has pieces for bytes: ALBERT's has neither, and tokenizers of other formats are made of it."""
  options = {
    number: value
    for number, value in protobuf_wire.fields(protobuf_wire.submessage(model, _TRAINER_SPEC))
    if isinstance(value, int)
  }
  if options.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM or options.get(_BYTE_FALLBACK, 0):
    raise errors.VocabularyError(
      f'{name} is no unigram model, or has pieces for bytes: this is not a vocabulary ALBERT was trained with'
    )


def _check_text(processor: spm.SentencePieceProcessor, text: bytes, name: str) -> None:
  text_name = f'{name.rpartition(".")[0]}.vocab'
  lines = text.decode(errors='replace').removesuffix('\n').split('\n')
  if len(lines) != len(processor):
    raise errors.VocabularyError(
      f'{len(lines)} pieces in {text_name}, and {len(processor)} in {name}: one of the two is of another model'
    )
  for number, line in enumerate(lines):
    piece, _, score = line.partition('\t')
    wanted = processor.get_score(number)
    if piece != processor.id_to_piece(number) or not math.isclose(_number(score), wanted, rel_tol=1e-4, abs_tol=1e-6):
      raise errors.VocabularyError(
        f'line {number + 1} of {text_name} is {line[:60]!r}, but piece {number} of {name} is '
        f'{processor.id_to_piece(number)!r} with {wanted:g}: one of the two is of another model'
      )


def _number(text: str) -> float:
  try:
    return float(text)
  except ValueError:
    return math.nan


def _load(model: bytes) -> spm.SentencePieceProcessor:
  if not model:  # the library takes no bytes for no model
    raise ValueError('the file is empty')
  processor = spm.SentencePieceProcessor()
  processor.LoadFromSerializedProto(model)
  return processor
