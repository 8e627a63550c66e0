"""Configs of all formats: the activation of each, keys that are refused by name, and keys that are ignored."""

import json

import pytest

from converters import albert_config
from converters import errors
from converters.readers import encoder_yaml

AUTHORS = {
  'attention_probs_dropout_prob': 0,
  'hidden_act': 'gelu',
  'hidden_dropout_prob': 0,
  'embedding_size': 8,
  'hidden_size': 16,
  'initializer_range': 0.02,
  'intermediate_size': 32,
  'max_position_embeddings': 64,
  'num_attention_heads': 2,
  'num_hidden_layers': 4,
  'num_hidden_groups': 1,
  'net_structure_type': 0,
  'layers_to_keep': [],
  'gap_size': 0,
  'num_memory_blocks': 0,
  'inner_group_num': 1,
  'down_scale_factor': 1,
  'type_vocab_size': 2,
  'vocab_size': 200,
}
HUGGING_FACE = AUTHORS | {'model_type': 'albert', 'hidden_act': 'gelu_new'}
Act = albert_config.Activation


@pytest.fixture
def read(tmp_path):
  def read(reader, values, **options):
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(values))
    return reader(path, **options)

  return read


@pytest.mark.parametrize(
  'name, authors, hugging_face',
  [
    ('gelu', Act.GELU_TANH, Act.GELU_EXACT),
    ('gelu_new', Act.GELU_TANH, Act.GELU_TANH),
    ('gelu_pytorch_tanh', Act.GELU_TANH, Act.GELU_TANH),
    ('gelu_python_tanh', Act.GELU_TANH, Act.GELU_TANH),
    ('gelu_fast', Act.GELU_TANH, Act.GELU_TANH),
    ('relu', Act.RELU, Act.RELU),
    ('swish', Act.SILU, Act.SILU),
    ('silu', Act.SILU, Act.SILU),
    ('tanh', Act.TANH, Act.TANH),
  ],
)
def test_a_name_means_what_the_format_computes(read, name, authors, hugging_face):
  assert read(albert_config.read, AUTHORS | {'hidden_act': name}).activation is authors
  found = read(albert_config.read_hugging_face, HUGGING_FACE | {'hidden_act': name})
  assert found.activation is hugging_face
  assert albert_config.as_hugging_face(found)['hidden_act'] in (name, 'gelu_new', 'silu')


def test_the_flag_replaces_the_activation(read):
  values = HUGGING_FACE | {'hidden_act': 'gelu_10'}
  with pytest.raises(
    errors.ConfigError, match=r"config.json: hidden_act is 'gelu_10', not one of .*; give option activation"
  ):
    read(albert_config.read_hugging_face, values)
  assert read(albert_config.read_hugging_face, values, activation=Act.RELU).activation is Act.RELU


def test_defaults_of_each_format(read):
  without = {key: value for key, value in AUTHORS.items() if key != 'hidden_act'}
  assert read(albert_config.read, without).activation is Act.GELU_TANH
  assert read(albert_config.read_hugging_face, without | {'model_type': 'albert'}).activation is Act.GELU_TANH


@pytest.mark.parametrize(
  'key, value',
  [
    ('ln_type', 'preln'),
    ('position_embedding_type', 'relative_key'),
    ('is_decoder', True),
    ('add_cross_attention', True),
    ('tie_word_embeddings', False),
    ('layer_norm_eps', 1e-5),
    ('pruned_heads', {'0': [1]}),
    ('quantization_config', {'bits': 8}),
    ('share_parameter_across_layers', False),
    ('net_structure_type', 1),
    ('is_decoder', 0),
  ],
)
def test_a_key_that_changes_the_computation_is_refused_by_name(read, key, value):
  with pytest.raises(errors.ConfigError, match=rf'config.json: {key} is .*, not .* \(the only supported value\); '):
    read(albert_config.read_hugging_face, HUGGING_FACE | {key: value})


# Keys that Transformers 2 to 5, forks and tools of BERT write; no ALBERT computes with them.
IGNORED = {
  'classifier_dropout': 0.1,
  'bad_words_ids': None,
  '_num_labels': 2,
  'sep_token_id': 3,
  'directionality': 'bidi',
  'pooler_fc_size': 768,
  'torch_dtype': 'float16',
  'use_bfloat16': False,
  'output_past': True,
  'eos_token_ids': 3,
  'finetuning_task': 'sst-2',
  'id2label': {'0': 'a'},
}


def test_other_keys_are_ignored_and_listed(read):
  found = read(albert_config.read_hugging_face, HUGGING_FACE | IGNORED)
  assert found.ignored == tuple(sorted(IGNORED)) and found == read(albert_config.read_hugging_face, HUGGING_FACE)
  assert read(albert_config.read, AUTHORS | IGNORED).ignored == tuple(sorted(IGNORED))


def test_groups_and_blocks_of_layers(read):
  found = read(albert_config.read, AUTHORS | {'num_hidden_groups': 2, 'inner_group_num': 2})
  assert found.block_of_layer == [0, 1, 0, 1, 2, 3, 2, 3]
  assert read(albert_config.read, AUTHORS).block_of_layer == [0, 0, 0, 0]
  # 49 layers in 49 groups: in floating point, layer 1 is in group 0 (github.com/google-research/albert, modeling.py).
  assert int(1 / 49 * 49) == 0
  with pytest.raises(errors.ConfigError, match='49 layers in 49 groups, which implementations divide differently'):
    read(albert_config.read, AUTHORS | {'num_hidden_groups': 49, 'num_hidden_layers': 49})


@pytest.mark.parametrize('activation', list(Act))
def test_written_configs_are_read_as_they_were(read, tmp_path, activation):
  config = read(albert_config.read, AUTHORS, activation=activation)
  path = tmp_path / 'albert_config.json'
  path.write_text(albert_config.authors_text(config, lower_case=False, keep_accents=True))
  again = albert_config.read(path)
  assert again == config and again.tokenizer == {'lower_case': False, 'keep_accents': True} and again.ignored == ()
  assert albert_config.parse(config.as_json()) == config
  if activation in encoder_yaml.ACTIVATIONS:
    path.write_text(encoder_yaml.text(config))
    assert encoder_yaml.read(path) == config


def test_a_yaml_with_aliases_is_refused(tmp_path):
  path = tmp_path / 'encoder.yaml'
  path.write_text('type: albert\nalbert: &a {vocab_size: 1}\nother: *a\n')
  with pytest.raises(
    errors.ConfigError, match=r'encoder.yaml: not the config of an AlbertEncoder \(YAMLError: aliases '
  ):
    encoder_yaml.read(path)


@pytest.mark.parametrize('name', ['GELU', 'ReLU', 'Swish'])
def test_the_authors_read_a_name_in_any_case(read, name):
  found = read(albert_config.read, AUTHORS | {'hidden_act': name})
  assert found == read(albert_config.read, AUTHORS | {'hidden_act': name.lower()})
  with pytest.raises(errors.ConfigError, match=f"hidden_act is '{name}', not one of"):
    read(albert_config.read_hugging_face, HUGGING_FACE | {'hidden_act': name})
