"""What a model's sizes alone say: parameters, and floating-point operations of a forward pass."""

from converters import albert_config
from converters import weight_map

# Published, and so those that there are goals for; and small ones, to try a benchmark itself.
PUBLISHED = ('base', 'large', 'xlarge', 'xxlarge')
SMALL = ('tiny', 'demo')


def parameters(config: albert_config.AlbertConfig) -> int:
  """Of the encoder and both heads."""
  return weight_map.parameters(config, weight_map.Part)


def forward_flops(config: albert_config.AlbertConfig, batch: int, length: int) -> int:
  """Operations of all matrix products of the encoder and its pooler, a multiplication and an addition being two."""
  hidden = config.hidden_size
  attention = 2 * length * hidden  # scores, and what they weigh
  embedding = config.embedding_size * hidden if config.embedding_size != hidden else 0
  token = config.num_hidden_layers * attention + embedding
  return kernel_flops(config, batch, length) + 2 * batch * (length * token + hidden * hidden)


def kernel_flops(config: albert_config.AlbertConfig, batch: int, length: int) -> int:
  """Of the products with the layers' kernels alone."""
  hidden = config.hidden_size
  projections = 4 * hidden * hidden + 2 * hidden * config.intermediate_size  # query, key, value, output; feed-forward
  return 2 * batch * length * config.num_hidden_layers * projections
