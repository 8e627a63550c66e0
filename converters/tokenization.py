"""Letter case and accents: text normalization before SentencePiece."""

import dataclasses
import unicodedata
from collections.abc import Mapping
from typing import Any

import sentencepiece as spm

from converters import errors
from converters.readers import sentencepiece_model

# Default values of AlbertTokenizer in Transformers and of the authors' FullTokenizer.
_DEFAULTS = {'lower_case': True, 'keep_accents': False}


@dataclasses.dataclass(frozen=True)
class Tokenization:
  """Text normalization before SentencePiece.

  Attributes:
    lower_case: whether letters are put into lower case.
    keep_accents: whether accents, and all other combining marks, are kept.
    origin: where the setting comes from, for people.
    stated: whether the source states both values.
  """

  lower_case: bool = True
  keep_accents: bool = False
  origin: str = dataclasses.field(default='the default of ALBERT\'s tokenizers', compare=False)
  stated: bool = dataclasses.field(default=False, compare=False)

  @property
  def title(self) -> str:
    """The setting in words, as 'lower case, without accents'."""
    return (
      f'{"lower case" if self.lower_case else "letter case kept"}, '
      f'{"accents kept" if self.keep_accents else "without accents"}'
    )

  def as_json(self) -> dict[str, Any]:
    """Returns the setting in the form of a release's record."""
    return {'lower_case': self.lower_case, 'keep_accents': self.keep_accents, 'origin': self.origin}


DEFAULT = Tokenization()


def decide(stated: Mapping[str, bool], where: str, asked: Mapping[str, bool | None]) -> Tokenization:
  """Combines the settings of a source with the given options.

  Args:
    stated: the values that the source states, by attribute name.
    where: the file that states them.
    asked: the values of the options by attribute name; None for an option that is not given.

  Raises:
    VocabularyError: an option contradicts the source.
  """
  given = {name: value for name, value in asked.items() if value is not None}
  for name, value in given.items():
    if stated.get(name, value) != value:
      option = _option(name, value)
      raise errors.VocabularyError(f'{where}: {name} is {stated[name]}, but {option} is given; leave {option} out')
  origins = [where] if stated else []
  origins += [_option(name, value) for name, value in given.items() if name not in stated]
  values = _DEFAULTS | dict(stated) | given
  return Tokenization(
    values['lower_case'],
    values['keep_accents'],
    ', '.join(origins) or DEFAULT.origin,
    stated=stated.keys() >= _DEFAULTS.keys(),
  )


def check_vocabulary(sp_model: bytes, setting: Tokenization, name: str) -> list[str]:
  """Checks that every piece of a vocabulary can occur in normalized text.

  If the source states its setting, pieces that cannot occur give a note instead of an error.

  Args:
    sp_model: a serialized SentencePiece model.
    setting: the normalization.
    name: the file, for the message.

  Returns:
    Notes for people and the record.

  Raises:
    VocabularyError: the setting is a default or comes from an option, and pieces have upper-case letters or combining
      marks that the normalization removes.
  """
  processor = spm.SentencePieceProcessor(model_proto=sp_model)
  pieces = [
    processor.id_to_piece(number)
    for number in range(len(processor))
    if not (processor.is_control(number) or processor.is_unknown(number))
  ]
  # Some vocabularies define these as pieces of text.
  pieces = [piece for piece in pieces if piece.removeprefix('▁') not in sentencepiece_model.SPECIAL_TOKENS]
  upper = [piece for piece in pieces if piece.lower() != piece] if setting.lower_case else []
  # SentencePiece's normalizer composes letters and accents: a mark on its own belongs to a script that keeps it.
  marks = [] if setting.keep_accents else [piece for piece in pieces if _has_marks(piece)]
  faults, options = [], []
  for unreachable, what, done, option in (
    (upper, 'upper-case letters', 'put into lower case', _option('lower_case', False)),
    (marks, 'combining marks', 'stripped of them', _option('keep_accents', True)),
  ):
    if unreachable:
      count = len(unreachable)
      have = '1 piece has' if count == 1 else f'{count} pieces have'
      faults.append(f'{have} {what}, as {unreachable[0]!r}, but text is {done}')
      options.append(option)
  if faults and not setting.stated:
    raise errors.VocabularyError(
      f'{name}: {"; ".join(faults)} ({setting.origin}); give {" ".join(options)}, or the vocabulary that the weights '
      'were trained with'
    )
  return [f'{name}: {fault} ({setting.origin})' for fault in faults]


def check_comma(sp_model: bytes, name: str, user: str, action: str) -> None:
  """Checks that a comma is a piece, which the rules of the pretraining split from numbers.

  Args:
    sp_model: a serialized SentencePiece model.
    name: the file, for the message.
    user: what splits it, for the message.
    action: the action that the message proposes.

  Raises:
    VocabularyError: it is none.
  """
  processor = spm.SentencePieceProcessor(model_proto=sp_model)
  if processor.piece_to_id(',') == processor.unk_id():
    raise errors.VocabularyError(f"{name}: no piece ',' ({user} splits it from numbers); {action}")


def _has_marks(piece: str) -> bool:
  return not piece.isascii() and any(unicodedata.combining(c) or unicodedata.category(c) == 'Mn' for c in piece)


def _option(name: str, value: bool) -> str:
  return f'option {name}={value}'
