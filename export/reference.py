"""ALBERT's forward pass in NumPy, in float64: what source and export are both measured against.

Written from the paper (arxiv.org/abs/1909.11942) and the canonical weights alone. It shares no code with AlbertEncoder, with
the converters' way onto it, or with the TF1 graph that made modules have.
"""

import math
from collections.abc import Callable

import numpy as np

from converters import config as config_lib

_EPSILON = 1e-12  # of every layer norm
# Kernels are float32, and turned into float64 in pieces of this many columns times rows: 64 MB.
_PIECE = 1 << 23

Tensor = Callable[[str], np.ndarray]


def encode(tensor: Tensor, config: config_lib.AlbertConfig, word_ids: np.ndarray, mask: np.ndarray,
           type_ids: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
  """Runs the encoder on the positions that are not padding.

  Args:
    tensor: gives a weight by its canonical name, float32, in canonical layout. Asked for the transformer block's once a layer.
    config: the sizes.
    word_ids, mask, type_ids: int [batch, seq]; each row begins with a position that is not masked.

  Returns:
    The outputs of all layers, a list of L float64 [tokens, H], where tokens are the positions that are not masked, row by
    row; and the pooled output [batch, H].
  """
  row, position = np.nonzero(mask)
  x = (_rows(tensor('embeddings.word'), word_ids[row, position]) + _rows(tensor('embeddings.position'), position)
       + _rows(tensor('embeddings.token_type'), type_ids[row, position]))
  x = _norm(tensor, 'embeddings.norm', x)
  if config.embedding_size != config.hidden_size:
    x = _dense(tensor, 'embeddings.projection', x)
  layers = []
  for _ in range(config.num_hidden_layers):
    x = _norm(tensor, 'attention.norm', x + _attention(tensor, config, x, row))
    inner = _gelu(_dense(tensor, 'feed_forward.intermediate', x))
    x = _norm(tensor, 'feed_forward.norm', x + _dense(tensor, 'feed_forward.output', inner))
    layers.append(x)
  first = np.searchsorted(row, np.arange(len(mask)))
  return layers, np.tanh(_dense(tensor, 'pooler', x[first]))


def mlm_logits(tensor: Tensor, sequence_output: np.ndarray, positions: np.ndarray) -> np.ndarray:
  """sequence_output [batch, seq, H], positions int [batch, P] -> float64 [batch, P, V]."""
  x = np.take_along_axis(sequence_output.astype(np.float64), positions[:, :, np.newaxis].astype(np.int64), axis=1)
  x = _norm(tensor, 'mlm.norm', _gelu(_dense(tensor, 'mlm.transform', x)))
  return x @ tensor('embeddings.word').astype(np.float64).T + tensor('mlm.output_bias')


def sop_log_probs(tensor: Tensor, pooled_output: np.ndarray) -> np.ndarray:
  """pooled_output [batch, H] -> float64 [batch, 2]."""
  logits = pooled_output.astype(np.float64) @ tensor('sop.kernel').astype(np.float64).T + tensor('sop.bias')
  return logits - np.logaddexp(logits[:, :1], logits[:, 1:])


def _rows(table: np.ndarray, ids: np.ndarray) -> np.ndarray:
  return table[ids].astype(np.float64)


def _dense(tensor: Tensor, name: str, x: np.ndarray) -> np.ndarray:
  kernel = tensor(f'{name}.kernel')
  columns = max(1, _PIECE // kernel.shape[0])
  pieces = [x @ kernel[:, i:i + columns].astype(np.float64) for i in range(0, kernel.shape[1], columns)]
  return np.concatenate(pieces, axis=-1) + tensor(f'{name}.bias')


def _norm(tensor: Tensor, name: str, x: np.ndarray) -> np.ndarray:
  centred = x - x.mean(axis=-1, keepdims=True)
  scaled = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + _EPSILON)
  return scaled * tensor(f'{name}.gamma') + tensor(f'{name}.beta')


def _gelu(x: np.ndarray) -> np.ndarray:
  """The tanh approximation."""
  return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def _attention(tensor: Tensor, config: config_lib.AlbertConfig, x: np.ndarray, row: np.ndarray) -> np.ndarray:
  """x [tokens, H], each token of which belongs to a row -> the same. A masked position gets no weight at all: the original's
  -10000 comes to that in float32 and in float64, as exp(-10000) is 0 in both."""
  depth = config.hidden_size // config.num_attention_heads
  query, key, value = (_dense(tensor, f'attention.{part}', x).reshape(len(x), -1, depth) for part in ('query', 'key', 'value'))
  context = np.empty_like(query)
  for number in np.unique(row):
    own = row == number
    scores = np.einsum('qhd,khd->hqk', query[own], key[own]) / math.sqrt(depth)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    context[own] = np.einsum('hqk,khd->qhd', weights, value[own])
  return _dense(tensor, 'attention.output', context.reshape(len(x), -1))
