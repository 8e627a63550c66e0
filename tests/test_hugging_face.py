"""Hugging Face's format: written and read without changing a bit of a tensor, and refused if invalid."""

import json
import os
import shutil
import tarfile

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from converters import errors
from converters import source as source_lib
from converters import tokenization
from converters import weight_map
from converters.writers import hugging_face as hugging_face_writer


def write(module, directory, architecture=None, parts=None):
  directory.mkdir(parents=True)
  with source_lib.open_source(str(module)) as source:
    if parts is not None:
      source.parts = frozenset(parts)
    left = hugging_face_writer.write(source, directory, architecture=architecture)
  return directory, left


@pytest.fixture(scope='module')
def model(module, tmp_path_factory):
  """A model by `python -m converters`, with both heads. Not to be changed."""
  return write(module, tmp_path_factory.mktemp('hugging_face') / 'albert')[0]


@pytest.fixture
def own(model, tmp_path):
  return shutil.copytree(model, tmp_path / 'own')


def _change(directory, change):
  """Rewrites the weights."""
  tensors = safetensors_numpy.load_file(directory / 'model.safetensors')
  change(tensors)
  safetensors_numpy.save_file(tensors, directory / 'model.safetensors')


def _shard(directory):
  tensors = safetensors_numpy.load_file(directory / 'model.safetensors')
  (directory / 'model.safetensors').unlink()
  names = sorted(tensors)
  places = {}
  for number, part in enumerate((names[::2], names[1::2]), start=1):
    file = f'model-0000{number}-of-00002.safetensors'
    safetensors_numpy.save_file({name: tensors[name] for name in part}, directory / file)
    places |= dict.fromkeys(part, file)
  index = directory / 'model.safetensors.index.json'
  index.write_text(json.dumps({'metadata': {'total_size': 1}, 'weight_map': places}))
  return index


def _edit_config(**changes):
  def edit(path):
    values = json.loads((path / 'config.json').read_text()) | changes
    (path / 'config.json').write_text(json.dumps({key: value for key, value in values.items() if value is not None}))

  return edit


def _assert_same(one, other):
  with source_lib.open_source(str(one)) as a, source_lib.open_source(str(other)) as b:
    assert a.config == b.config and a.parts == b.parts and a.sp_model == b.sp_model
    rows = weight_map.rows(a.config, a.parts)
    for row in rows:
      x, y = a.tensor(row), b.tensor(row)
      assert x.dtype == y.dtype == np.float32 and x.tobytes() == y.tobytes(), row.name
    return a, b


def test_digest_is_of_the_model_wherever_it_lies(model, tmp_path):
  shutil.copytree(model, tmp_path / 'around/albert')
  with source_lib.open_source(str(model)) as source:
    reading = source_lib.Reading(sha256=source.digest)
  with source_lib.open_source(str(tmp_path / 'around'), reading) as source:
    assert source.path == tmp_path / 'around/albert'


@pytest.mark.parametrize('spec', [{}, {'embedding_size': 16}, {'hidden_dropout': 0.1}], ids=str)
def test_there_and_back_is_the_identity(make_module, tmp_path, spec):
  module = make_module(**spec)
  directory, left = write(module, tmp_path / 'albert')
  assert left == []
  _assert_same(module, directory)


def test_names_and_layout_are_those_of_the_class(model, source):
  config = json.loads((model / 'config.json').read_text())
  assert (
    config['architectures'] == ['AlbertForPreTraining']
    and config['hidden_act'] == 'gelu_new'
    and config['layer_norm_eps'] == 1e-12
  )
  tensors = safetensors_numpy.load_file(model / 'model.safetensors')
  rows = weight_map.rows(source.config, source.parts)
  assert set(tensors) == {row.hugging_face for row in rows}
  kernel = next(row for row in rows if row.name == 'feed_forward.intermediate.kernel')
  assert np.array_equal(tensors[kernel.hugging_face], source.tensor(kernel).T)


def test_encoder_alone_has_the_names_of_AlbertModel(module, tmp_path):
  directory, left = write(module, tmp_path / 'albert', 'AlbertModel')
  assert left == ['the masked language model head', 'the sentence order head']
  assert not any(name.startswith('albert.') for name in safetensors_numpy.load_file(directory / 'model.safetensors'))
  with source_lib.open_source(str(directory)) as source, source_lib.open_source(str(module)) as original:
    assert source.parts == {weight_map.Part.ENCODER}
    for row in weight_map.rows(source.config, source.parts):
      assert np.array_equal(source.tensor(row), original.tensor(row)), row.name


def test_masked_lm_has_no_pooler(module, tmp_path):
  directory, left = write(module, tmp_path / 'albert', 'AlbertForMaskedLM')
  assert left == ['the sentence order head', 'the pooler']
  names = set(safetensors_numpy.load_file(directory / 'model.safetensors'))
  assert 'predictions.bias' in names and not any('pooler' in name or 'sop' in name for name in names)


@pytest.mark.parametrize(
  'parts, architecture, left',
  [
    ((weight_map.Part.ENCODER,), 'AlbertModel', []),
    ((weight_map.Part.ENCODER, weight_map.Part.MLM), 'AlbertModel', ['the masked language model head']),
    ((weight_map.Part.ENCODER, weight_map.Part.SOP), 'AlbertModel', ['the sentence order head']),
    (tuple(weight_map.Part), 'AlbertForPreTraining', []),
  ],
  ids=lambda value: value if isinstance(value, str) else '',
)
def test_default_is_the_largest_class_that_the_source_fills(module, tmp_path, parts, architecture, left):
  directory, found = write(module, tmp_path / 'albert', parts=parts)
  assert found == left and json.loads((directory / 'config.json').read_text())['architectures'] == [architecture]


def test_class_that_the_source_does_not_fill(module, tmp_path):
  with pytest.raises(
    errors.SourceError, match='no masked language model head, but AlbertForMaskedLM .*option architecture'
  ):
    write(module, tmp_path / 'albert', 'AlbertForMaskedLM', [weight_map.Part.ENCODER])


def test_card(model, source):
  card = (model / 'README.md').read_text()
  assert (
    source.digest.removeprefix('sha256:') in card
    and 'weights of a TF1 Hub module' in card
    and 'AlbertForPreTraining' in card
  )
  assert '{{' not in card and '{%' not in card


def test_card_states_the_setting_and_no_english_facts(module, tmp_path):
  with source_lib.open_source(str(module)) as source:
    source.tokenization = tokenization.Tokenization(False, True, 'option lower_case=False, option keep_accents=True')
    hugging_face_writer.write(source, tmp_path)
  card = (tmp_path / 'README.md').read_text()
  assert (
    'letter case kept, accents kept. This setting is\nfrom: option lower_case=False, option keep_accents=True.' in card
  )
  assert 'NFKD' not in card and 'sigma' not in card and '["1 + 1 = 2", "2 + 2 = 4"]' in card


def test_layout_of_the_published_models(own, module):
  """albert-base-v2 and the like: AlbertForMaskedLM, saved when that class still had a pooler."""

  def change(tensors):
    for name in [name for name in tensors if name.startswith('sop_classifier.')]:
      del tensors[name]

  _change(own, change)
  with source_lib.open_source(str(own)) as source, source_lib.open_source(str(module)) as original:
    assert source.parts == {weight_map.Part.ENCODER, weight_map.Part.MLM}
    assert source_lib.missing_heads(source) == ['no sentence order head']
    for row in weight_map.rows(source.config, source.parts):
      assert np.array_equal(source.tensor(row), original.tensor(row)), row.name


def test_config_of_an_early_version(own, module):
  _edit_config(
    output_past=True,
    pruned_heads={},
    torchscript=False,
    num_beams=1,
    down_scale_factor=1,
    net_structure_type=0,
    gap_size=0,
    num_memory_blocks=0,
    layers_to_keep=[],
    _name_or_path='albert-base-v2',
    torch_dtype='float32',
  )(own)
  _assert_same(module, own)


def test_shards(own, module):
  _shard(own)
  _assert_same(module, own)


def test_archive(model, module, tmp_path):
  with tarfile.open(tmp_path / 'albert.tar.gz', 'w:gz') as tar:
    tar.add(model, 'albert')
  _assert_same(module, tmp_path / 'albert.tar.gz')


def test_json_with_a_byte_order_mark_and_code_of_a_head_are_read(own, module):
  _edit_config(auto_map={'AutoModelForSequenceClassification': 'modeling_own.Head'})(own)
  _shard(own)
  for name in ('config.json', 'tokenizer_config.json', 'model.safetensors.index.json'):
    (own / name).write_bytes(b'\xef\xbb\xbf' + (own / name).read_bytes())
  _assert_same(own, module)


def test_an_adapter_that_is_not_merged_is_left_out_and_named(own, module):
  _adapter(own)
  source, _ = _assert_same(own, module)
  assert 'left out, an adapter that is not merged: adapter_config.json' in source.notes


@pytest.mark.parametrize('changes', [dict(model_type=None), dict(model_type=None, inner_group_num=None)])
def test_a_config_without_model_type_is_known_by_its_other_keys(own, module, changes, refused):
  _edit_config(**changes, architectures=['AlbertForPreTraining'])(own)
  _assert_same(own, module)
  _edit_config(inner_group_num=None, architectures=['BertModel'])(own)
  refused(own, "config.json: model_type is None, not 'albert'; give an ALBERT model")


def test_what_other_versions_save_besides(own, module):
  def change(tensors):
    tensors['albert.embeddings.position_ids'] = np.arange(8)[np.newaxis]
    tensors['predictions.decoder.weight'] = tensors['albert.embeddings.word_embeddings.weight'].copy()
    tensors['predictions.decoder.bias'] = tensors['predictions.bias'].copy()

  _change(own, change)
  _assert_same(module, own)


def _tensor(name, change):
  def edit(path):
    def apply(tensors):
      value = change(tensors.pop(name))
      if value is not None:
        tensors[name] = value

    _change(path, apply)

  return edit


def _add(name, value):
  return lambda path: _change(path, lambda tensors: tensors.__setitem__(name, value))


def _break_index(change):
  def edit(path):
    index = _shard(path)
    values = json.loads(index.read_text())
    change(values['weight_map'])
    index.write_text(json.dumps(values))

  return edit


_POOLER = 'albert.pooler.weight'


def _shard_besides(path):
  whole = (path / 'model.safetensors').read_bytes()
  _shard(path)
  (path / 'model.safetensors').write_bytes(whole)


def _adapter(path):
  (path / 'adapter_config.json').write_text('{}')


def _lose_shards(path):
  _shard(path)
  for file in (*path.glob('model-*.safetensors'), path / 'spiece.model'):
    file.unlink()


def _repeat_in_both_shards(path):
  places = json.loads(_shard(path).read_text())['weight_map']
  shards = {place: safetensors_numpy.load_file(path / place) for place in set(places.values())}
  for place, tensors in shards.items():
    safetensors_numpy.save_file(tensors | {_POOLER: shards[places[_POOLER]][_POOLER]}, path / place)


@pytest.mark.parametrize(
  'break_it, message',
  [
    (_edit_config(model_type='bert'), "config.json: model_type is 'bert'"),
    (_edit_config(hidden_act='gelu_10'), "hidden_act is 'gelu_10', not one of gelu, .*; give option activation"),
    (_edit_config(layer_norm_eps=1e-5), 'layer_norm_eps is 1e-05'),
    (_edit_config(num_hidden_groups=3), 'missing albert.encoder.albert_layer_groups.1.albert_layers.0.'),
    (_edit_config(hidden_size=None), 'missing hidden_size'),
    (_edit_config(position_embedding_type='relative_key'), 'position_embedding_type'),
    (
      lambda path: (path / 'tokenizer_config.json').write_text('{"do_lower_case": "no"}'),
      "do_lower_case is 'no', not true or false",
    ),
    (
      lambda path: (path / 'tokenizer_config.json').write_text('{"remove_space": false}'),
      'remove_space is False, not true',
    ),
    (
      lambda path: ((path / 'config.json').unlink(), (path / 'spiece.model').unlink()),
      'own: no config.json, no spiece.model .tokenizer.json cannot replace it., from which',
    ),
    (
      lambda path: (path / 'model.safetensors').rename(path / 'pytorch_model.bin'),
      'no model.safetensors .pytorch_model.bin is not supported.; save the model with',
    ),
    (_add('predictions.decoder.bias', np.zeros(200, np.float16)), 'decoder.bias differs from predictions.bias'),
    (lambda path: (path / 'config.json').write_text('{'), 'config.json: invalid JSON'),
    (lambda path: (path / 'config.json').write_text('[]'), 'a list instead of an object'),
    (
      lambda path: (path / 'config.json').write_text('{"model_type": "albert", "model_type": "albert"}'),
      "'model_type' occurs twice",
    ),
    (
      lambda path: ((path / 'model.safetensors').unlink(), os.mkfifo(path / 'model.safetensors')),
      'model.safetensors: not a regular file',
    ),
    (lambda path: (path / 'spiece.model').unlink(), 'own: no spiece.model .tokenizer.json cannot replace it., .*copy'),
    (
      lambda path: (path / 'model.safetensors').rename(path / 'model-00001-of-00002.safetensors'),
      'no model.safetensors or model.safetensors.index.json, which names the shards; save',
    ),
    (
      lambda path: (
        (path / 'spiece.model').unlink(),
        (path / 'tokenizer.json').unlink(),
        (path / 'vocab.txt').write_text('[PAD]'),
      ),
      'own: no spiece.model .vocab.txt is a WordPiece vocabulary., from which',
    ),
    (lambda path: (path / 'model.safetensors').write_bytes(b'\xff' * 99), 'model.safetensors: not a safetensors file'),
    (
      lambda path: (path / 'model.safetensors').write_text('<!DOCTYPE html><html></html>'),
      'model.safetensors: this is a web page, not the file; download it again',
    ),
    (
      lambda path: (path / 'model.safetensors').write_text('version https://git-lfs.github.com/spec/v1\noid x'),
      'model.safetensors: this is a Git LFS pointer, not the file; run `git lfs pull`',
    ),
    (
      lambda path: (path / 'model.safetensors').write_bytes((path / 'model.safetensors').read_bytes()[:-9]),
      'model.safetensors: not a safetensors file',
    ),
    (_tensor(_POOLER, lambda value: None), '1 weight does not fit .missing albert.pooler.weight'),
    (_tensor('albert.pooler.bias', lambda value: None), 'missing albert.pooler.bias'),
    (_tensor(_POOLER, lambda value: value[1:]), r'albert.pooler.weight has shape \[15, 16\], not \[16, 16\]'),
    (_tensor(_POOLER, lambda value: value.astype(np.float64)), 'albert.pooler.weight is F64, not float32'),
    (_tensor(_POOLER, lambda value: value.astype(np.int8)), 'albert.pooler.weight is I8, not float32'),
    (_tensor(_POOLER, lambda value: value * np.nan), 'NaN or infinity in albert.pooler.weight'),
    (_add('albert.novelty.weight', np.zeros((3, 16), np.float32)), 'unexpected albert.novelty.weight'),
    (_add('other.albert.embeddings.word_embeddings.weight', np.zeros((200, 8), np.float32)), 'two encoders'),
    (
      _add('predictions.decoder.weight', np.zeros((200, 8), np.float32)),
      'predictions.decoder.weight differs from albert.embeddings',
    ),
    (
      _break_index(lambda places: places.update({'x': 'model-00001-of-00002.safetensors'})),
      'index.json: x is in another file',
    ),
    (
      _break_index(lambda places: places.update({_POOLER: '../model-00001-of-00002.safetensors'})),
      'no `weight_map` from tensors to files',
    ),
    (_break_index(lambda places: places.pop(_POOLER)), f'index.json: {_POOLER} is in another file'),
    (_shard_besides, 'own: both model.safetensors and model.safetensors.index.json'),
    (_repeat_in_both_shards, f'{_POOLER} is in another file'),
    (
      _break_index(lambda places: places.update({_POOLER: 'model-00003-of-00003.safetensors'})),
      'own: no model-00003-of-00003.safetensors; save',
    ),
    (
      lambda path: (_adapter(path), (path / 'model.safetensors').unlink()),
      'own: an adapter alone .adapter_config.json.; merge it into its base model with merge_and_unload',
    ),
    (
      lambda path: ((path / 'spiece.model').unlink(), (path / 'spiece.model').symlink_to('../blobs/x')),
      'own: spiece.model is a broken link; download the model again',
    ),
    (
      _edit_config(layer_norm_eps=1e-5, position_embedding_type='relative_key'),
      'layer_norm_eps is 1e-05, not 1e-12 .the only supported value., position_embedding_type is',
    ),
    (
      lambda path: (
        _edit_config(vocab_size=208)(path),
        _tensor('albert.embeddings.word_embeddings.weight', lambda value: np.pad(value, [(0, 8), (0, 0)]))(path),
      ),
      r'200 pieces, but the embedding has 208 rows; .*, as resize_token_embeddings\(200\) of Transformers does',
    ),
    (_lose_shards, 'own: no model-00001-of-00002.safetensors, no model-00002-of-00002.safetensors, no spiece.model'),
    (
      lambda path: (
        (path / 'model.safetensors').unlink(),
        (path / 'onnx').mkdir(),
        (path / 'onnx/model.onnx').write_bytes(b'x'),
      ),
      'own: a model for ONNX Runtime alone .onnx/model.onnx., from which no weights are read; give the model',
    ),
    (
      _edit_config(auto_map={'AutoModel': 'modeling_own.OwnAlbert', 'AutoConfig': 'x.Y'}),
      "config.json: auto_map replaces AlbertModel by code of the model .'modeling_own.OwnAlbert'., which is not run",
    ),
  ],
  ids=lambda value: value if isinstance(value, str) else '',
)
def test_what_does_not_fit_is_named(own, refused, break_it, message):
  break_it(own)
  refused(own, message)


def _bits(source):
  return {row.name: source.tensor(row).tobytes() for row in weight_map.rows(source.config, source.parts)}


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_smaller_floats_are_widened_without_loss(own, dtype):
  small = {name: value.astype(dtype) for name, value in safetensors_numpy.load_file(own / 'model.safetensors').items()}
  safetensors_numpy.save_file(small, own / 'model.safetensors')
  with source_lib.open_source(str(own)) as source:
    assert source.notes == [f'weights of {np.dtype(dtype).name} widened to float32, which is exact']
    for row in weight_map.rows(source.config, source.parts):
      value = row.hugging_face_transform.apply(source.tensor(row), small[row.hugging_face].shape)
      assert value.dtype == np.float32 and np.array_equal(value, small[row.hugging_face].astype(np.float32))


def _old(name):
  return (
    name.replace('LayerNorm.weight', 'LayerNorm.gamma')
    .replace('LayerNorm.bias', 'LayerNorm.beta')
    .replace('layer_layer_norm.weight', 'layer_layer_norm.gamma')
  )


@pytest.mark.parametrize(
  'rename',
  [lambda name: f'module.{name}', lambda name: f'model.encoder.{name}', _old, lambda name: f'module.{_old(name)}'],
  ids=['DataParallel', 'a wrapper', 'old names', 'both'],
)
def test_names_of_wrappers_and_of_old_versions(model, own, rename):
  tensors = safetensors_numpy.load_file(own / 'model.safetensors')
  safetensors_numpy.save_file({rename(name): value for name, value in tensors.items()}, own / 'model.safetensors')
  with source_lib.open_source(str(model)) as one, source_lib.open_source(str(own)) as other:
    assert _bits(one) == _bits(other) and other.notes == []


@pytest.mark.parametrize('architecture', ['AlbertModel', 'AlbertForPreTraining'])
@pytest.mark.parametrize('head', ['classifier', 'qa_outputs', 'dropout_and.classifier.0'])
def test_the_head_of_a_task_is_left_out_and_named(module, tmp_path, architecture, head):
  own, _ = write(module, tmp_path / 'own', architecture)
  _change(
    own, lambda tensors: tensors.update({f'{head}.{name}': np.zeros(2, np.float32) for name in ('weight', 'bias')})
  )
  with source_lib.open_source(str(module)) as one, source_lib.open_source(str(own)) as other:
    assert other.notes == [f'left out, a head for a task: {head}.bias, {head}.weight']
    right = _bits(one)
    assert all(right[name] == value for name, value in _bits(other).items())


def test_what_the_tokenizer_states_is_taken(module, tmp_path):
  own, _ = write(module, tmp_path / 'own')
  (own / 'tokenizer_config.json').write_text('{"do_lower_case": false, "keep_accents": true}')
  with source_lib.open_source(str(own)) as source:
    assert (source.tokenization.lower_case, source.tokenization.keep_accents) == (False, True)
    assert source.tokenization.origin == 'tokenizer_config.json'
  with (
    pytest.raises(errors.VocabularyError, match='lower_case is False, .*; leave option lower_case=True out'),
    source_lib.open_source(str(own), source_lib.Reading(lower_case=True)),
  ):
    pass


def grouped(module, directory, groups, inner):
  """Writes a model of `groups` groups with `inner` blocks each, all with other weights."""
  write(module, directory, 'AlbertModel')
  _edit_config(num_hidden_groups=groups, inner_group_num=inner)(directory)
  rng = np.random.default_rng(0)
  tensors = safetensors_numpy.load_file(directory / 'model.safetensors')
  for name in [name for name in tensors if 'albert_layer_groups.0.albert_layers.0' in name]:
    for group in range(groups):
      for layer in range(inner):
        noise = rng.normal(scale=0.02, size=tensors[name].shape) if group or layer else 0
        own = name.replace('layer_groups.0', f'layer_groups.{group}').replace('layers.0', f'layers.{layer}')
        tensors[own] = (tensors[name] + noise).astype(np.float32)
  safetensors_numpy.save_file(tensors, directory / 'model.safetensors')
  return directory


@pytest.mark.parametrize('groups, inner', [(3, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_groups_of_layers_are_exported_and_proven(module, tmp_path, release, groups, inner):
  path, outcome = release(grouped(module, tmp_path / 'grouped', groups, inner), f'albert_{groups}_{inner}', version=1)
  layers = 3 * inner
  outputs = outcome.pieces[1].certificate.outputs
  assert {f'layer_{number}' for number in range(layers)} <= outputs.keys() and f'layer_{layers}' not in outputs
  assert len(outcome.pieces[1].certificate.gradient) == 25 + 16 * (groups * inner - 1)
  # A release is a source again, with all of its blocks.
  with source_lib.open_source(str(path)) as again, source_lib.open_source(str(tmp_path / 'grouped')) as source:
    assert _bits(again) == _bits(source) and again.config == source.config


@pytest.mark.parametrize(
  'name',
  ['gelu', *(pytest.param(name, marks=pytest.mark.slow) for name in ('relu', 'silu', 'tanh'))],
)
def test_another_activation_is_exported_and_proven(module, tmp_path, release, name):
  own, _ = write(module, tmp_path / 'own')
  _edit_config(hidden_act=name)(own)
  path, outcome = release(own, f'albert_{name}', version=1)
  assert set(weight_map.Part) == {weight_map.Part(head) for head in ('encoder', 'mlm', 'sop')}
  assert all(output.reference < 1e-9 for output in outcome.pieces[1].certificate.outputs.values())
  titles = {'gelu': 'GELU (exact, with the error function)', 'relu': 'ReLU', 'silu': 'SiLU (swish)', 'tanh': 'tanh'}
  assert f'| activation | {titles[name]} |' in path.with_name('1.md').read_text()


def test_embeddings_that_are_projected_though_as_wide_as_the_layers(make_module, tmp_path, refused):
  directory, _ = write(make_module(embedding_size=16), tmp_path / 'albert')
  _change(directory, lambda tensors: tensors['albert.encoder.embedding_hidden_mapping_in.weight'].__imul__(2))
  refused(directory, 'embedding_hidden_mapping_in.weight is not the identity')


def test_config_for_a_format_that_has_its_own(own, module, refused):
  refused(
    own,
    'leave option albert_config out',
    reading=source_lib.Reading(albert_config=str(module / 'assets/albert_config.json')),
  )


def test_release_has_the_weights_of_the_module(model, released, release):
  path, outcome = release(model)
  theirs = released.root / 'tensorflow/albert_en_tiny/2'
  name = 'variables/variables.data-00000-of-00001'
  assert (path / name).read_bytes() == (theirs / name).read_bytes()
  assert outcome.pieces[1].certificate.against == 'reference'
  assert 'the weights of a model of Hugging Face Transformers' in path.with_name(f'{path.name}.md').read_text()
