"""Compares source and export on lines of text: token ids, packed inputs and model outputs."""

import dataclasses
import itertools
import math
import os
import time
import zlib
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import numpy as np

from converters import interface
from converters.readers import sentencepiece_model
from converters.reference import tokenizer as reference_tokenizer
from export import spec
from export.corpus import child
from export.corpus import lines as lines_lib
from export.corpus import models
from export.corpus import protocol
from export.corpus import summary as summary_lib
from export.validation import preprocessor_certificate

_STEP = 8  # the padded length of a batch is a multiple of this
_ROWS = 128  # maximum lines of a batch; each line has logits of the whole vocabulary
_GIVE_UP = 3  # crashing lines of a piece: the cause is then probably not a line
_UNICODE = 4  # first version of the preprocessor that defines the result for invalid UTF-8

_CLS, _SEP, _PAD = (sentencepiece_model.SPECIAL_TOKENS[token] for token in ('[CLS]', '[SEP]', '<pad>'))


@dataclasses.dataclass(frozen=True)
class Row:
  """A line with its reference ids.

  Attributes:
    line: the line.
    ids: token ids by the reference tokenization, without special tokens.
  """

  line: lines_lib.Line
  ids: list[int]

  @property
  def place(self) -> summary_lib.Place:
    """The place of the line."""
    return summary_lib.Place(self.line.path, self.line.offset)


def compare(piece: lines_lib.Piece, pair: models.Pair) -> summary_lib.Summary:
  """Compares source and export on the lines of a piece of a file.

  Args:
    piece: piece of a file.
    pair: source and export.

  Returns:
    The summary of the piece.

  Raises:
    UntrustedGraphError: the source's graph is refused.
    SourceError: a model cannot be loaded.
  """
  result = summary_lib.Summary(pair.job.keep)
  before = pair.source.restarts + pair.export.restarts
  deadly = list[Row]()
  # The first head depends on the piece, so that many small files together use all heads.
  number = zlib.crc32(f'{os.path.basename(piece.path)}:{piece.start}:{piece.stripe}'.encode())
  try:
    for window in lines_lib.windows(piece):
      start = time.monotonic()
      for line in (line for line in window if line.content is None):
        _not_compared(
          result,
          summary_lib.Place(line.path, line.offset),
          f'begins a line of more than {lines_lib.LONGEST} bytes, which must be split or removed',
        )
      rows = [
        Row(line, preprocessor_certificate.ids(pair.processor, line.text, pair.job.version, pair.setting))
        for line in window
        if line.content is not None
      ]
      result.unoriginal += sum(
        row.ids != reference_tokenizer.ids(pair.processor, row.line.text, pair.setting)
        for row in rows
        if pair.job.version < _UNICODE
      )
      result.took('rule', time.monotonic() - start)
      for length, batch in batches(rows, pair.job.seq_length, pair.job.batch_tokens):
        _try(pair, number, length, batch, result, deadly)
        number += 1
  except lines_lib.Unreadable as e:
    _not_compared(result, summary_lib.Place(piece.path, e.offset), str(e))
  except _TooManyCrashesError as e:
    _not_compared(result, summary_lib.Place(piece.path, piece.start), f'begins a piece that was abandoned ({e})')
  result.restarts = pair.source.restarts + pair.export.restarts - before
  result.held('worker', child.memory())
  return result


class _TooManyCrashesError(Exception):
  """Too many lines crash a subprocess."""


def _try(
  pair: models.Pair,
  number: int,
  length: int,
  rows: list[Row],
  result: summary_lib.Summary,
  deadly: list[Row],
  tries: int = child.TRIES,
) -> None:
  """Compares a batch, and bisects it if a subprocess crashes, so that all other lines are compared.

  Args:
    pair: source and export.
    number: number of the batch.
    length: padded length, in positions.
    rows: lines of the batch.
    result: summary to add to.
    deadly: crashing lines of the piece; appended to.
    tries: maximum number of subprocesses.

  Raises:
    _TooManyCrashesError: the piece has _GIVE_UP crashing lines.
  """
  try:
    _Batch(pair, number, length, rows, tries).compare(result)
  except child.Died as e:
    if len(rows) > 1:
      middle = len(rows) // 2
      for half in (rows[:middle], rows[middle:]):
        _try(pair, number, length, half, result, deadly, child.TRIES if len(half) == 1 else 1)
      return
    _not_compared(result, rows[0].place, f'crashes the model\'s subprocess repeatedly ({e})')
    deadly += rows
    if len(deadly) == _GIVE_UP:
      raise _TooManyCrashesError(str(e)) from e


def _not_compared(result: summary_lib.Summary, place: summary_lib.Place, why: str) -> None:
  result.note(faults=[summary_lib.Fault(place, why)])
  result.not_compared += 1


def batches(rows: Iterable[Row], seq_length: int, batch_tokens: int) -> Iterator[tuple[int, list[Row]]]:
  """Groups lines of similar length into batches, which depend on the arguments only.

  Args:
    rows: the lines.
    seq_length: maximum positions of a line.
    batch_tokens: maximum positions of a batch with padding; a batch of one line may have more.

  Yields:
    The padded length in positions, and the lines.
  """
  batch, length = list[Row](), 0
  for row in sorted(rows, key=lambda row: len(row.ids)):
    needed = min(seq_length, math.ceil((len(row.ids) + 2) / _STEP) * _STEP)
    if batch and ((len(batch) + 1) * needed > batch_tokens or len(batch) == _ROWS):
      yield length, batch
      batch = []
    batch.append(row)
    length = needed
  if batch:
    yield length, batch


def packed(ids: Iterable[list[int]], length: int) -> dict[str, np.ndarray]:
  """Returns the encoder's inputs for token ids, computed without code of the exported preprocessor.

  Args:
    ids: token ids of each line, without special tokens.
    length: padded length, in positions.

  Returns:
    The inputs by name, int32 [batch, length] each.
  """
  kept = [[_CLS, *row[: length - 2], _SEP] for row in ids]
  words = np.array([row + [_PAD] * (length - len(row)) for row in kept], np.int32)
  mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in kept], np.int32)
  return dict(zip(interface.ENCODER_INPUTS, (words, mask, np.zeros_like(words)), strict=True))


class _Batch:
  def __init__(self, pair: models.Pair, number: int, length: int, rows: list[Row], tries: int):
    self._tries = tries
    self._pair, self._length, self._rows = pair, length, rows
    # Batches alternate between the encoder and each head; calls of a head also return the encoder's outputs.
    self._turn = number % len(pair.job.signatures)
    self._signature = pair.job.signatures[self._turn]

  def compare(self, result: summary_lib.Summary) -> None:
    positions = self._positions()
    ours, times = self._export(positions)
    result.took('preprocessor', times['preprocessor'] / 1e6)
    result.took('encoder', times['encoder'] / 1e6)
    result.held('export', times['memory'])
    splits = ours['splits'].tolist()
    actual = [ours['ids'][begin:end].tolist() for begin, end in itertools.pairwise(splits)]
    given = packed(actual, self._length)
    # The source gets the export's ids, which are compared with the reference separately: only the models differ.
    theirs, times = self._source(given, positions)
    result.took('source', times.get('microseconds', 0) / 1e6)  # reported by the untrusted subprocess
    result.held('source', times.get('memory', 0))
    start = time.monotonic()
    self._compare_ids(actual, given, ours, result)
    mask = given['input_mask'].astype(bool)
    sequence = self._differences('sequence_output', ours, theirs, mask, result)
    for name in interface.outputs(self._signature, self._pair.job.pooler):
      if name != 'sequence_output':
        self._differences(name, ours, theirs, None, result)
    tokens = int(mask.sum())
    result.lines += len(self._rows)
    result.tokens += tokens
    result.blank += sum(not row.ids for row in self._rows)
    result.cut += sum(len(row.ids) + 2 > self._length for row in self._rows)
    result.at_length(self._length, len(self._rows), tokens, summary_lib.Spread.of(sequence[np.isfinite(sequence)]))
    result.took('comparison', time.monotonic() - start)

  def _positions(self) -> np.ndarray:
    """Returns the positions of the logits, int32 [batch, 2]: a token in the middle, and the first one."""
    return np.array([[min(len(row.ids) + 2, self._length) // 2, 1] for row in self._rows], np.int32)

  def _shapes(self) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
    """Returns type and shape of each output of the source."""
    job = self._pair.job
    sizes = {'batch': len(self._rows), 'seq': self._length, 'predictions': 2, 'H': job.hidden, 'V': job.words}
    return {t.name: (np.float32, t.shape(sizes)) for t in interface.SIGNATURES[self._signature].outputs}

  def _export(self, positions: np.ndarray) -> tuple[protocol.Arrays, dict[str, int]]:
    # Earlier versions get no invalid UTF-8: their result for it is undefined.
    texts = [
      row.line.content or b'' if self._pair.job.version >= _UNICODE else row.line.text.encode() for row in self._rows
    ]
    rows = len(texts)
    shapes: dict[str, Any] = {'ids': (np.int32, (None,)), 'splits': (np.int64, (rows + 1,))}
    shapes |= dict.fromkeys(interface.ENCODER_INPUTS, (np.int32, (rows, self._length)))
    shapes |= {f'whole/{name}': (np.int32, (rows, spec.SEQ_LENGTH)) for name in interface.ENCODER_INPUTS}
    shapes |= self._shapes()
    if not self._pair.job.pooler:
      del shapes['pooled_output']
    return self._pair.export.ask(
      {
        'text': np.frombuffer(b''.join(texts), np.uint8),
        'ends': np.cumsum([len(text) for text in texts], dtype=np.int64),
        'positions': positions,
      },
      {'length': self._length, 'signature': self._turn},
      shapes,
      self._tries,
    )

  def _source(self, given: dict[str, np.ndarray], positions: np.ndarray) -> tuple[protocol.Arrays, dict[str, int]]:
    named = {**given, 'masked_lm_positions': positions}
    return self._pair.source.ask(
      {tensor.tf1: named[tensor.name] for tensor in interface.INPUTS},
      {'signature': self._turn},
      self._shapes(),
      self._tries,
    )

  def _compare_ids(
    self, actual: list[list[int]], given: dict[str, np.ndarray], ours: protocol.Arrays, result: summary_lib.Summary
  ) -> None:
    whole = packed(actual, spec.SEQ_LENGTH)
    unlike = []
    for number, row in enumerate(self._rows):
      is_right = actual[number] == row.ids
      if not is_right and reference_tokenizer.equally_likely(self._pair.processor, actual[number], row.ids):
        result.equally_likely += 1
        is_right = True
      packing = all(
        np.array_equal(ours[f'{place}{name}'][number], value[number])
        for place, values in (('', given), ('whole/', whole))
        for name, value in values.items()
      )
      if not (is_right and packing):
        result.different += 1
        seen = actual[number] if not is_right else ours['whole/input_word_ids'][number]
        right = row.ids if not is_right else whole['input_word_ids'][number]
        unlike.append(
          summary_lib.Unlike(row.place, summary_lib.short(row.line.text), summary_lib.few(right), summary_lib.few(seen))
        )
    result.note(unlike)

  def _differences(
    self,
    name: str,
    ours: protocol.Arrays,
    theirs: protocol.Arrays,
    mask: np.ndarray | None,
    result: summary_lib.Summary,
  ) -> np.ndarray:
    """Adds the absolute differences of an output at the positions of the mask, and returns them as float64."""
    difference = ours[name].astype(np.float64)
    with np.errstate(invalid='ignore', over='ignore'):
      difference -= theirs[name]  # in place: another array of logits has up to 60 MB
      np.abs(difference, out=difference)
    if mask is not None:
      difference[~mask] = 0.0
    by_line = difference.reshape(len(self._rows), -1).max(axis=1)
    by_line[np.isnan(by_line)] = np.inf
    counted = difference[mask].ravel() if mask is not None else difference.ravel()
    result.output(name).fill(
      counted,
      (
        summary_lib.Worst(float(value), row.place, summary_lib.short(row.line.text))
        for value, row in zip(by_line, self._rows, strict=True)
      ),
    )
    return counted
