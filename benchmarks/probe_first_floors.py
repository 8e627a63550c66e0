"""Times the unavoidable work of loading an encoder and of its first call, and prints one line of JSON.

  python -m benchmarks.probe_first_floors ENCODER MODULE

The floor of loading is reading the variables in one operation. The floor of the first call is a steady call, plus the
extra time of the first run of one layer's products. Needs TF_USE_LEGACY_KERAS=1.
"""

import argparse
import functools
import json
import pathlib

import tensorflow as tf
import tensorflow_hub as hub

from benchmarks import encoders
from benchmarks import kernel_products
from benchmarks import timing
from converters import albert_config


def main() -> None:
  """Prints the floors of loading and of the first call, in seconds."""
  parser = argparse.ArgumentParser()
  parser.add_argument('encoder')
  parser.add_argument('module', type=pathlib.Path)
  arguments = parser.parse_args()
  config = albert_config.read(arguments.module / 'assets/albert_config.json')
  prefix = f'{arguments.encoder}/variables/variables'
  names = [
    name for name, dtype in tf.train.load_checkpoint(prefix).get_variable_to_dtype_map().items() if dtype == tf.float32
  ]
  figures = {
    'load': timing.timed(
      lambda: tf.raw_ops.RestoreV2(
        prefix=prefix, tensor_names=names, shape_and_slices=[''] * len(names), dtypes=[tf.float32] * len(names)
      )
    )
  }
  one_layer = kernel_products.products(kernel_products.make_kernels(config), 1, timing.FIRST, 'rows')
  first = timing.timed(one_layer)
  encoder = hub.load(arguments.encoder)
  batch = encoders.make_batch(config.vocab_size, timing.FIRST)
  figures['first_call'] = timing.steady(functools.partial(encoders.call, encoder, batch)) + max(
    first - timing.steady(one_layer, 2.0), 0.0
  )
  print(json.dumps(figures))


if __name__ == '__main__':
  main()
