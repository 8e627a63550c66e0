"""Compiles ALBERT's text normalization and a SentencePiece model's own one into a single charsmap.

A charsmap replaces strings by the longest match. ALBERT's normalization maps single characters, except for the final
sigma. So both steps are one charsmap, if two things are done to the text first:

* characters that the normalization drops are removed, since those around them can match a rule of the model together;
* the final sigma is put in.

Both are regular expressions. They are in the syntax of RE2 and list every character by Python's version of Unicode.
"""

import dataclasses
import functools
import unicodedata
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import sentencepiece as spm

from converters import errors
from converters import tokenization
from converters.io import protobuf_wire

# Field numbers in ModelProto, NormalizerSpec and SentencePiece (sentencepiece_model.proto).
_PIECES, _NORMALIZER_SPEC, _CHARSMAP = 1, 3, 2
_PIECE, _PIECE_TYPE = 1, 3
_USER_DEFINED = 4
_LONGEST = 8  # characters of a rule; more would mean that the rules of a model chain without end
_CAPITAL_SIGMA = 'Σ'


@dataclasses.dataclass(frozen=True)
class Expressions:
  """Regular expressions that edit a text before the charsmap.

  Attributes:
    dropped: matches the characters that are dropped; None if none are.
    sigma: matches a capital sigma that ends a word: group 1 is before it, and group 2 after it. None if the letter case
      is kept. One character can be the end of one match and the start of another, so it has to be replaced twice.
    has_sigma: matches a whole text with a capital sigma; None if the letter case is kept.
  """

  dropped: str | None
  sigma: str | None
  has_sigma: str | None


def compiled(sp_model: bytes, setting: tokenization.Tokenization) -> bytes:
  """Returns a SentencePiece model whose normalization includes ALBERT's.

  Args:
    sp_model: a serialized SentencePiece model.
    setting: letter case and accents.

  Raises:
    PackageError: the installed SentencePiece cannot compile rules.
    VocabularyError: no charsmap has the rules of the model.
  """
  made = rules(sp_model, setting)
  spec = protobuf_wire.submessage(sp_model, _NORMALIZER_SPEC)
  normalizer = _normalizer(norm_map=list(made.items()))
  charsmap = protobuf_wire.submessage(normalizer.serialized_normalizer_spec(), _CHARSMAP)
  return protobuf_wire.with_submessage(
    sp_model, _NORMALIZER_SPEC, protobuf_wire.with_submessage(spec, _CHARSMAP, charsmap)
  )


@functools.lru_cache(2)
def rules(sp_model: bytes, setting: tokenization.Tokenization) -> dict[str, str]:
  """Returns the replacement of every string that the charsmap replaces.

  Raises:
    PackageError: the installed SentencePiece cannot list rules.
    VocabularyError: no charsmap has the rules of the model.
  """
  symbols = {piece for piece, kind in _pieces(sp_model) if kind == _USER_DEFINED}
  if changed := sorted(symbol for symbol in symbols if ''.join(_normalized(c, setting) for c in symbol) != symbol):
    raise errors.VocabularyError(
      f'the SentencePiece model: its symbol {changed[0]!r} is changed by the normalization ({setting.title}), which no '
      'charsmap can do; leave option with_text out'
    )
  own = _Own(symbols, dict(_normalizer(model_proto=sp_model).Decompile()))
  images = {c: _normalized(c, setting) for c in _characters() | own.characters}
  result = {c: own.replaced(image) for c, image in images.items()}
  beginning: dict[str, list[str]] = {}
  for c, image in images.items():
    if image:
      beginning.setdefault(image[0], []).append(c)
  # Each entry is a string, and its image; it ends in what the next characters can make a longer match of.
  waiting = [(c, image) for c, image in images.items() if own.pending(image)]
  while waiting:
    string, image = waiting.pop()
    if len(string) == _LONGEST:
      raise errors.VocabularyError(
        'the SentencePiece model: its rules chain without end, which no charsmap can do; leave option with_text out'
      )
    for first in own.next(own.pending(image)):
      for c in beginning.get(first, ()):
        longer, whole = string + c, image + images[c]
        joined = any(start < len(image) < end for start, end in own.spans(whole))
        if joined:
          result[longer] = own.replaced(whole)
        pending = own.pending(whole)
        if pending and (joined or len(pending) > len(images[c])):
          waiting.append((longer, whole))
  return {string: value for string, value in result.items() if string != value}


class _Own:
  """The normalization of a model: user-defined symbols stay, then the longest rule applies.

  Attributes:
    characters: the characters of all rules.
  """

  def __init__(self, symbols: set[str], own: Mapping[str, str]):
    self._symbols, self._rules = symbols, own
    self._longest = max(map(len, [*symbols, *own]), default=1)
    self._next: dict[str, set[str]] = {}
    for key in (*symbols, *own):
      for end in range(1, len(key)):
        self._next.setdefault(key[:end], set()).add(key[end])
    self.characters = set().union(*symbols, *own)
    # Many strings have the same image.
    self.spans = functools.cache(self._spans)
    self.pending = functools.cache(self._pending)

  def next(self, prefix: str) -> set[str]:
    """Returns the characters that follow a prefix of a rule."""
    return self._next[prefix]

  def replaced(self, text: str) -> str:
    """Returns a normalized text."""
    parts = (text[start:end] for start, end in self.spans(text))
    return ''.join(part if part in self._symbols else self._rules.get(part, part) for part in parts)

  def _spans(self, text: str) -> list[tuple[int, int]]:
    """Returns begin and end of each match, or of a character without one."""
    spans, start = [], 0
    while start < len(text):
      ends = range(min(len(text), start + self._longest), start, -1)
      end = next((end for end in ends if text[start:end] in self._symbols), 0)
      end = end or next((end for end in ends if text[start:end] in self._rules), start + 1)
      spans.append((start, end))
      start = end
    return spans

  def _pending(self, text: str) -> str:
    """Returns the end of a text that begins a longer match, or nothing."""
    return next((text[start:] for start, _ in self.spans(text) if text[start:] in self._next), '')


def expressions(setting: tokenization.Tokenization) -> Expressions:
  """Returns the regular expressions of a setting."""
  dropped, ignorable, sigmas, ends_cased, starts_other = [], [], [], [], []
  for c in _characters():
    image = _image(c, setting)
    kinds = [kind for kind in map(_is_cased, image) if kind is not None]
    if not image:
      dropped.append(c)
    elif not kinds:
      ignorable.append(c)
    else:
      if image == _CAPITAL_SIGMA:
        sigmas.append(c)
      if kinds[-1]:
        ends_cased.append(c)
      if kinds[0]:
        starts_other.append(c)
  removed = f'[{_ranges(dropped)}]' if dropped else None
  if not setting.lower_case:
    return Expressions(removed, None, None)
  between = f'[{_ranges(ignorable)}]*'
  # A character that is not listed, as an unassigned one, ends a word too.
  word_end = f'(?:[^{_ranges([*ignorable, *starts_other])}]|$)'
  one = f'[{_ranges(sigmas)}]'
  return Expressions(removed, f'([{_ranges(ends_cased)}]{between}){one}({between}{word_end})', f'(?s).*{one}.*')


def unused(sp_model: bytes, besides: str = '') -> str:
  """Returns a private-use character that is in no piece of a model, and none of `besides`."""
  used = {c for piece, _ in _pieces(sp_model) for c in piece} | set(besides)
  return next(c for c in map(chr, range(0xE000, 0xF900)) if c not in used)


def _normalizer(**how: Any) -> spm.SentencePieceNormalizer:
  try:
    return spm.SentencePieceNormalizer(**how)
  except (AttributeError, TypeError) as e:
    raise errors.PackageError(
      f'option with_text: sentencepiece {spm.__version__} cannot compile rules; '
      'run `pip install "sentencepiece>=0.2.2"`'
    ) from e


def _pieces(sp_model: bytes) -> Iterable[tuple[str, int | None]]:
  """Yields text and type of each piece."""
  for number, value in protobuf_wire.fields(sp_model):
    if number == _PIECES and isinstance(value, bytes):
      fields = dict(protobuf_wire.fields(value))
      piece, kind = fields.get(_PIECE, b''), fields.get(_PIECE_TYPE)
      if isinstance(piece, bytes):
        yield piece.decode(errors='replace'), kind if isinstance(kind, int) else None


@functools.cache
def _characters() -> frozenset[str]:
  """Returns all characters but NUL, and those that are unassigned, private or surrogates, which no rule changes."""
  every = map(chr, range(1, 0x110000))
  return frozenset(c for c in every if unicodedata.category(c) not in ('Cn', 'Co', 'Cs'))


def _image(c: str, setting: tokenization.Tokenization) -> str:
  """Returns a character as normalized, before the letter case."""
  text = ' ' if c.isspace() else c
  if setting.keep_accents:
    return text
  return ''.join(part for part in unicodedata.normalize('NFKD', text) if not unicodedata.combining(part))


def _normalized(c: str, setting: tokenization.Tokenization) -> str:
  """Returns a character as normalized; a sigma as within a word."""
  image = _image(c, setting)
  return ''.join(part.lower() for part in image) if setting.lower_case else image


@functools.cache
def _is_cased(c: str) -> bool | None:
  """Returns whether a sigma after a character ends a word; None if what is before the character decides."""
  # Python's own rule for the sigma shows the kind.
  if f'{c}Σ'.lower().endswith('ς'):
    return True
  return None if f'A{c}Σ'.lower().endswith('ς') else False


def _ranges(characters: Iterable[str]) -> str:
  """Returns characters as ranges of a regular expression."""
  ranges: list[list[int]] = []
  for code in sorted(map(ord, characters)):
    if ranges and ranges[-1][1] == code - 1:
      ranges[-1][1] = code
    else:
      ranges.append([code, code])
  return ''.join(f'\\x{{{first:x}}}-\\x{{{last:x}}}' for first, last in ranges)
