"""Hugging Face Transformers and KerasHub load the written weights and compute the same.

Weights saved by Transformers are read, too. The libraries run in a separate environment: `make interop` makes it, and
passes its Python as --interop_python.
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

from converters import source as source_lib
from export.demo import vocabulary
from export.reference import tokenizer as reference_tokenizer
from export.validation import preprocessor_certificate

_PARTS = {
  'AlbertModel': ['encoder'],
  'AlbertForMaskedLM': ['encoder', 'mlm'],
  'AlbertForPreTraining': ['encoder', 'mlm', 'sop'],
}
# float32 rounding of three small layers on values of about 1, by two libraries.
_TOLERANCE = 1e-5


@pytest.fixture(scope='session')
def ask(request):
  """A function that runs a job in the other environment, and returns its answer."""
  python = request.config.getoption('--interop_python')
  if not python:
    pytest.skip('needs PyTorch and Transformers: make interop')

  def run(do, **job):
    environment = {
      name: value for name, value in os.environ.items() if name not in ('PYTHONPATH', 'TF_USE_LEGACY_KERAS')
    }
    done = subprocess.run(
      [python, os.path.join(os.path.dirname(__file__), 'interop_probe.py')],
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
    if not preprocessor_certificate.equally_likely(
      processor, ids, processor.encode(reference_tokenizer.normalized(text))
    )
  ]
  assert different == ['[CLS] is text here, and so is <pad>']  # like every tokenizer of Transformers


def test_keras_hub_loads_it_and_computes_the_same(ask, module, released, inputs, tmp_path):
  directory, _ = write(module, tmp_path / 'albert')
  ask('keras_hub', directory=str(directory), inputs=inputs, outputs=str(tmp_path / 'theirs.npz'))
  ours, mask = _ours(tf.saved_model.load(released.root / 'tensorflow/albert_en_tiny/2'), inputs)
  _assert_same(np.load(tmp_path / 'theirs.npz'), ours, mask)


@pytest.mark.parametrize(
  'class_name, shard', [('AlbertModel', '5GB'), ('AlbertForPreTraining', '5GB'), ('AlbertForPreTraining', '10KB')]
)
def test_what_transformers_saves_is_read(ask, module, config, inputs, release, tmp_path, class_name, shard):
  sizes = dict(
    vocab_size=config.vocab_size,
    embedding_size=8,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=config.max_position_embeddings,
  )
  directory = tmp_path / 'saved'
  files = ask(
    'save',
    directory=str(directory),
    class_name=class_name,
    config=sizes,
    inputs=inputs,
    outputs=str(tmp_path / 'theirs.npz'),
    max_shard_size=shard,
  )
  assert ('model.safetensors.index.json' in files) == (shard == '10KB')
  (directory / 'spiece.model').write_bytes((module / 'assets/30k-clean.model').read_bytes())
  with source_lib.open_source(str(directory)) as source:
    assert {part.value for part in source.parts} == set(_PARTS[class_name])
  path, _ = release(directory)
  ours, mask = _ours(tf.saved_model.load(path), inputs)
  _assert_same(np.load(tmp_path / 'theirs.npz'), ours, mask)


def test_masked_lm_saves_no_pooler_and_is_refused_with_that(ask, module, config, inputs, tmp_path, refused):
  sizes = dict(
    vocab_size=config.vocab_size,
    embedding_size=8,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=config.max_position_embeddings,
  )
  directory = tmp_path / 'saved'
  ask(
    'save',
    directory=str(directory),
    class_name='AlbertForMaskedLM',
    config=sizes,
    inputs=inputs,
    outputs=str(tmp_path / 'theirs.npz'),
    max_shard_size='5GB',
  )
  (directory / 'spiece.model').write_bytes((module / 'assets/30k-clean.model').read_bytes())
  refused(directory, 'no albert.pooler.weight, so no pooled output .the model is AlbertForMaskedLM.')
