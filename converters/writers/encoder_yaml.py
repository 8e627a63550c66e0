"""The YAML that tf-models configures its AlbertEncoder by. Takes no TensorFlow."""

from converters import albert_config

# Of official.nlp.configs.encoders.AlbertEncoderConfig, with the attribute of albert_config.json that it is.
_FIELDS = {
  'vocab_size': 'vocab_size',
  'hidden_size': 'hidden_size',
  'num_layers': 'num_hidden_layers',
  'num_attention_heads': 'num_attention_heads',
  'intermediate_size': 'intermediate_size',
  'embedding_width': 'embedding_size',
  'max_position_embeddings': 'max_position_embeddings',
  'type_vocab_size': 'type_vocab_size',
  'dropout_rate': 'hidden_dropout_prob',
  'attention_dropout_rate': 'attention_probs_dropout_prob',
}
NAME = 'encoder.yaml'


def text(config: albert_config.AlbertConfig) -> str:
  """What `--encoder_config_file` of tf-models' tools, and `model.encoder` of its experiments, take."""
  lines = ['type: albert', 'albert:', '  hidden_activation: gelu', '  initializer_range: 0.02']
  return '\n'.join(lines + [f'  {theirs}: {_number(getattr(config, name))}' for theirs, name in _FIELDS.items()]) + '\n'


def _number(value: float) -> str:
  """As YAML 1.1 knows one: 5e-05 would be text."""
  text = repr(value)
  return text if '.' in text else text.replace('e', '.0e')
