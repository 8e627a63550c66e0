"""Compares what an exported encoder computes with what its source computes, both held against a float64 reference.

Both get the same batch; every float output of the source is compared, and every layer where the source's graph shows it, at
the positions that are not padding. (At padding the two differ by design: the original adds -10000 to masked scores, Keras
-1e9.) The reference tells whose error is whose, and so how large an error is right: the export's may be twice the source's.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from converters import config as config_lib
from converters import errors
from converters import source as source_lib
from converters import weight_map
from export import reference

# How much further from the reference than the source the export may be. Both round in float32, in another order.
_RATIO = 2.0
# ... or this many units in the last place of float32 at the output's scale, if the source happens to be closer than rounding
# can promise: for the root mean square at that of the output, for a single value at the largest one.
_FLOOR_ULPS = 16
_SINGLE_FLOOR_ULPS = 64
_ULP = 2.0**-23
# A source that is further from the reference than this, at the same scales, does not compute an ALBERT with these weights:
# rounding was measured at 7e-7 after 24 layers of random weights, and outliers in trained ones may cost some digits.
_SOURCE_LIMIT = 1e-3

COMPARED = ('pooled_output', 'sequence_output', 'mlm_logits', 'sop_log_probs')


@dataclasses.dataclass(frozen=True)
class Distance:
  """How far an output is from the reference: root mean square, and the largest single difference."""
  rms: float
  largest: float

  def within(self, other: 'Distance') -> bool:
    return self.rms <= other.rms and self.largest <= other.largest

  def __str__(self) -> str:
    return f'{self.rms:.2g} (at most {self.largest:.2g})'


@dataclasses.dataclass(frozen=True)
class Check:
  """One output compared.

  Attributes:
    values: how many floats were compared.
    source, export: each one's distance to the reference.
    limit: how far the source may be.
    allowed: how far the export may be.
  """
  values: int
  source: Distance
  export: Distance
  limit: Distance
  allowed: Distance

  @property
  def passes(self) -> bool:
    # A NaN is not within anything.
    return self.values > 0 and self.source.within(self.limit) and self.export.within(self.allowed)


@dataclasses.dataclass(frozen=True)
class Batch:
  """A batch in the exported model's terms; each int32. 4 rows of different length, two of them with a second segment.

  Attributes:
    input_word_ids, input_mask, input_type_ids: [4, seq].
    masked_lm_positions: [4, 3], zero-padded.
  """
  input_word_ids: np.ndarray
  input_mask: np.ndarray
  input_type_ids: np.ndarray
  masked_lm_positions: np.ndarray

  @property
  def for_source(self) -> dict[str, np.ndarray]:
    """The same under the names of the TF1 signatures."""
    return {
        'input_ids': self.input_word_ids,
        'input_mask': self.input_mask,
        'segment_ids': self.input_type_ids,
        'mlm_positions': self.masked_lm_positions,
    }


def make_batch(config: config_lib.AlbertConfig, seed: int = 0) -> Batch:
  """A batch of random word ids, the same for the same arguments."""
  length = min(24, config.max_position_embeddings)
  lengths = np.array([length, max(1, 2 * length // 3), max(1, length // 2), max(1, length // 8)])
  second = np.array([length // 2, lengths[1], length // 4, lengths[3]])  # where the second segment begins, if at all
  position = np.arange(length)
  mask = (position < lengths[:, np.newaxis]).astype(np.int32)
  types = ((position >= second[:, np.newaxis]) * mask % config.type_vocab_size).astype(np.int32)
  ids = np.random.default_rng(seed).integers(0, config.vocab_size, mask.shape, dtype=np.int32) * mask
  positions = np.stack([lengths - 1, lengths // 2, np.zeros_like(lengths)], axis=1).astype(np.int32)
  return Batch(ids, mask, types, positions)


class Expected:
  """What the source's weights come to in float64 on a batch."""

  def __init__(self, source: source_lib.Source, parts: frozenset[weight_map.Part], batch: Batch):
    """Reads each weight once, and keeps those of the heads."""
    weights = {row.name: source.tensor(row) for row in weight_map.rows(source.config, parts)}
    self.layers, self.pooled_output = reference.encode(
        weights.__getitem__, source.config, batch.input_word_ids, batch.input_mask, batch.input_type_ids)
    self._positions = batch.masked_lm_positions
    self._heads = {name: value for name, value in weights.items() if name.startswith(('mlm.', 'sop.', 'embeddings.word'))}
    self.rows = np.nonzero(batch.input_mask)[0]

  def of(self, name: str, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """What an output should be.

    A head is judged by what it makes of its own side's encoder output: that it makes little of a small error there is not
    its doing, and with a handful of values the ratio of two such errors would be chance.

    Args:
      name: 'tokens/pooled_output', 'mlm/mlm_logits', 'tokens/layer_3' and so on.
      outputs: all outputs of the side that gave it.
    """
    signature, _, output = name.rpartition('/')
    if output == 'mlm_logits':
      return reference.mlm_logits(self._heads.__getitem__, outputs[f'{signature}/sequence_output'], self._positions)
    if output == 'sop_log_probs':
      return reference.sop_log_probs(self._heads.__getitem__, outputs[f'{signature}/pooled_output'])
    if output == 'pooled_output':
      return self.pooled_output
    return self.layers[-1 if output == 'sequence_output' else int(output.removeprefix('layer_'))]


def compare(source: Mapping[str, np.ndarray], export: Mapping[str, np.ndarray], expected: Expected,
            mask: np.ndarray) -> dict[str, Check]:
  """Compares outputs.

  Args:
    source: the outputs of the source's signatures, as `source_graph.Run.outputs` gives them: 'tokens/pooled_output' and so
      on, and 'tokens/layer_0' and so on where the graph shows them; mlm_logits may be [batch * P, V], and what is by position
      [batch * seq, H].
    export: the outputs of the exported model and its heads under the same names.
    expected: what both should be.
    mask: int [batch, seq], 0 at padding.

  Returns:
    The checks by output, without the signature: of an output that several of them give, the worst.

  Raises:
    ParityError: an output is missing on one side, the shapes do not agree, or the export is too far off; lists all.
  """
  faults, checks = [], dict[str, list[Check]]()
  for name in dict.fromkeys((*export, *source)):
    output = name.rpartition('/')[2]
    if output.startswith('layer_') and name not in source:
      continue  # a graph that is built otherwise than the authors' does not show its layers
    if name not in source or name not in export:
      faults.append(f'{name} is missing in the {"export" if name in source else "source"}')
      continue
    ours, theirs = (_packed(side[name], mask, output) for side in (export, source))
    if theirs.size != ours.size:
      faults.append(f'{name} has shape {list(export[name].shape)}, the source\'s {list(source[name].shape)}')
      continue
    check = verdict(theirs, expected.of(name, source), ours, expected.of(name, export))
    checks.setdefault(output, []).append(check)
    if not check.source.within(check.limit):
      faults.append(f'{name} of the source is {check.source} from the reference, more than {check.limit}')
    elif not check.passes:
      faults.append(f'{name} is {check.export} from the reference, more than {check.allowed}')
  if faults or not checks:
    raise errors.ParityError(f'no parity ({"; ".join(faults) or "no outputs"}) in the encoder against its source: the source is '
                             'no ALBERT with these weights, or the conversion is at fault')
  return {output: max(each, key=lambda c: c.export.rms) for output, each in checks.items()}


def _packed(value: np.ndarray, mask: np.ndarray, output: str) -> np.ndarray:
  """What is by position, at the positions that are not padding; everything else flat."""
  if (output == 'sequence_output' or output.startswith('layer_')) and value.size % mask.size == 0:
    return value.reshape(mask.size, -1)[mask.astype(bool).ravel()].ravel()
  return value.ravel()


def verdict(theirs: np.ndarray, their_reference: np.ndarray, ours: np.ndarray, our_reference: np.ndarray) -> Check:
  """Checks one output: the source's values, what they should be, the export's values, and what those should be."""
  source, export = distance(theirs, their_reference), distance(ours, our_reference)
  scale, largest = (float(f(np.abs(their_reference))) if their_reference.size else math.nan for f in (_rms, np.max))
  floor = Distance(_FLOOR_ULPS * _ULP * scale, _SINGLE_FLOOR_ULPS * _ULP * largest)
  allowed = Distance(_larger(_RATIO * source.rms, floor.rms), _larger(_RATIO * source.largest, floor.largest))
  return Check(int(ours.size), source, export, Distance(_SOURCE_LIMIT * scale, _SOURCE_LIMIT * largest), allowed)


def _larger(one: float, other: float) -> float:
  return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


def _rms(values: np.ndarray) -> float:
  return float(np.sqrt(np.mean(np.square(values))))


def distance(actual: np.ndarray, expected: np.ndarray) -> Distance:
  """How far two arrays of the same number of values are from each other; NaN if there are none."""
  if not actual.size or actual.size != expected.size:
    return Distance(math.nan, math.nan)
  with np.errstate(invalid='ignore'):  # infinity less infinity is a NaN, and fails as one
    difference = np.abs(actual.astype(np.float64).ravel() - expected.ravel())
    return Distance(_rms(difference), float(np.max(difference)))
