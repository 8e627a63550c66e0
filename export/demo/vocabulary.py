"""Trains a small SentencePiece model the way ALBERT's own vocabulary was trained."""

import io
import itertools
import struct
import unicodedata
from collections.abc import Iterable
from typing import Any

import sentencepiece as spm

from export import assets_dir

CORPUS = assets_dir.PATH / 'demo' / 'corpus.txt'

# The options of the training command in ALBERT's README (github.com/google-research/albert), except the size.
_ORIGINAL_OPTIONS: dict[str, Any] = dict(
  model_type='unigram',
  pad_id=0,
  unk_id=1,
  bos_id=-1,
  eos_id=-1,
  control_symbols=['[CLS]', '[SEP]', '[MASK]'],
  user_defined_symbols=['(', ')', '"', '-', '.', '–', '£', '€'],
  character_coverage=0.99995,
)


def train(lines: Iterable[str], vocab_size: int) -> bytes:
  """Trains on `lines` and returns a serialized ModelProto with exactly `vocab_size` pieces.

  A short corpus cannot give 30,000 pieces. Each additional piece joins two trained pieces and has a lower score than
  every trained piece, so that ordinary text is segmented as trained.

  The corpus is normalized as ALBERT's authors normalize text: NFKD, no accents, lower case.

  Args:
    lines: the corpus, one sentence each.
    vocab_size: the number of pieces, at least what the corpus' characters need (about 80 for English).

  Returns:
    The bytes of a SentencePiece model file, the same for the same arguments.

  Raises:
    RuntimeError: from SentencePiece, when `vocab_size` is smaller than the corpus' characters need.
  """
  model = io.BytesIO()
  spm.SentencePieceTrainer.train(
    sentence_iterator=map(normalized, lines),
    model_writer=model,
    vocab_size=min(vocab_size, 800),
    hard_vocab_limit=False,
    num_threads=1,  # more than one gives scores that depend on the schedule
    minloglevel=2,
    **_ORIGINAL_OPTIONS,
  )
  return model.getvalue() + _made_up_pieces(model.getvalue(), vocab_size)


def normalized(line: str) -> str:
  """Returns a line without accents and in lower case, as ALBERT's authors normalized their corpus."""
  return ''.join(c for c in unicodedata.normalize('NFKD', line) if not unicodedata.combining(c)).lower()


def _made_up_pieces(model: bytes, vocab_size: int) -> bytes:
  """Returns bytes to append to a serialized ModelProto, so that it has `vocab_size` pieces.

  Concatenated protocol buffers are one message, with repeated fields joined and scalars overwritten. The field numbers
  are those of sentencepiece_model.proto. (The module that sentencepiece ships for it needs a newer protobuf than
  TensorFlow accepts.)
  """
  processor = spm.SentencePieceProcessor(model_proto=model)
  pieces = [processor.id_to_piece(i) for i in range(len(processor))]
  normal = [p for i, p in enumerate(pieces) if not (processor.is_control(i) or processor.is_unknown(i))]
  heads = [p for p in normal if p.startswith('▁')]
  tails = [p for p in normal if not p.startswith('▁')]
  candidates = dict.fromkeys(head + tail for tail in tails for head in heads)
  fresh = itertools.filterfalse(set(pieces).__contains__, candidates)
  score = min(processor.get_score(i) for i in range(len(processor)))
  parts = [
    _length_delimited(
      1, _length_delimited(1, piece.encode()) + b'\x15' + struct.pack('<f', 2 * score - 1 - rank / 1000)
    )
    for rank, piece in enumerate(itertools.islice(fresh, vocab_size - len(pieces)))
  ]
  return b''.join(parts)


def _length_delimited(field: int, payload: bytes) -> bytes:
  assert len(payload) < 128, 'one byte of length is enough for a piece'
  return bytes([field << 3 | 2, len(payload)]) + payload


def as_text(model: bytes) -> str:
  """Returns the `.vocab` file that SentencePiece writes for a model: one "piece<TAB>score" line per id."""
  processor = spm.SentencePieceProcessor(model_proto=model)
  return ''.join(f'{processor.id_to_piece(i)}\t{processor.get_score(i):g}\n' for i in range(len(processor)))
