"""Times an encoder's SavedModel, whoever made it, and prints one line of JSON.

  python -m benchmarks.probe_encoder PATH --vocab_size=30000 --outputs=FILE.npy

hub.load; the first call and steady ones of what it returns, called as it is; then the first training step and steady ones through
hub.KerasLayer(PATH, trainable=True); and a large matmul, to hold the inference against. Needs TF_USE_LEGACY_KERAS=1.
"""

import argparse
import functools
import json
import statistics
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras

from benchmarks import timing

_MATMUL = 4096  # rows and columns
LARGE_MATMUL_FLOPS = 2 * _MATMUL**3
_INPUTS = ('input_word_ids', 'input_mask', 'input_type_ids')


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('path')
  parser.add_argument('--vocab_size', type=int, required=True)
  parser.add_argument('--outputs', required=True)
  arguments = parser.parse_args()
  print(json.dumps(_inference(arguments.path, arguments.vocab_size, arguments.outputs) | _training(arguments.path, arguments.vocab_size)))


Encoder = Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]


def _inference(path: str, vocab_size: int, outputs: str) -> dict[str, float]:
  loaded = []
  figures = {'load': timing.timed(lambda: loaded.append(hub.load(path)))}
  encoder = loaded.pop()
  first = make_batch(vocab_size, timing.FIRST)
  figures['first_call'] = timing.timed(functools.partial(call_encoder, encoder, first))
  np.save(outputs, encoder(first)['sequence_output'].numpy())
  for shape in timing.SHAPES[:-1]:
    batch = make_batch(vocab_size, shape)
    figures[f'steady_{timing.name(shape)}'] = timing.steady(functools.partial(call_encoder, encoder, batch))
  # Before and after what is held against it: a machine's speed changes.
  peaks = large_matmul()
  batch = make_batch(vocab_size, timing.SHAPES[-1])
  figures[f'steady_{timing.name(timing.SHAPES[-1])}'] = timing.steady(functools.partial(call_encoder, encoder, batch))
  peaks += large_matmul()
  return figures | {'matmul_flops': LARGE_MATMUL_FLOPS / statistics.median(peaks)}


def call_encoder(encoder: Encoder, batch: dict[str, tf.Tensor]) -> None:
  encoder(batch)['pooled_output'].numpy()


def _training(path: str, vocab_size: int) -> dict[str, float]:
  inputs = {name: tf_keras.layers.Input(shape=(None,), dtype=tf.int32, name=name) for name in _INPUTS}
  pooled = hub.KerasLayer(path, trainable=True)(inputs)['pooled_output']
  model = tf_keras.Model(inputs, tf_keras.layers.Dense(2)(pooled))
  # Plain descent: an optimizer with slots would add the same to everybody's time and memory.
  model.compile(tf_keras.optimizers.SGD(1e-3), tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
  batch = make_batch(vocab_size, timing.FIRST), tf.range(timing.FIRST[0]) % 2
  # Not train_on_batch: it makes a tf.data iterator, and waits at the end for a thread of it that sleeps for up to 5 s.
  batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
  train = model.make_train_function()

  def step() -> None:
    train(batches)['loss'].numpy()
  return {'first_step': timing.timed(step), 'steady_step': timing.steady(step)}


def make_batch(vocab_size: int, shape: tuple[int, int]) -> dict[str, tf.Tensor]:
  return dict(zip(_INPUTS, map(tf.constant, timing.tokens(vocab_size, shape)), strict=True))


def large_matmul() -> list[float]:
  """Seconds of a few products of two matrices of float32."""
  one = tf.random.stateless_normal([_MATMUL, _MATMUL], [0, 0])
  seconds = [timing.timed(lambda: tf.matmul(one, one)) for _ in range(4)]  # on a processor, done when the call returns
  return seconds[1:]


if __name__ == '__main__':
  main()
