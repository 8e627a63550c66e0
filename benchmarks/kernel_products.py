"""The unavoidable part of an encoder's inference: the matrix products with the layers' kernels, alone."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from converters import albert_config

# Ways to multiply tokens [batch, seq, in] with a kernel [in, out] in TensorFlow.
WAYS: dict[str, Callable[[Any, Any], Any]] = {
  'rows': lambda x, kernel: tf.reshape(
    tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), kernel), [*x.shape[:-1], kernel.shape[-1]]
  ),
  'batches': tf.matmul,
  'einsum': lambda x, kernel: tf.einsum('bsi,io->bso', x, kernel),
}


def make_kernels(config: albert_config.AlbertConfig) -> list[tf.Variable]:
  """Makes the random kernels of one layer, scaled to keep the magnitude of a tensor."""
  width, inner = config.hidden_size, config.intermediate_size
  shapes = [*[(width, width)] * 4, (width, inner), (inner, width)]
  return [
    tf.Variable(tf.random.stateless_normal(shape, [0, number], stddev=shape[0] ** -0.5))
    for number, shape in enumerate(shapes)
  ]


def products(kernels: list[tf.Variable], layers: int, shape: tuple[int, int], way: str) -> Callable[[], Any]:
  """Traces the products of some layers, and returns a function that runs them.

  A layer multiplies the same tokens with the query, key and value kernels, and the result with the other kernels.

  Args:
    kernels: kernels from `make_kernels`, shared by all layers.
    layers: number of layers.
    shape: batch size and number of tokens.
    way: key of `WAYS`.
  """
  multiply = WAYS[way]
  tokens = tf.random.stateless_normal([*shape, kernels[0].shape[0]], [1, 0])

  @tf.function(autograph=False)
  def run() -> Any:
    query, key, value, *others = [kernel.read_value() for kernel in kernels]
    x = tokens
    unused = []  # returned, since TensorFlow prunes products without a use
    for _ in range(layers):
      unused += [multiply(x, query), multiply(x, key)]
      x = multiply(x, value)
      for kernel in others:
        x = multiply(x, kernel)
    return x, unused

  traced = run.get_concrete_function()  # functions of a loaded SavedModel are traced as well
  return lambda: traced()[0].numpy()
