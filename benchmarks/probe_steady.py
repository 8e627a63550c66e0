"""Times steady calls of encoders' SavedModels in turns in one process, and prints one line of JSON.

  python -m benchmarks.probe_steady MODULE PATH...

Separate processes would differ by chance more than the encoders do. The same turns have two baselines of the inference:
the products that every encoder needs, and a large matmul. Needs TF_USE_LEGACY_KERAS=1.
"""

import argparse
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_hub as hub

from benchmarks import encoders
from benchmarks import kernel_products
from benchmarks import sizes
from benchmarks import timing
from converters import albert_config

_MATMUL = 4096  # rows and columns
_LAYERS = 4  # layers whose products are run; the time is scaled to all layers


def main() -> None:
  """Prints the seconds of a call at each shape, and rates in floating-point operations per second."""
  parser = argparse.ArgumentParser()
  parser.add_argument('module', type=pathlib.Path)
  parser.add_argument('paths', nargs='+')
  parser.add_argument('--seconds', type=float, default=timing.SECONDS, help='time for each encoder and shape')
  arguments = parser.parse_args()
  config = albert_config.read(arguments.module / 'assets/albert_config.json')
  loaded = [hub.load(path) for path in arguments.paths]
  kernels = kernel_products.make_kernels(config)
  matrix = tf.random.stateless_normal([_MATMUL, _MATMUL], [0, 0])
  figures: list[dict[str, float]] = [{} for _ in (*loaded, 'products')]
  for shape in timing.SHAPES:
    batch = encoders.make_batch(config.vocab_size, shape)
    calls: list[Callable[[], Any]] = [functools.partial(encoders.call, encoder, batch) for encoder in loaded]
    calls += [kernel_products.products(kernels, _LAYERS, shape, way) for way in kernel_products.WAYS]
    last = shape == timing.SHAPES[-1]
    if last:
      calls.append(lambda: tf.matmul(matrix, matrix))  # on a CPU, the product is computed when the call returns
    seconds = timing.steady_in_turns(calls, arguments.seconds)
    products = min(seconds[len(loaded) :][: len(kernel_products.WAYS)]) * config.num_hidden_layers / _LAYERS
    operations = [*[sizes.forward_flops(config, *shape)] * len(loaded), sizes.kernel_flops(config, *shape)]
    for found, taken, count in zip(figures, [*seconds[: len(loaded)], products], operations, strict=True):
      found[f'steady_{timing.name(shape)}'] = taken
      if last:
        found |= {'inference_flops': count / taken, 'matmul_flops': 2 * _MATMUL**3 / seconds[-1]}
  print(json.dumps({'figures': figures[:-1], 'products': figures[-1]}))


if __name__ == '__main__':
  main()
