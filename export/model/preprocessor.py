"""Makes the preprocessing SavedModel from a SentencePiece model: text in, the encoder's three tensors out.

The contract is that of tensorflow/albert_en_preprocess/{1,2,3}: the same normalization (NFD, no diacritics, case
folding), the same pieces, the same packing. Version 4 has the same calls and the ids of pretraining
(export/model/pretraining_tokenization.py). The graph has only core TensorFlow ops, and SentencePiece and normalization
ops of TF-Text: its packing has an op that runtimes before TF-Text 2.16 lack.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_text as text

from converters import interface
from converters import tokenization
from converters.readers import sentencepiece_model
from export import _tf_private
from export import spec
from export.model import pretraining_tokenization


def exportable(
  sp_model: bytes,
  version: int,
  setting: tokenization.Tokenization = tokenization.DEFAULT,
  default_seq_length: int = spec.SEQ_LENGTH,
) -> tuple[Any, dict[str, Any]]:
  """Makes the object for `saved_model.write`.

  Args:
    sp_model: a serialized SentencePiece model with ALBERT's special tokens.
    version: version of the contract, 1 to 4. Version 2 forbids Assert ops (here 1 has none either), 3 adds `vocab_size`
      to the special tokens, and 4 tokenizes as in pretraining.
    setting: letter case and accents.
    default_seq_length: default number of ids for each text.

  Returns:
    The root object, and its signatures by name.

    root(sentences), string [batch], returns a dict of int32 [batch, seq] `input_word_ids`, `input_mask` and
    `input_type_ids`. root.tokenize(sentences) returns an int32 RaggedTensor [batch, (tokens)].
    root.tokenize.get_special_tokens_dict() returns int32 scalars. root.bert_pack_inputs(segments, seq_length) packs one
    int32 RaggedTensor of ragged rank 1 or 2, or a list of one or two.

  Raises:
    VocabularyError: the SentencePiece model does not support version 4.
  """
  # One tokenizer for all subobjects: another one would put the SentencePiece model into the graph again.
  tokenizer = text.SentencepieceTokenizer(model=sp_model, out_type=tf.int32)
  special_tokens = {
    'padding_id': sentencepiece_model.SPECIAL_TOKENS['<pad>'],
    'start_of_sequence_id': sentencepiece_model.SPECIAL_TOKENS['[CLS]'],
    'end_of_segment_id': sentencepiece_model.SPECIAL_TOKENS['[SEP]'],
    'mask_id': sentencepiece_model.SPECIAL_TOKENS['[MASK]'],
  }
  if version >= 3:
    special_tokens['vocab_size'] = int(tokenizer.vocab_size())

  commas = pretraining_tokenization.commas(sp_model) if version >= 4 else None

  sentences = tf.TensorSpec([None], tf.string, name='sentences')

  @tf.function(input_signature=[sentences], autograph=False)
  def tokenize(sentences):
    if commas is not None:
      return pretraining_tokenization.split_commas(
        tokenizer.tokenize(pretraining_tokenization.normalize(sentences, setting.lower_case, setting.keep_accents)),
        commas,
      )
    return tokenizer.tokenize(_normalize(sentences, setting))

  @tf.function(input_signature=[], autograph=False)
  def get_special_tokens_dict():
    return {name: tf.constant(value, tf.int32) for name, value in special_tokens.items()}

  @tf.function(input_signature=[sentences], autograph=False)
  def preprocess(sentences):
    return _pack([tokenize(sentences)], default_seq_length)

  def bert_pack_inputs(inputs, seq_length=default_seq_length):
    return _pack(inputs if isinstance(inputs, list | tuple) else [inputs], seq_length)

  pack = tf.function(bert_pack_inputs, autograph=False)
  for ragged_rank in (1, 2):
    segment = tf.RaggedTensorSpec([None] * (ragged_rank + 1), tf.int32, ragged_rank)
    # Keras cannot reload a model that gives a layer a list of one tensor, so one segment may come without a list.
    for segments in ([segment], [segment] * 2, segment):
      pack.get_concrete_function(segments, seq_length=tf.TensorSpec([], tf.int32, name='seq_length'))

  root = _callable(preprocess)
  root.tokenize = _callable(tokenize)
  root.tokenize.get_special_tokens_dict = get_special_tokens_dict
  root.bert_pack_inputs = _callable(pack)
  # Each object tracks the resource that its function uses, so that each can be saved without the others.
  root.tokenizer = root.tokenize.tokenizer = tokenizer
  return root, {'serving_default': preprocess}


def _normalize(sentences: Any, setting: tokenization.Tokenization) -> Any:
  if not setting.keep_accents:
    sentences = tf.strings.regex_replace(text.normalize_utf8(sentences, 'NFD'), r'\p{Mn}', '')
  return text.case_fold_utf8(sentences) if setting.lower_case else sentences


def _callable(function: Any) -> Any:
  result = _tf_private.trackable()
  result.__call__ = function
  result.variables, result.trainable_variables, result.regularization_losses = [], [], []
  return result


def _pack(segments: Sequence[Any], seq_length: Any) -> dict[str, Any]:
  """Packs segments as [CLS] a [SEP] or [CLS] a [SEP] b [SEP], truncated and padded.

  Every output position looks up its own token, by gathers and comparisons. Ragged ops check their row splits with
  Assert.

  Args:
    segments: one or two int32 RaggedTensors [batch, (tokens)] or [batch, (words), (tokens)].
    seq_length: int32 scalar or int.

  Returns:
    The encoder's three inputs, int32 [batch, seq_length].
  """
  rows = [_rows(segment) for segment in segments]
  # A reshape to the first segment's batch fails for another batch size, which broadcasting would not.
  rows = [(tf.reshape(start, tf.shape(rows[0][0])), tf.reshape(length, tf.shape(rows[0][0]))) for start, length in rows]
  room = tf.maximum(seq_length - 1 - len(segments), 0)
  kept = _share([length for _, length in rows], room)

  # One table of all tokens, and for each output position an index into it. Operations of the output's shape take most
  # of the time, so there are as few of them as possible.
  cls, sep, pad = (sentencepiece_model.SPECIAL_TOKENS[token] for token in ('[CLS]', '[SEP]', '<pad>'))
  table = tf.concat([*(segment.flat_values for segment in segments), [cls, sep, pad]], axis=0)
  at_cls, at_sep, at_pad = (tf.size(table) - number for number in (3, 2, 1))
  position = tf.range(seq_length)[tf.newaxis, :]
  place = []
  begin, before = tf.ones_like(rows[0][1]), 0  # of a segment: its first output position [batch, 1], and table index
  for segment, (start, _), length in zip(segments, rows, kept, strict=True):
    end = begin + length
    place.append((end, position + (before + start - begin)))
    begin, before = end + 1, before + tf.size(segment.flat_values)
  index = at_pad
  for end, tokens in reversed(place):
    index = tf.where(position < end, tokens, tf.where(tf.equal(position, end), at_sep, index))
  word_ids = tf.gather(table, tf.where(tf.equal(position, 0), at_cls, index))
  inside = position < begin  # not padding, [batch, seq_length]
  input_mask = tf.cast(inside, tf.int32)
  if len(segments) == 1:
    type_ids = tf.fill(tf.shape(word_ids), 0)
  else:
    type_ids = tf.cast(inside & (place[0][0] < position), tf.int32)
  return dict(zip(interface.ENCODER_INPUTS, (word_ids, input_mask, type_ids), strict=True))


def _rows(segment: Any) -> tuple[Any, Any]:
  """Returns the begin of each row in the flat values and its number of tokens: int32 [batch, 1] each."""
  splits = segment.row_splits
  if segment.ragged_rank == 2:
    splits = tf.gather(segment.values.row_splits, splits)
  splits = tf.cast(splits, tf.int32)[:, tf.newaxis]
  return splits[:-1], splits[1:] - splits[:-1]


def _share(lengths: Sequence[Any], room: Any) -> list[Any]:
  """Returns the number of tokens that each segment keeps: as if they took turns until `room` is full."""
  if len(lengths) == 1:
    return [tf.minimum(lengths[0], room)]
  first, second = lengths
  kept = tf.minimum(first, tf.maximum((room + 1) // 2, room - second))
  return [kept, tf.minimum(second, room - kept)]
