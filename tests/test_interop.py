"""Other libraries load the written files and compute the same; weights saved by Transformers are read, too.

The libraries run in separate environments. `make interop` makes them, and passes their paths as options.
"""

import json
import os
import subprocess
import unicodedata

import numpy as np
import pytest
import sentencepiece as spm
import tensorflow as tf
from test_hugging_face import write
from test_tokenization import mixed_vocabulary

from converters import source as source_lib
from converters import tokenization
from converters.reference import tokenizer as reference_tokenizer
from converters.writers import hugging_face as hugging_face_writer
from converters.writers import litert_model
from converters.writers import onnx_model
from converters.writers import tokenizer_json
from export.demo import vocabulary
from export.validation import preprocessor_certificate

_PARTS = {
  'AlbertModel': ['encoder'],
  'AlbertForMaskedLM': ['encoder', 'mlm'],
  'AlbertForPreTraining': ['encoder', 'mlm', 'sop'],
}
# float32 rounding of three small layers on values of about 1, by two libraries.
_TOLERANCE = 1e-5


def _asking(python, probe):
  """Returns a function that runs a job of a probe in another environment, and returns its answer."""

  def run(do, **job):
    environment = {
      name: value for name, value in os.environ.items() if name not in ('PYTHONPATH', 'TF_USE_LEGACY_KERAS')
    }
    done = subprocess.run(
      [python, os.path.join(os.path.dirname(__file__), probe)],
      input=json.dumps({'do': do, **job}),
      text=True,
      capture_output=True,
      timeout=600,
      env=environment | {'HF_HUB_OFFLINE': '1'},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])

  return run


@pytest.fixture(scope='session')
def ask(request):
  """A function that runs a job in the environment of PyTorch and Transformers, and returns its answer."""
  python = request.config.getoption('--interop_python')
  if not python:
    pytest.skip('needs PyTorch and Transformers: make interop')
  return _asking(python, 'interop_probe.py')


@pytest.fixture(scope='session')
def ask_optimum(request):
  """A function that runs a job in the environment of Optimum and LiteRT's runtime, and returns its answer."""
  python = request.config.getoption('--optimum_python')
  if not python:
    pytest.skip('needs Optimum and LiteRT: make interop')
  return _asking(python, 'interop_optimum_probe.py')


@pytest.fixture(scope='session')
def inputs(tmp_path_factory):
  """A batch with padding and two segments, for models of PyTorch."""
  path = tmp_path_factory.mktemp('inputs') / 'inputs.npz'
  mask = (np.arange(7) < np.array([[7], [4]])).astype(np.int32)
  ids = np.random.default_rng(1).integers(5, 200, mask.shape).astype(np.int32) * mask
  types = (np.arange(7) > 2).astype(np.int32) * mask
  np.savez(path, input_ids=ids, attention_mask=mask, token_type_ids=types)
  return str(path)


def _ours(encoder, inputs):
  """Returns the outputs of an exported encoder for the batch, with logits at every position."""
  given = np.load(inputs)
  batch = {
    'input_word_ids': tf.constant(given['input_ids']),
    'input_mask': tf.constant(given['attention_mask']),
    'input_type_ids': tf.constant(given['token_type_ids']),
  }
  result = dict(encoder(batch))
  if hasattr(encoder, 'mlm'):
    positions = tf.tile(tf.range(7)[tf.newaxis], [2, 1])
    result['mlm_logits'] = encoder.mlm(dict(batch, masked_lm_positions=positions))['mlm_logits']
  if hasattr(encoder, 'sop'):
    result['sop_log_probs'] = encoder.sop(batch)['sop_log_probs']
  return result, given['attention_mask'].astype(bool)


def _assert_same(theirs, ours, mask):
  for name in theirs.files:
    value = theirs[name]
    if name == 'sop_logits':
      name, value = 'sop_log_probs', tf.nn.log_softmax(value).numpy()
    own = ours[name].numpy()
    if value.ndim == 3:
      value, own = value[mask], own[mask]
    assert np.abs(value - own).max() < _TOLERANCE, name


@pytest.mark.parametrize('class_name', list(_PARTS))
def test_transformers_loads_every_key_and_computes_the_same(ask, module, released, inputs, tmp_path, class_name):
  directory, _ = write(module, tmp_path / 'albert', class_name)
  answer = ask(
    'load', directory=str(directory), class_name=class_name, inputs=inputs, outputs=str(tmp_path / 'theirs.npz')
  )
  assert {kind: names for kind, names in answer.items() if kind.endswith('_keys')} == {
    'missing_keys': [],
    'unexpected_keys': [],
    'mismatched_keys': [],
  }
  assert answer['dtype'] == 'torch.float32'
  ours, mask = _ours(tf.saved_model.load(released.root / 'tensorflow/albert_en_tiny/2'), inputs)
  theirs = np.load(tmp_path / 'theirs.npz')
  assert {'sequence_output', *(['pooled_output'] if class_name != 'AlbertForMaskedLM' else [])} <= set(theirs.files)
  assert ('mlm_logits' in theirs.files) == ('mlm' in _PARTS[class_name])
  _assert_same(theirs, ours, mask)


def test_tokenizer_gives_the_same_ids(ask, module, config, sp_model, tmp_path):
  directory, _ = write(module, tmp_path / 'albert')
  processor = spm.SentencePieceProcessor(model_proto=sp_model)
  characters = [f'a{chr(code)}b' for code in range(0x20, 0x3000) if unicodedata.category(chr(code)) != 'Cn']
  texts = [
    'The bridge was closed.',
    *preprocessor_certificate.TEXTS,
    *vocabulary.CORPUS.read_text(encoding='utf-8').splitlines()[:300],
    *characters,
  ]
  answer = ask('tokenize', directory=str(directory), texts=texts)
  assert answer['mask'] == 4 and answer['pad'] == 0 and answer['longest'] == config.max_position_embeddings
  first = processor.encode(reference_tokenizer.normalized(texts[0]))
  assert answer['pair']['input_ids'] == [2, *first, 3, *first, 3]
  assert answer['pair']['token_type_ids'] == [0] * (len(first) + 2) + [1] * (len(first) + 1)
  different = [
    text
    for text, ids in zip(texts, answer['ids'], strict=True)
    if not reference_tokenizer.equally_likely(processor, ids, processor.encode(reference_tokenizer.normalized(text)))
  ]
  assert different == ['[CLS] is text here, and so is <pad>']  # like every tokenizer of Transformers


@pytest.mark.parametrize('lower_case', [True, False])
@pytest.mark.parametrize('keep_accents', [True, False])
def test_tokenizer_of_every_setting_gives_the_ids_of_the_rule(ask, module, tmp_path, lower_case, keep_accents):
  directory, _ = write(module, tmp_path / 'albert')
  setting = tokenization.Tokenization(lower_case, keep_accents)
  sp_model = mixed_vocabulary()
  (directory / 'tokenizer.json').write_text(json.dumps(tokenizer_json.of(sp_model, setting)))
  processor = spm.SentencePieceProcessor(model_proto=sp_model)
  # Hangul and vowels of Indic scripts are decomposed and composed again.
  texts = ['The Café was LATE', 'यहाँ मैं हूँ', 'Straße ﬁne ½', '한국어', 'কো', 'ÉTÉ İstanbul Ünïcödé']
  answer = ask('tokenize', directory=str(directory), texts=texts)
  assert answer['ids'] == [processor.encode(reference_tokenizer.normalized(text, setting)) for text in texts]


def test_keras_hub_loads_it_and_computes_the_same(ask, module, released, inputs, tmp_path):
  directory, _ = write(module, tmp_path / 'albert')
  ask('keras_hub', directory=str(directory), inputs=inputs, outputs=str(tmp_path / 'theirs.npz'))
  ours, mask = _ours(tf.saved_model.load(released.root / 'tensorflow/albert_en_tiny/2'), inputs)
  _assert_same(np.load(tmp_path / 'theirs.npz'), ours, mask)


@pytest.fixture
def saved(ask, module, config, inputs, tmp_path):
  """A function that lets Transformers make and save a model of a class, and returns its directory and outputs."""

  def save(class_name, shard='5GB', **changes):
    sizes = dict(
      vocab_size=config.vocab_size,
      embedding_size=8,
      hidden_size=16,
      num_hidden_layers=2,
      num_attention_heads=4,
      intermediate_size=24,
      max_position_embeddings=config.max_position_embeddings,
    )
    directory, outputs = tmp_path / 'saved', tmp_path / 'saved.npz'
    files = ask(
      'save',
      directory=str(directory),
      class_name=class_name,
      config=sizes | changes,
      inputs=inputs,
      outputs=str(outputs),
      max_shard_size=shard,
    )
    assert ('model.safetensors.index.json' in files) == (shard == '10KB')
    (directory / 'spiece.model').write_bytes((module / 'assets/30k-clean.model').read_bytes())
    return directory, np.load(outputs)

  return save


def _load(ask, directory, class_name, inputs, tmp_path):
  """Loads a model with Transformers, which must find every weight and no other, and returns its outputs."""
  outputs = tmp_path / 'loaded.npz'
  answer = ask('load', directory=str(directory), class_name=class_name, inputs=inputs, outputs=str(outputs))
  assert not any(names for kind, names in answer.items() if kind.endswith('_keys')), answer
  return np.load(outputs)


@pytest.mark.parametrize(
  'class_name, shard', [('AlbertModel', '5GB'), ('AlbertForPreTraining', '5GB'), ('AlbertForPreTraining', '10KB')]
)
def test_what_transformers_saves_is_read(saved, inputs, release, class_name, shard):
  directory, theirs = saved(class_name, shard)
  with source_lib.open_source(str(directory)) as source:
    assert {part.value for part in source.parts} == set(_PARTS[class_name])
  path, _ = release(directory)
  ours, mask = _ours(tf.saved_model.load(path), inputs)
  _assert_same(theirs, ours, mask)


@pytest.mark.parametrize(
  'changes',
  [
    {'num_hidden_groups': 2, 'inner_group_num': 2},
    *({'hidden_act': name} for name in ('gelu', 'gelu_new', 'relu', 'silu')),
  ],
  ids=lambda changes: '-'.join(map(str, changes.values())),
)
def test_groups_and_activations_are_computed_as_transformers_does(ask, saved, inputs, release, tmp_path, changes):
  directory, theirs = saved('AlbertForPreTraining', **changes)
  path, _ = release(directory, 'albert_interop', version=1)
  ours, mask = _ours(tf.saved_model.load(str(path)), inputs)
  assert {'sequence_output', 'pooled_output', 'mlm_logits', 'sop_logits'} == set(theirs.files)
  _assert_same(theirs, ours, mask)
  (tmp_path / 'written').mkdir()
  with source_lib.open_source(str(directory)) as source:
    hugging_face_writer.write(source, tmp_path / 'written')
  again = _load(ask, tmp_path / 'written', 'AlbertForPreTraining', inputs, tmp_path)
  _assert_same(again, ours, mask)
  assert all(np.array_equal(again[name], theirs[name]) for name in theirs.files)


@pytest.mark.parametrize(
  'class_name',
  ['AlbertForMaskedLM', 'AlbertForTokenClassification', 'AlbertForQuestionAnswering', 'AlbertModel without pooler'],
)
def test_a_class_without_pooler(ask, saved, inputs, release, refused, tmp_path, class_name):
  directory, theirs = saved(class_name)
  named = class_name.replace(' without pooler', ' with add_pooling_layer=False')
  refused(directory, rf'no albert.pooler.weight, .*\(the model is {named}\); give option pooler=False')
  reading = source_lib.Reading(pooler=False)
  path, _ = release(directory, 'albert_np', version=1, reading=reading)
  ours, mask = _ours(tf.saved_model.load(str(path)), inputs)
  assert 'pooled_output' not in theirs.files and 'pooled_output' not in ours
  _assert_same(theirs, ours, mask)
  # Written again, it loads without a missing or an invented weight.
  (tmp_path / 'written').mkdir()
  with source_lib.open_source(str(path)) as source:
    hugging_face_writer.write(source, tmp_path / 'written')
  kept = class_name if class_name == 'AlbertForMaskedLM' else 'AlbertModel without pooler'
  again = _load(ask, tmp_path / 'written', kept, inputs, tmp_path)
  _assert_same(again, ours, mask)


def _write_onnx(module, directory, int8=False, **options):
  directory.mkdir()
  with source_lib.open_source(str(module)) as source:
    onnx_model.write(source, directory, onnx_model.Options(**options), int8)
  return directory


_AS_OURS = {'last_hidden_state': 'sequence_output', 'pooler_output': 'pooled_output', 'logits': 'mlm_logits'}


@pytest.mark.parametrize('padding_free', [False, True])
@pytest.mark.parametrize('class_name, mlm', [('ORTModelForFeatureExtraction', False), ('ORTModelForMaskedLM', True)])
def test_optimum_computes_the_same(ask_optimum, module, released, inputs, tmp_path, class_name, mlm, padding_free):
  directory = _write_onnx(module, tmp_path / 'albert', mlm=mlm, padding_free=padding_free)
  outputs = str(tmp_path / 'theirs.npz')
  ask_optimum(
    'optimum',
    directory=str(directory),
    file_name='model.onnx',
    class_name=class_name,
    inputs=inputs,
    outputs=outputs,
  )
  theirs = np.load(outputs)
  assert ('logits' if mlm else 'last_hidden_state') in theirs.files
  ours, mask = _ours(tf.saved_model.load(released.root / 'tensorflow/albert_en_tiny/2'), inputs)
  for name in theirs.files:
    value, own = theirs[name], ours[_AS_OURS[name]].numpy()
    if value.ndim == 3:
      value, own = value[mask], own[mask]
    assert np.abs(value - own).max() < _TOLERANCE, name


@pytest.mark.parametrize('dtype, tolerance', [('fp32', _TOLERANCE), ('q8', 0.2)])
def test_transformers_js_computes_the_same(request, module, released, sp_model, tmp_path, dtype, tolerance):
  modules = request.config.getoption('--node_modules')
  if not modules:
    pytest.skip('needs transformers.js: make interop')
  directory = _write_onnx(module, tmp_path / 'albert', int8=dtype == 'q8')
  texts = ['The bridge was closed.', 'Nobody minded, since Café Über was open.']
  done = subprocess.run(
    ['node', os.path.join(os.path.dirname(__file__), 'interop_probe.mjs'), modules, directory, dtype, *texts],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr[-4000:]
  answer = json.loads(done.stdout)
  ids, mask = (
    np.array(answer['inputs'][name]['data'], np.int32).reshape(answer['inputs'][name]['dims'])
    for name in ('input_ids', 'attention_mask')
  )
  processor = spm.SentencePieceProcessor(model_proto=sp_model)
  for text, row, kept in zip(texts, ids, mask.astype(bool), strict=True):
    assert row[kept].tolist() == [2, *processor.encode(reference_tokenizer.normalized(text)), 3]
  encoder = tf.saved_model.load(released.root / 'tensorflow/albert_en_tiny/2')
  ours = encoder({'input_word_ids': ids, 'input_mask': mask, 'input_type_ids': np.zeros_like(ids)})
  for name in ('pooler_output', 'last_hidden_state'):
    value = np.array(answer['outputs'][name]['data'], np.float32).reshape(answer['outputs'][name]['dims'])
    own = ours[_AS_OURS[name]].numpy()
    if value.ndim == 3:
      value, own = value[mask.astype(bool)], own[mask.astype(bool)]
    assert np.abs(value - own).max() < tolerance, name


@pytest.mark.parametrize('seq_length', [None, 16])
def test_the_runtime_of_phones_computes_the_same(ask_optimum, module, released, inputs, tmp_path, seq_length):
  (tmp_path / 'albert').mkdir()
  with source_lib.open_source(str(module)) as source:
    litert_model.write(source, tmp_path / 'albert', litert_model.Options(), seq_length=seq_length)
  given = dict(np.load(inputs))
  if seq_length is not None:
    given = {name: np.pad(value[:1], [(0, 0), (0, seq_length - value.shape[1])]) for name, value in given.items()}
    np.savez(inputs := str(tmp_path / 'inputs.npz'), **given)
  outputs = str(tmp_path / 'theirs.npz')
  ask_optimum('litert', path=str(tmp_path / 'albert/model.tflite'), inputs=inputs, outputs=outputs)
  encoder = tf.saved_model.load(released.root / 'tensorflow/albert_en_tiny/2')
  ours = encoder(
    {
      'input_word_ids': given['input_ids'],
      'input_mask': given['attention_mask'],
      'input_type_ids': given['token_type_ids'],
    }
  )
  _assert_same(np.load(outputs), ours, given['attention_mask'].astype(bool))
