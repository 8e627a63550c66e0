"""Counts a model's parameters and the floating-point operations of its forward pass."""

from converters import albert_config
from converters import weight_map

# The goals are for published sizes. Small sizes are for trial runs of the benchmark.
PUBLISHED = ('base', 'large', 'xlarge', 'xxlarge')
SMALL = ('tiny', 'demo')


def parameters(config: albert_config.AlbertConfig) -> int:
  """Counts the parameters of the encoder and both heads."""
  return weight_map.parameters(config, weight_map.Part)


def forward_flops(config: albert_config.AlbertConfig, batch: int, length: int) -> int:
  """Counts the operations of all matrix products of encoder and pooler. A multiply-add counts as two operations."""
  hidden = config.hidden_size
  attention = 2 * length * hidden  # scores, and the weighted sum of values
  embedding = config.embedding_size * hidden if config.embedding_size != hidden else 0
  token = config.num_hidden_layers * attention + embedding
  return kernel_flops(config, batch, length) + 2 * batch * (length * token + hidden * hidden)


def kernel_flops(config: albert_config.AlbertConfig, batch: int, length: int) -> int:
  """Counts the operations of the products with the layers' kernels."""
  hidden = config.hidden_size
  projections = 4 * hidden * hidden + 2 * hidden * config.intermediate_size  # query, key, value, output; feed-forward
  return 2 * batch * length * config.num_hidden_layers * projections
