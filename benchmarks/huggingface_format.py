"""An encoder's weights as Hugging Face's AlbertModel loads them: config.json and model.safetensors."""

import json
import pathlib

import numpy as np

from converters import config as config_lib
from converters import source as source_lib
from converters import weight_map

_LAYER = 'encoder.albert_layer_groups.0.albert_layers.0'
# From canonical names, without what follows the last dot.
_MODULES = {
    'embeddings.norm': 'embeddings.LayerNorm',
    'embeddings.projection': 'encoder.embedding_hidden_mapping_in',
    'attention.query': f'{_LAYER}.attention.query',
    'attention.key': f'{_LAYER}.attention.key',
    'attention.value': f'{_LAYER}.attention.value',
    'attention.output': f'{_LAYER}.attention.dense',
    'attention.norm': f'{_LAYER}.attention.LayerNorm',
    'feed_forward.intermediate': f'{_LAYER}.ffn',
    'feed_forward.output': f'{_LAYER}.ffn_output',
    'feed_forward.norm': f'{_LAYER}.full_layer_layer_norm',
    'pooler': 'pooler',
}
_LEAVES = {'kernel': 'weight', 'bias': 'bias', 'gamma': 'weight', 'beta': 'bias'}


def name(row: weight_map.Row) -> str:
  """The AlbertModel parameter that a tensor of the encoder becomes."""
  module, leaf = row.name.rsplit('.', 1)
  return f'embeddings.{leaf}_embeddings.weight' if module == 'embeddings' else f'{_MODULES[module]}.{_LEAVES[leaf]}'


def config(of: config_lib.AlbertConfig) -> dict[str, object]:
  """config.json. What TF1 calls gelu is the approximation with tanh."""
  return {
      'model_type': 'albert', 'architectures': ['AlbertModel'], 'hidden_act': 'gelu_new', 'layer_norm_eps': 1e-12, 'inner_group_num': 1,
      'num_hidden_groups': 1, 'vocab_size': of.vocab_size, 'embedding_size': of.embedding_size, 'hidden_size': of.hidden_size,
      'num_hidden_layers': of.num_hidden_layers, 'num_attention_heads': of.num_attention_heads, 'intermediate_size': of.intermediate_size,
      'max_position_embeddings': of.max_position_embeddings, 'type_vocab_size': of.type_vocab_size, 'hidden_dropout_prob': 0,
      'attention_probs_dropout_prob': 0, 'classifier_dropout_prob': 0}


def write(directory: pathlib.Path, source: source_lib.Source) -> None:
  """Writes both files into a directory."""
  (directory / 'config.json').write_text(json.dumps(config(source.config), indent=2) + '\n', encoding='utf-8')
  _write_safetensors(directory / 'model.safetensors', source)


def _write_safetensors(path: pathlib.Path, source: source_lib.Source) -> None:
  """A length, a header in JSON, and the tensors one after the other: too little to install a library for."""
  rows = weight_map.rows(source.config, [weight_map.Part.ENCODER])
  header: dict[str, object] = {'__metadata__': {'format': 'pt'}}
  end = 0
  for row in rows:
    shape = weight_map.shape(row.shape, source.config)
    start, end = end, end + 4 * int(np.prod(shape))
    # PyTorch's Linear keeps its kernel as [out, in].
    header[name(row)] = {'dtype': 'F32', 'shape': shape[::-1] if row.name.endswith('.kernel') else shape, 'data_offsets': [start, end]}
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)
  with path.open('wb') as file:
    file.write(len(text).to_bytes(8, 'little') + text)
    for row in rows:
      value = source.tensor(row)
      file.write(np.ascontiguousarray(value.T if row.name.endswith('.kernel') else value, '<f4').tobytes())
