"""Checks a SentencePiece model against the weights it came with."""

import sentencepiece as spm

from converters import errors

# Where every published ALBERT has them (training command in github.com/google-research/albert).
SPECIAL_TOKENS = {'<pad>': 0, '<unk>': 1, '[CLS]': 2, '[SEP]': 3, '[MASK]': 4}


def check(model: bytes, vocab_size: int, name: str) -> None:
  """Checks that a model has as many pieces as the embedding has rows, and the special tokens where ALBERT has them.

  Args:
    model: a serialized SentencePiece ModelProto.
    vocab_size: rows of the word embedding.
    name: the file, for the message.

  Raises:
    VocabularyError: naming the file and what does not fit.
  """
  processor = spm.SentencePieceProcessor()
  try:
    if not model:  # the library takes no bytes for no model
      raise ValueError('the file is empty')
    processor.LoadFromSerializedProto(model)
    size = len(processor)
  except Exception as e:
    raise errors.VocabularyError(f'no SentencePiece model in {name} ({e}): restore the file') from e
  if size != vocab_size:
    raise errors.VocabularyError(
        f'{size} pieces in {name}, but the embedding has {vocab_size} rows: this model belongs to other weights')
  for token, wanted in SPECIAL_TOKENS.items():
    found = processor.piece_to_id(token)
    if found != wanted or processor.id_to_piece(wanted) != token:
      raise errors.VocabularyError(
          f'{token} is not piece {wanted} in {name}: this is not a vocabulary ALBERT was trained with')
