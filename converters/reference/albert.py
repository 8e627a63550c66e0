"""Implements ALBERT forward and backward in NumPy: in float64 as independent reference, in float32 to measure rounding.

It is written from the paper (arxiv.org/abs/1909.11942) and the canonical weights alone. It shares no code with
AlbertEncoder, the converters, or the TF1 graphs of test modules. Graphs have float32 constants: GELU's two, the layer
norms' epsilon, the scale of attention. The reference uses the same rounded values.

Each step returns its result and a backward function. The backward function takes the derivative by the result, and
returns the derivative by the step's input. It adds the derivatives by the step's weights to a `Gradient`.
"""

import collections
import dataclasses
import functools
import math
import os
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent import futures

import numpy as np
from scipy import special

from converters import albert_config

_EPSILON = float(np.float32(1e-12))  # of every layer norm
_SQRT_HALF = float(np.float32(math.sqrt(0.5)))
_GELU_SCALE, _GELU_CUBE = float(np.float32(math.sqrt(2 / math.pi))), float(np.float32(0.044715))
# Float32 kernels are converted to float64 in pieces of at most this many rows and columns. Larger pieces need freshly
# allocated memory, which takes longer than the multiplication. So does reading a few columns of each row.
_ROWS, _COLUMNS = 512, 1024
_FEWEST_COLUMNS = 256  # small enough for all processors to have a piece
# Number of values of a derivative that are computed at a time, for the same reason.
_PIECE = _ROWS * _COLUMNS

Tensor = Callable[[str], np.ndarray]
Float = type[np.float64] | type[np.float32]


class Gradient:
  """The derivatives of a scalar by all weights, stored as the factors of sums of products.

  Attributes:
    terms: root mean square of the terms that cancel in a derivative, by canonical name; only where they can be larger
      than the derivative.
  """

  def __init__(self) -> None:
    self._products = collections.defaultdict[str, list[tuple[np.ndarray, np.ndarray]]](list)
    self._rows = collections.defaultdict[str, list[tuple[np.ndarray, np.ndarray]]](list)
    self._sums: dict[str, np.ndarray] = {}
    self.terms: dict[str, float] = {}

  def add_product(self, name: str, left: np.ndarray, right: np.ndarray) -> None:
    """Adds the transpose of left [n, in] times right [n, out]."""
    self._products[name].append((left, right))

  def add_rows(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
    """Adds values [n, width] at rows, int [n]."""
    self._rows[name].append((rows, values))

  def add_sum(self, name: str, values: np.ndarray) -> None:
    """Adds the sum over n of values [n, width]."""
    self._sums[name] = self._sums.get(name, 0) + values.sum(axis=0)

  def pieces(self, name: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yields the float64 derivative by one weight in its canonical layout, a few rows at a time."""
    left: np.ndarray | None = None
    right: np.ndarray = np.empty(0)
    if name in self._products:
      left, right = (np.concatenate(factors) for factors in zip(*self._products[name], strict=True))
    count = max(1, _PIECE // math.prod(shape[1:]))
    for start in range(0, shape[0], count):
      stop = min(start + count, shape[0])
      piece = np.zeros((stop - start, *shape[1:]))
      if left is not None:
        np.matmul(left[:, start:stop].T, right, out=piece)
      for rows, values in self._rows[name]:
        here = (start <= rows) & (rows < stop)
        np.add.at(piece, rows[here] - start, values[here])
      if name in self._sums:
        piece += self._sums[name][start:stop]
      yield piece


Back = Callable[[np.ndarray, Gradient], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Dropout:
  """Factors 1 / (1 - rate) of the units that dropout keeps; backward functions do not support them.

  Attributes:
    hidden: factor of the embeddings, and of the outputs of attention and feed-forward.
    attention: factor of the attention weights.
  """

  hidden: float = 1.0
  attention: float = 1.0


_NO_DROPOUT = Dropout()


@dataclasses.dataclass(frozen=True)
class Inputs:
  """A batch of encoder inputs; each row begins with an unmasked position.

  Attributes:
    word_ids: int [batch, seq].
    mask: int [batch, seq], 0 where masked.
    type_ids: int [batch, seq].
  """

  word_ids: np.ndarray
  mask: np.ndarray
  type_ids: np.ndarray


def encode_and_differentiate(
  tensor: Tensor,
  config: albert_config.AlbertConfig,
  inputs: Inputs,
  differentiated: Inputs,
  positions: np.ndarray,
  factors: Mapping[str, np.ndarray],
  dtype: Float = np.float64,
) -> tuple[list[np.ndarray], np.ndarray | None, Gradient]:
  """Runs the encoder on one batch and differentiates a scalar on another, with one pass over the weights.

  Args:
    tensor: function from canonical name to weight, float32 or float64 in canonical layout; called for the weights of
      the transformer block once per layer.
    config: config of the model.
    inputs: batch to run.
    differentiated: batch to differentiate; unmasked positions come first in each row.
    positions: int [batch, P], unmasked positions in `differentiated` for the masked language model.
    factors: factors of the outputs in the scalar, which is their sum: `sequence_output` [batch, seq, H], with a
      pooler `pooled_output` [batch, H], and for heads `mlm_logits` [batch, P, V] and `sop_log_probs` [batch, 2]. The
      term of `sop_log_probs` is differentiated by the head's own weights only.
    dtype: dtype of the computation.

  Returns:
    The outputs of all layers for `inputs`, L arrays [tokens, H] of `dtype`, where tokens are the unmasked positions row
    by row; the pooled output [batch, H], None without pooler; and the derivatives of the scalar.
  """
  tokens = _tokens(differentiated)
  count = len(tokens.row)
  layers, backs = _forward(tensor, config, tokens.and_(_tokens(inputs)), count, dtype)
  result = _backward(tensor, config, layers[-1][:count], backs, differentiated, positions, factors)
  layers = [layer[count:] for layer in layers]
  return layers, _pooled(tensor, config, layers[-1], inputs), result


def encode(
  tensor: Tensor, config: albert_config.AlbertConfig, inputs: Inputs, dtype: Float, dropout: Dropout = _NO_DROPOUT
) -> tuple[list[np.ndarray], np.ndarray | None]:
  """Runs the encoder on a batch.

  Args:
    tensor: function from canonical name to weight, as in `encode_and_differentiate`.
    config: config of the model.
    inputs: batch to run.
    dtype: dtype of the computation.
    dropout: factors of the units; all units are kept.

  Returns:
    The outputs of all layers, L arrays [tokens, H] of `dtype`, where tokens are the unmasked positions row by row; and
    the pooled output [batch, H], None without pooler.
  """
  layers, _ = _forward(tensor, config, _tokens(inputs), 0, dtype, dropout)
  return layers, _pooled(tensor, config, layers[-1], inputs)


@dataclasses.dataclass(frozen=True)
class _Tokens:
  """The unmasked positions of a batch; int [tokens] each.

  Attributes:
    words: ids of the word embedding.
    positions: ids of the position embedding.
    types: ids of the token type embedding.
    row: row numbers; tokens attend to tokens of the same row.
  """

  words: np.ndarray
  positions: np.ndarray
  types: np.ndarray
  row: np.ndarray

  def and_(self, other: '_Tokens') -> '_Tokens':
    """Returns these tokens followed by those of another batch."""
    later = dataclasses.replace(other, row=other.row + self.row.max(initial=-1) + 1)
    return _Tokens(*(np.concatenate(pair) for pair in zip(_fields(self), _fields(later), strict=True)))


def _fields(tokens: _Tokens) -> tuple[np.ndarray, ...]:
  return tokens.words, tokens.positions, tokens.types, tokens.row


def _tokens(inputs: Inputs) -> _Tokens:
  row, position = np.nonzero(inputs.mask)
  return _Tokens(inputs.word_ids[row, position], position, inputs.type_ids[row, position], row)


def _forward(
  tensor: Tensor,
  config: albert_config.AlbertConfig,
  tokens: _Tokens,
  kept: int,
  dtype: Float,
  dropout: Dropout = _NO_DROPOUT,
) -> tuple[list[np.ndarray], list[Back]]:
  """Returns the layers' outputs, and the backward functions for the first `kept` tokens, which are whole rows."""
  x, back = _embed(tensor, config, tokens, kept, dtype, dropout)
  layers, backs = [], [back]
  for layer in range(config.num_hidden_layers):
    group = int(layer / config.num_hidden_layers * config.num_hidden_groups)  # as in the authors' modeling.py
    for inner in range(config.inner_group_num):
      prefix = f'group_{group}.layer_{inner}.' if group or inner else ''
      x, back = _layer(tensor, config, prefix, x, tokens.row, kept, dropout)
      layers.append(x)
      backs.append(back)
  return layers, backs


def _backward(
  tensor: Tensor,
  config: albert_config.AlbertConfig,
  x: np.ndarray,
  backs: list[Back],
  inputs: Inputs,
  positions: np.ndarray,
  factors: Mapping[str, np.ndarray],
) -> Gradient:
  """Runs the heads on the last layer's output [tokens, H], and goes backward to the embeddings."""
  row, position = np.nonzero(inputs.mask)
  first = _first(inputs)
  result = Gradient()
  dx = factors['sequence_output'][row, position].astype(x.dtype)
  if 'pooled_output' in factors:
    pooled, back = _pool(tensor, x, first)
    dx += back(factors['pooled_output'].astype(x.dtype), result)
  if 'mlm_logits' in factors:
    where = first[:, np.newaxis] + positions
    _, back = _mlm(tensor, config, x[where])
    np.add.at(dx, where, back(factors['mlm_logits'].astype(x.dtype), result))
  if 'sop_log_probs' in factors:
    _sop(tensor, pooled)[1](factors['sop_log_probs'].astype(x.dtype), result)
  for back in reversed(backs):
    dx = back(dx, result)
  return result


def mlm_logits(
  tensor: Tensor,
  config: albert_config.AlbertConfig,
  sequence_output: np.ndarray,
  positions: np.ndarray,
  dtype: Float = np.float64,
) -> np.ndarray:
  """Computes the logits [batch, P, V] from sequence_output [batch, seq, H] and positions, int [batch, P]."""
  x = np.take_along_axis(sequence_output.astype(dtype), positions[:, :, np.newaxis].astype(np.int64), axis=1)
  return _mlm(tensor, config, x)[0]


def sop_log_probs(tensor: Tensor, pooled_output: np.ndarray, dtype: Float = np.float64) -> np.ndarray:
  """Computes the log probabilities [batch, 2] from pooled_output [batch, H]."""
  return _sop(tensor, pooled_output.astype(dtype))[0]


def _first(inputs: Inputs) -> np.ndarray:
  """Returns the index of the first token of each row."""
  return np.searchsorted(np.nonzero(inputs.mask)[0], np.arange(len(inputs.mask)))


def _own(x: np.ndarray, kept: int | None) -> np.ndarray:
  """Returns a copy of the first `kept` tokens, so that the memory of the rest is freed."""
  return x if kept is None or kept == len(x) else x[:kept].copy()


def _embed(
  tensor: Tensor, config: albert_config.AlbertConfig, tokens: _Tokens, kept: int, dtype: Float, dropout: Dropout
) -> tuple[np.ndarray, Back]:
  tables = {
    'embeddings.word': tokens.words,
    'embeddings.position': tokens.positions,
    'embeddings.token_type': tokens.types,
  }
  x = sum(tensor(name)[ids].astype(dtype) for name, ids in tables.items())
  x, norm_back = _norm(tensor, 'embeddings.norm', x, kept)
  x = x * dtype(dropout.hidden)
  project_back = None
  if config.embedding_size != config.hidden_size:
    x, project_back = _dense(tensor, 'embeddings.projection', x, kept)

  def back(dx: np.ndarray, gradient: Gradient) -> np.ndarray:
    dx = norm_back(project_back(dx, gradient) if project_back else dx, gradient)
    for name, ids in tables.items():
      gradient.add_rows(name, ids[:kept], dx)
    return dx

  return x, back


def _layer(
  tensor: Tensor,
  config: albert_config.AlbertConfig,
  prefix: str,
  x: np.ndarray,
  row: np.ndarray,
  kept: int,
  dropout: Dropout,
) -> tuple[np.ndarray, Back]:
  """Computes one block; `prefix` begins the names of its weights."""
  attended, attention_back = _attention(tensor, config, prefix, x, row, kept, dropout.attention)
  middle, middle_back = _norm(tensor, f'{prefix}attention.norm', x + attended * x.dtype.type(dropout.hidden), kept)
  inner, inner_back = _dense(tensor, f'{prefix}feed_forward.intermediate', middle, kept)
  inner, activation_back = _activate(config.activation, inner, kept)
  outer, outer_back = _dense(tensor, f'{prefix}feed_forward.output', inner, kept)
  y, norm_back = _norm(tensor, f'{prefix}feed_forward.norm', middle + outer * x.dtype.type(dropout.hidden), kept)

  def back(dy: np.ndarray, gradient: Gradient) -> np.ndarray:
    d = norm_back(dy, gradient)
    d = middle_back(d + inner_back(activation_back(outer_back(d, gradient), gradient), gradient), gradient)
    return d + attention_back(d, gradient)

  return y, back


def _pooled(tensor: Tensor, config: albert_config.AlbertConfig, x: np.ndarray, inputs: Inputs) -> np.ndarray | None:
  return _pool(tensor, x, _first(inputs))[0] if config.pooler else None


def _pool(tensor: Tensor, x: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, Back]:
  y, dense_back = _dense(tensor, 'pooler', x[first])
  pooled = np.tanh(y)

  def back(dy: np.ndarray, gradient: Gradient) -> np.ndarray:
    dx = np.zeros_like(x)
    gradient.terms['pooler.kernel'] = float(np.sqrt(np.mean(np.square(x[first].T @ dy))))
    gradient.terms['pooler.bias'] = float(np.sqrt(np.mean(np.square(dy.sum(axis=0)))))
    dx[first] = dense_back(dy * (1 - pooled * pooled), gradient)
    return dx

  return pooled, back


def _mlm(tensor: Tensor, config: albert_config.AlbertConfig, x: np.ndarray) -> tuple[np.ndarray, Back]:
  """Computes logits [..., V] from x [..., H]."""
  y, dense_back = _dense(tensor, 'mlm.transform', x)
  y, activation_back = _activate(config.activation, y)
  y, norm_back = _norm(tensor, 'mlm.norm', y)
  table = tensor('embeddings.word')

  def back(dy: np.ndarray, gradient: Gradient) -> np.ndarray:
    gradient.add_product('embeddings.word', _flat(dy), _flat(y))
    gradient.add_sum('mlm.output_bias', _flat(dy))
    return dense_back(activation_back(norm_back(matmul(dy, table), gradient), gradient), gradient)

  return matmul(y, table.T) + tensor('mlm.output_bias'), back


def _sop(tensor: Tensor, pooled: np.ndarray) -> tuple[np.ndarray, Back]:
  kernel = tensor('sop.kernel').astype(pooled.dtype)  # [2, H]
  logits = pooled @ kernel.T + tensor('sop.bias')
  log_probs = logits - np.logaddexp(logits[:, :1], logits[:, 1:])

  def back(dy: np.ndarray, gradient: Gradient) -> np.ndarray:
    d = dy - np.exp(log_probs) * dy.sum(axis=-1, keepdims=True)
    gradient.add_product('sop.kernel', d, pooled)
    gradient.add_sum('sop.bias', d)
    return d @ kernel

  return log_probs, back


def _flat(x: np.ndarray) -> np.ndarray:
  return x.reshape(-1, x.shape[-1])


def matmul(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """Multiplies x [..., in] by a kernel [in, out] of the same or a smaller dtype, in the dtype of x."""
  if kernel.dtype == x.dtype:
    return x @ kernel
  result = np.zeros((*x.shape[:-1], kernel.shape[1]), x.dtype)
  width = min(_COLUMNS, max(_FEWEST_COLUMNS, math.ceil(kernel.shape[1] / (os.cpu_count() or 1))))

  def multiply(start: int) -> None:
    columns = slice(start, start + width)
    for row in range(0, kernel.shape[0], _ROWS):
      rows = slice(row, row + _ROWS)
      result[..., columns] += x[..., rows] @ kernel[rows, columns].astype(x.dtype)

  # These threads sleep while idle; those of a linear algebra library do not.
  for _ in _threads().map(multiply, range(0, kernel.shape[1], width)):
    pass
  return result


@functools.cache
def _threads() -> futures.ThreadPoolExecutor:
  return futures.ThreadPoolExecutor(os.cpu_count(), 'reference')


def _dense(tensor: Tensor, name: str, x: np.ndarray, kept: int | None = None) -> tuple[np.ndarray, Back]:
  kernel = tensor(f'{name}.kernel')
  own = _own(x, kept)

  def back(dy: np.ndarray, gradient: Gradient) -> np.ndarray:
    gradient.add_product(f'{name}.kernel', _flat(own), _flat(dy))
    gradient.add_sum(f'{name}.bias', _flat(dy))
    return matmul(dy, kernel.T)

  return matmul(x, kernel) + tensor(f'{name}.bias'), back


def _norm(tensor: Tensor, name: str, x: np.ndarray, kept: int | None = None) -> tuple[np.ndarray, Back]:
  centred = x - x.mean(axis=-1, keepdims=True)
  deviation = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + _EPSILON)
  normal = centred / deviation
  gamma = tensor(f'{name}.gamma')
  own, own_deviation = _own(normal, kept), _own(deviation, kept)

  def back(dy: np.ndarray, gradient: Gradient) -> np.ndarray:
    gradient.add_sum(f'{name}.gamma', _flat(dy * own))
    gradient.add_sum(f'{name}.beta', _flat(dy))
    d = dy * gamma
    return (d - d.mean(axis=-1, keepdims=True) - own * (d * own).mean(axis=-1, keepdims=True)) / own_deviation

  return normal * gamma + tensor(f'{name}.beta'), back


def _activate(activation: albert_config.Activation, x: np.ndarray, kept: int | None = None) -> tuple[np.ndarray, Back]:
  """Applies the activation to x; see `albert_config.Activation` for the formulas."""
  if activation is albert_config.Activation.GELU_TANH:
    return _gelu(x, kept)
  if activation is albert_config.Activation.GELU_EXACT:
    half = 0.5 * (1 + special.erf(x * x.dtype.type(_SQRT_HALF)))
    y = x * half
    density = np.exp(-np.square(_SQRT_HALF * x)) * (_SQRT_HALF / math.sqrt(math.pi))
    derivative = half + x * density
  elif activation is albert_config.Activation.RELU:
    y, derivative = np.maximum(x, 0), (x > 0).astype(x.dtype)
  elif activation is albert_config.Activation.SILU:
    sigmoid = special.expit(x)
    y, derivative = x * sigmoid, sigmoid * (1 + x * (1 - sigmoid))
  else:
    y = np.tanh(x)
    derivative = 1 - y * y
  own = _own(derivative, kept)
  return y, lambda dy, gradient: dy * own


def _gelu(x: np.ndarray, kept: int | None = None) -> tuple[np.ndarray, Back]:
  """Computes the tanh approximation of GELU."""
  scale, cube = _GELU_SCALE, _GELU_CUBE
  t = np.tanh(scale * (x + cube * x * x * x))
  own, own_t = _own(x, kept), _own(t, kept)

  def back(dy: np.ndarray, gradient: Gradient) -> np.ndarray:
    return dy * 0.5 * (1 + own_t + own * (1 - own_t * own_t) * scale * (1 + 3 * cube * own * own))

  return 0.5 * x * (1 + t), back


def _attention(
  tensor: Tensor,
  config: albert_config.AlbertConfig,
  prefix: str,
  x: np.ndarray,
  row: np.ndarray,
  kept: int,
  dropout: float,
) -> tuple[np.ndarray, Back]:
  """Computes attention between the tokens of each row, from x [tokens, H] to [tokens, H].

  Masked positions have weight 0. The original adds -10000 to their scores, and exp(-10000) is 0 in float32 and float64.
  """
  heads = config.num_attention_heads
  scale, x_width = float(np.float32(1 / math.sqrt(config.hidden_size // heads))), x.shape[1]
  parts, part_backs = {}, {}
  for part in ('query', 'key', 'value'):
    y, part_backs[part] = _dense(tensor, f'{prefix}attention.{part}', x, kept)
    parts[part] = y.reshape(len(x), heads, -1)
  query, key, value = parts['query'], parts['key'], parts['value']
  parts = {part: _own(y, kept) for part, y in parts.items()}
  context = np.empty_like(query)
  weights = {}
  for number in np.unique(row):
    own = row == number
    scores = np.einsum('qhd,khd->hqk', query[own], key[own]) * scale
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares = exponentials / exponentials.sum(axis=-1, keepdims=True) * x.dtype.type(dropout)
    context[own] = np.einsum('hqk,khd->qhd', shares, value[own])
    if own[:kept].any():
      weights[number] = shares
  y, output_back = _dense(tensor, f'{prefix}attention.output', context.reshape(len(x), -1), kept)

  def back(dy: np.ndarray, gradient: Gradient) -> np.ndarray:
    query, key, value = parts['query'], parts['key'], parts['value']
    d_context = output_back(dy, gradient).reshape(query.shape)
    d = {part: np.empty_like(y) for part, y in parts.items()}
    for number, w in weights.items():
      own = row[:kept] == number
      d['value'][own] = np.einsum('hqk,qhd->khd', w, d_context[own])
      d_weights = np.einsum('qhd,khd->hqk', d_context[own], value[own])
      d_scores = scale * w * (d_weights - (w * d_weights).sum(axis=-1, keepdims=True))
      d['query'][own] = np.einsum('hqk,khd->qhd', d_scores, key[own])
      d['key'][own] = np.einsum('hqk,qhd->khd', d_scores, query[own])
    return sum(
      (part_backs[part](d[part].reshape(kept, -1), gradient) for part in parts), np.zeros((kept, x_width), x.dtype)
    )

  return y, back
