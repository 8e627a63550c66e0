"""What an encoder's inference cannot do without: its layers' products with kernels, and nothing of what else a layer is."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from converters import albert_config

# How TensorFlow can multiply tokens, of rows, with a kernel.
WAYS: dict[str, Callable[[Any, Any], Any]] = {
  'rows': lambda x, kernel: tf.reshape(
    tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), kernel), [*x.shape[:-1], kernel.shape[-1]]
  ),
  'batches': tf.matmul,
  'einsum': lambda x, kernel: tf.einsum('bsi,io->bso', x, kernel),
}


def make_kernels(config: albert_config.AlbertConfig) -> list[tf.Variable]:
  """Those of a layer, random, which leave a tensor about as large as it was."""
  width, inner = config.hidden_size, config.intermediate_size
  shapes = [*[(width, width)] * 4, (width, inner), (inner, width)]
  return [
    tf.Variable(tf.random.stateless_normal(shape, [0, number], stddev=shape[0] ** -0.5))
    for number, shape in enumerate(shapes)
  ]


def products(kernels: list[tf.Variable], layers: int, shape: tuple[int, int], way: str) -> Callable[[], Any]:
  """Something to call, already traced: query, key and value of the same tokens, then one product after the other, for so many layers.

  Args:
    kernels: from `make_kernels`.
    layers: how many are run; the kernels are the same in all.
    shape: batch and tokens.
    way: of `WAYS`.
  """
  multiply = WAYS[way]
  tokens = tf.random.stateless_normal([*shape, kernels[0].shape[0]], [1, 0])

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
