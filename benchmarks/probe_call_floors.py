"""Times what loading and calling an encoder cannot do without, and prints one line of JSON.

  python -m benchmarks.probe_call_floors ENCODER MODULE

Loading: reading the variables, in one operation. Calling: the layers' products with kernels alone, by the fastest of TensorFlow's kernels, and
nothing of what else a layer is; some layers are run, and the others taken to take as long. The first call: a steady one, and what the first run of
one layer's products takes longer than a steady one.
"""

import argparse
import functools
import json
import pathlib
import statistics
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_hub as hub

from benchmarks import probe_encoder
from benchmarks import sizes
from benchmarks import timing
from converters import config as config_lib

_LAYERS = 4  # that are run: the kernels are the same in all

# How TensorFlow can multiply tokens, of rows, with a kernel.
_WAYS: dict[str, Callable[[Any, Any], Any]] = {
    'rows': lambda x, kernel: tf.reshape(tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), kernel), [*x.shape[:-1], kernel.shape[-1]]),
    'batches': tf.matmul,
    'einsum': lambda x, kernel: tf.einsum('bsi,io->bso', x, kernel),
}


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('encoder')
  parser.add_argument('module', type=pathlib.Path)
  arguments = parser.parse_args()
  config = config_lib.read(arguments.module / 'assets/albert_config.json')
  prefix = f'{arguments.encoder}/variables/variables'
  names = [name for name, dtype in tf.train.load_checkpoint(prefix).get_variable_to_dtype_map().items() if dtype == tf.float32]
  figures = {'load': timing.timed(lambda: tf.raw_ops.RestoreV2(
      prefix=prefix, tensor_names=names, shape_and_slices=[''] * len(names), dtypes=[tf.float32] * len(names)))}

  kernels = _kernels(config)
  one_layer = _products(config, kernels, 1, timing.FIRST, 'rows')
  first = timing.timed(one_layer)
  encoder = hub.load(arguments.encoder)
  batch = probe_encoder.make_batch(config.vocab_size, timing.FIRST)
  steady = timing.steady(functools.partial(probe_encoder.call_encoder, encoder, batch))
  figures['first_call'] = steady + max(first - timing.steady(one_layer, 2.0), 0.0)
  del encoder

  for shape in timing.SHAPES:
    peaks = probe_encoder.large_matmul() if shape == timing.SHAPES[-1] else []
    figures[f'steady_{timing.name(shape)}'] = _steady(config, kernels, shape)
    if peaks:
      peaks += probe_encoder.large_matmul()
      figures['matmul_flops'] = probe_encoder.LARGE_MATMUL_FLOPS / statistics.median(peaks)
      figures['inference_flops'] = sizes.kernel_flops(config, *shape) / figures[f'steady_{timing.name(shape)}']
  print(json.dumps(figures))


def _steady(config: config_lib.AlbertConfig, kernels: list[tf.Variable], shape: tuple[int, int]) -> float:
  """Seconds of all layers' products, by the fastest way for this shape."""
  return min(timing.steady_in_turns([_products(config, kernels, _LAYERS, shape, way) for way in _WAYS])) * config.num_hidden_layers / _LAYERS


def _kernels(config: config_lib.AlbertConfig) -> list[tf.Variable]:
  """Those of a layer, which leave a tensor about as large as it was."""
  width, inner = config.hidden_size, config.intermediate_size
  shapes = [*[(width, width)] * 4, (width, inner), (inner, width)]
  return [tf.Variable(tf.random.stateless_normal(shape, [0, number], stddev=shape[0]**-0.5)) for number, shape in enumerate(shapes)]


def _products(config: config_lib.AlbertConfig, kernels: list[tf.Variable], layers: int, shape: tuple[int, int], way: str) -> Callable[[], Any]:
  """Something to call, already traced: query, key and value of the same tokens, then one product after the other, for so many layers."""
  multiply = _WAYS[way]
  tokens = tf.random.stateless_normal([*shape, config.hidden_size], [1, 0])

  @tf.function(autograph=False)
  def run() -> Any:
    query, key, value, *others = [kernel.read_value() for kernel in kernels]
    x = tokens
    unused = []  # they are returned, or nobody would compute them
    for _ in range(layers):
      unused += [multiply(x, query), multiply(x, key)]
      x = multiply(x, value)
      for kernel in others:
        x = multiply(x, kernel)
    return x, unused
  traced = run.get_concrete_function()  # what is loaded from a SavedModel is
  return lambda: traced()[0].numpy()


if __name__ == '__main__':
  main()
