"""Puts ALBERT's tokenization in front of an ONNX graph, with operations of onnxruntime-extensions.

The tokenization is that of preprocessor version 4: white space, NFKD, combining marks, letter case with the final
sigma, SentencePiece, and the comma after a digit. Then come `[CLS]`, `[SEP]`, and padding to the batch's longest text.
"""

import dataclasses
import os
import pathlib
import sys
import unicodedata
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import sentencepiece as spm
from onnx import helper

from converters import errors
from converters import interface
from converters import source as source_lib
from converters.readers import sentencepiece_model
from converters.reference import measures
from converters.reference import tokenizer as reference_tokenizer
from converters.writers import onnx_graph
from converters.writers import text_charsmap

# TensorFlow makes its symbols global, and has other versions of libraries that are in this one too. The flag makes this
# one use its own. Without it, a graph crashes in a process that imported TensorFlow before.
_flags = sys.getdlopenflags()
sys.setdlopenflags(_flags | getattr(os, 'RTLD_DEEPBIND', 0))
try:
  import onnxruntime_extensions
finally:
  sys.setdlopenflags(_flags)

INPUT = 'text'
LIBRARY = onnxruntime_extensions.get_library_path()
# Outputs of the tokenization that are outputs of the whole graph too: `input_mask` says where padding is.
_IDS, _MASK, _TYPES = interface.ENCODER_INPUTS
_DOMAIN = 'ai.onnx.contrib'
_MARKER = '\ue001'  # stands after each text while NUL is replaced
_CLS, _SEP, _PAD = (sentencepiece_model.SPECIAL_TOKENS[token] for token in ('[CLS]', '[SEP]', '<pad>'))
Load = Callable[[pathlib.Path | bytes], onnxruntime.InferenceSession]

# Texts of the proof, in addition to those of the reference.
TEXTS = (
  'The bridge was closed, and the ferry was late.',
  '',
  'CAFÉ au lait: naïve, 1,200 boats (or 3.5)!',
  ' \t\n ',
  'e\u0301 and \u00e9 are one letter in two forms, \u1e9b\u0323 in three',
  'ΟΔΟΣ ΑΣ℃Σ℃Σ℃x ϹΣ. ΣΑΣ\u0301',
  '한국어 \u1100\u0301\u1161\u11a8 ㅎㅏㄴ \uac00\u0301\u11a8 ㉮\u11a8',
  'control\x01 \x7f characters and a nul\x00 one\x00',
  '\x00',
  '\ue000\ue001 private \ue001\ue000',
  'हिन्दी, ภาษาไทย, العَرَبِيَّة, עִבְרִית',
  'İstanbul, ıI, ǅ, Ǆ, Straße, ﬁnale, Ωmega and 東京',
  '[CLS] is text here, and so is <pad>',
  'ab,1, ' * 2_000,
)
_SHORT = 6  # of the first of them, the outputs are compared too


def with_text(model: onnx.ModelProto, source: source_lib.Source) -> onnx.ModelProto:
  """Replaces the inputs of a graph by texts.

  The input is string [batch] `text`, in UTF-8. The outputs are those of the graph, and int32 [batch, seq]
  `input_word_ids` and `input_mask`. A text is cut to the positions of the model.

  Args:
    model: a graph with the encoder's names and no head that has an input.
    source: the model, whose tokenizer is used.

  Raises:
    PackageError: the installed SentencePiece cannot compile rules.
    VocabularyError: the normalization of the SentencePiece model cannot be compiled.
  """
  tokenization = _Tokenization(source)
  tokenization.compute()
  ids = [helper.make_tensor_value_info(name, onnx.TensorProto.INT32, ['batch', 'seq']) for name in (_IDS, _MASK)]
  result = onnx.ModelProto()
  result.CopyFrom(model)
  del result.graph.input[:], result.graph.node[:], result.graph.output[:]
  result.graph.input.append(helper.make_tensor_value_info(INPUT, onnx.TensorProto.STRING, ['batch']))
  result.graph.node.extend([*tokenization.nodes, *model.graph.node])
  result.graph.value_info.extend(tokenization.types)
  result.graph.output.extend([*model.graph.output, *ids])
  result.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
  return result


def tokenizer(path: pathlib.Path) -> bytes:
  """Returns the tokenization of a written graph, as a model from `text` to `input_word_ids` and `input_mask`."""
  model = onnx.load(path, load_external_data=False)
  last = next(number for number, node in enumerate(model.graph.node) if _TYPES in node.output)
  del model.graph.node[last + 1 :], model.graph.initializer[:], model.functions[:]
  for output in [output for output in model.graph.output if output.name not in (_IDS, _MASK)]:
    model.graph.output.remove(output)
  return onnx_graph.serialize(model)


class _Tokenization(onnx_graph.Nodes):
  """The nodes that compute the encoder's inputs from texts.

  Attributes:
    types: types of the library's strings, which ONNX cannot infer. Its checker crashes without them.
  """

  def __init__(self, source: source_lib.Source):
    super().__init__('text_')
    self._source = source
    self.types: list[onnx.ValueInfoProto] = []

  def compute(self) -> None:
    """Adds all nodes. The last one has the output `input_type_ids`."""
    ids, splits = self._pieces(self._edited())
    self._packed(*self._with_commas(ids, splits))

  def _edited(self) -> str:
    """Edits the texts before SentencePiece. The result is string [batch + 1], and the last text is empty."""
    # Joining fails for a batch without texts.
    texts = self('Concat', INPUT, self.constant([''], object), axis=0)
    # The operations of the library read a text up to a NUL. A row with fewer parts than others is joined with empty
    # ones, which the marker shows.
    texts = self('StringConcat', texts, self.constant([_MARKER], object))
    fill = text_charsmap.unused(self._source.sp_model, _MARKER)  # as unknown as NUL
    parts = self('StringSplit', texts, delimiter=b'\0')
    self.nodes[-1].output.append('text_number_of_parts')
    texts = self('StringJoin', parts, self.constant([fill], object), self.constant([1]), domain=_DOMAIN)
    texts = self._without(texts, f'{_MARKER}{fill}*$')
    rules = text_charsmap.expressions(self._source.tokenization)
    if rules.dropped:
      texts = self._without(texts, rules.dropped)
    if rules.sigma and rules.has_sigma:
      texts = self._final_sigma(texts, rules.sigma, rules.has_sigma)
    return texts

  def _without(self, texts: str, expression: str) -> str:
    result = self._replaced(self, texts, expression, '')
    self.types.append(_strings(result))
    return result

  def _replaced(self, nodes: onnx_graph.Nodes, texts: str, expression: str, value: str) -> str:
    constants = (nodes.constant([one], object) for one in (expression, value))
    return nodes('StringRegexReplace', texts, *constants, domain=_DOMAIN)

  def _final_sigma(self, texts: str, expression: str, has_sigma: str) -> str:
    # The library compiles an expression in every run, so it is used only if a text has a sigma.
    found = self('Cast', self('RegexFullMatch', texts, pattern=has_sigma), to=onnx.TensorProto.INT32)
    either = self('Cast', self('ReduceMax', found, keepdims=0), to=onnx.TensorProto.BOOL)
    replaced, same = onnx_graph.Nodes('text_sigma_'), onnx_graph.Nodes('text_no_sigma_')
    result = texts
    for _ in range(2):
      result = self._replaced(replaced, result, expression, '\\1ς\\2')
    branches = {
      name: helper.make_graph(nodes.nodes, name, [], [_strings(output)])
      for name, nodes, output in (('sigma', replaced, result), ('no_sigma', same, same('Identity', texts)))
    }
    return self('If', either, then_branch=branches['sigma'], else_branch=branches['no_sigma'])

  def _pieces(self, texts: str) -> tuple[str, str]:
    """Adds SentencePiece; returns int32 [tokens] ids, and int64 [batch + 1] begin and end of each text in them."""
    options = [self.constant([0]), self.constant([0], np.float32), *(self.constant([False], bool) for _ in range(3))]
    model = text_charsmap.compiled(self._source.sp_model, self._source.tokenization)
    ids, splits = 'text_pieces', 'text_splits'
    self('SentencepieceTokenizer', texts, *options, output=ids, domain=_DOMAIN, model=model)
    self.nodes[-1].output.append(splits)
    return ids, self('Slice', splits, *map(self.constant, ([0], [-1], [0])))

  def _with_commas(self, ids: str, splits: str) -> tuple[str, str]:
    """Cuts the pieces that end in a digit and a comma; returns new ids and splits. A 0 follows the last id."""
    table = commas(self._source.sp_model)
    zero, one = self.constant(0), self.constant(1)
    row = self('Gather', self.constant(table.row, np.int32), ids)
    count = self('Gather', self.constant(table.count), row)
    ends = self('CumSum', count, zero)
    begins = self('Sub', ends, count)
    total = self('ReduceSum', count, keepdims=1)
    ones = self('ConstantOfShape', self('Shape', begins), value=onnx.numpy_helper.from_array(np.ones(1, np.int64)))
    empty = self('ConstantOfShape', total, value=onnx.numpy_helper.from_array(np.zeros(1, np.int64)))
    # Number of the piece that each id comes from.
    piece = self('Sub', self('CumSum', self('ScatterElements', empty, begins, ones), zero), one)
    places = self('Range', zero, self('Squeeze', total), one)
    offset = self('Sub', places, self('Gather', begins, piece))
    row = self('Gather', row, piece)
    replaced = self(
      'Gather',
      self.constant(table.values, np.int32),
      self('Add', self('Gather', self.constant(table.start), row), offset),
    )
    stays = self('Equal', row, self.constant(0, np.int32))
    values = self('Where', stays, self('Gather', ids, piece), replaced)
    values = self('Concat', values, self.constant([0], np.int32), axis=0)
    return values, self('Gather', self('Concat', self.constant([0]), ends, axis=0), splits)

  def _packed(self, ids: str, splits: str) -> None:
    """Adds the outputs: a row is [CLS], ids, [SEP] and padding.

    Args:
      ids: int32 [tokens + 1].
      splits: int64 [batch + 1], begin and end of each text in them.
    """
    zero, one, axis = self.constant(0), self.constant(1), self.constant([1])
    begins, ends = (self('Slice', splits, *map(self.constant, limits)) for limits in (([0], [-1]), ([1], [1 << 40])))
    most = self.constant([self._source.config.max_position_embeddings - 2])
    count = self('Min', self('Sub', ends, begins), most)
    # A batch without texts has no longest one, so 0 is among the counts.
    longest = self('ReduceMax', self('Concat', count, self.constant([0]), axis=0), keepdims=0)
    place = self('Range', zero, self('Add', longest, self.constant(2)), one)
    count, begins = self('Unsqueeze', count, axis), self('Unsqueeze', begins, axis)
    last = self('Add', count, one)
    index = self('Sub', self('Add', begins, place), one)
    limit = self('Sub', self('Size', ids), one)
    tokens = self('Gather', ids, self('Min', index, limit))
    cls, sep, pad = (self.constant(token, np.int32) for token in (_CLS, _SEP, _PAD))
    after = self('Where', self('Equal', place, last), sep, pad)
    row = self('Where', self('Less', place, last), tokens, after)
    self('Where', self('Equal', place, zero), cls, row, output=_IDS)
    self('Cast', self('LessOrEqual', place, last), to=onnx.TensorProto.INT32, output=_MASK)
    zeros = onnx.numpy_helper.from_array(np.zeros(1, np.int32))
    self('ConstantOfShape', self('Shape', _MASK), value=zeros, output=_TYPES)


def _strings(name: str) -> onnx.ValueInfoProto:
  return helper.make_tensor_value_info(name, onnx.TensorProto.STRING, ['texts'])


@dataclasses.dataclass(frozen=True)
class Commas:
  """The pieces that are cut once more.

  Attributes:
    row: int [V], row of each piece; 0 for pieces that stay.
    start: int [rows], begin of each row in `values`.
    count: int [rows], length of each row; 1 for row 0.
    values: int, ids.
    pieces: the pieces that are cut.
  """

  row: np.ndarray
  start: np.ndarray
  count: np.ndarray
  values: np.ndarray
  pieces: list[str]


def commas(sp_model: bytes) -> Commas:
  """Cuts the pieces of a SentencePiece model that end in a digit and a comma."""
  processor = spm.SentencePieceProcessor(model_proto=sp_model)
  row, rows, pieces = np.zeros(len(processor), np.int64), [[0]], []
  for number in range(len(processor)):
    piece = processor.id_to_piece(number)
    if piece.endswith(',') and piece[-2:-1].isdigit():
      row[number] = len(rows)
      rows.append(reference_tokenizer.cut(processor, [piece]))
      pieces.append(piece)
  count = np.array([*map(len, rows)])
  return Commas(row, np.cumsum(count) - count, count, np.array([number for ids in rows for number in ids]), pieces)


def check(
  path: pathlib.Path,
  encoder: pathlib.Path,
  source: source_lib.Source,
  allowed: Mapping[str, measures.Distance],
  load: Load,
) -> dict[str, Any]:
  """Compares a written graph with the tokenization that the weights were trained with, and with the encoder's graph.

  Args:
    path: the graph from texts.
    encoder: the graph from ids.
    source: the model.
    allowed: largest distances by the reference's name of an output, relative to its root mean square.
    load: loads a graph with the library of its operations.

  Returns:
    The figures in the form of a record.

  Raises:
    ParityError: ids or outputs differ.
  """
  processor = spm.SentencePieceProcessor(model_proto=source.sp_model)
  most = source.config.max_position_embeddings - 2
  texts = [*TEXTS, *reference_tokenizer.TEXTS]
  texts += [piece.replace('▁', ' ') for piece in commas(source.sp_model).pieces]
  expected = [reference_tokenizer.ids(processor, text, source.tokenization)[:most] for text in texts]
  for text, actual, right in zip(texts, ids(load(tokenizer(path)), texts), expected, strict=True):
    middle = actual[1:-1]
    same = middle == right or reference_tokenizer.equally_likely(processor, middle, right)
    if not same or [actual[0], actual[-1]] != [_CLS, _SEP]:
      raise errors.ParityError(
        f'{path.name}: no parity for {text[:60]!r} (ids {actual[:20]} instead of {[_CLS, *right, _SEP][:20]}); leave '
        'option with_text out, and report the conversion with its source'
      )
  figures = _distances(load(path), load(encoder), texts[:_SHORT])
  for name, distance in figures.items():
    limit = allowed[name.replace('encoder_outputs_', 'layer_')]
    if not distance.within(limit):
      raise errors.ParityError(
        f'{path.name}: {name} differs from that of {encoder.name} by {distance} of its root mean square (allowed: '
        f'{limit}); leave option with_text out, and report the conversion with its source'
      )
  return {
    'texts': len(texts),
    'tokens': sum(map(len, expected)),
    'longest': most + 2,
    'unicode': unicodedata.unidata_version,
    'distance': {name: dataclasses.asdict(distance) for name, distance in figures.items()},
  }


def ids(session: onnxruntime.InferenceSession, texts: Sequence[str]) -> list[list[int]]:
  """Returns the ids of each text, with [CLS] and [SEP] and without padding."""
  rows, mask = session.run([_IDS, _MASK], {INPUT: np.array(texts, object)})
  return [row[: int(kept.sum())].tolist() for row, kept in zip(rows, mask, strict=True)]


def _distances(
  session: onnxruntime.InferenceSession, encoder: onnxruntime.InferenceSession, texts: Sequence[str]
) -> dict[str, measures.Distance]:
  """Returns the distance of each output from that of the encoder's graph for the same ids."""
  names = [output.name for output in session.get_outputs() if output.name not in (_IDS, _MASK)]
  *outputs, rows, mask = session.run([*names, _IDS, _MASK], {INPUT: np.array(texts, object)})
  given = {_IDS: rows, _MASK: mask, _TYPES: np.zeros_like(mask)}
  for tensor in encoder.get_inputs():
    given.setdefault(tensor.name, mask[:, :0])
  right = encoder.run(names, given)
  return {name: measures.relative(*pair) for name, *pair in zip(names, outputs, right, strict=True)}
