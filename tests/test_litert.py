"""LiteRT files compute the encoder with builtin operations, have each weight once, and are published only if right."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os

import numpy as np
import pytest
import tensorflow as tf

from converters import albert_config
from converters import errors
from converters import source as source_lib
from converters import weight_map
from converters.reference import inputs as proof_inputs
from converters.reference import measures
from converters.writers import graph_options
from converters.writers import litert_graph
from converters.writers import litert_model

_ALL = graph_options.Options(layers=True, mlm=True, sop=True)


def write(module, directory, options=_ALL, **arguments):
  directory.mkdir(parents=True)
  with source_lib.open_source(str(module)) as source:
    return litert_model.write(source, directory, options, **arguments)


@pytest.fixture(scope='module')
def written(module, tmp_path_factory):
  """A directory by --to=litert with every output. Not to be changed."""
  directory = tmp_path_factory.mktemp('litert') / 'albert'
  write(module, directory)
  return directory


def _assert_published(run, released, config, names, length=11, tolerance=1e-5):
  encoder = tf.saved_model.load(released.root / 'tensorflow/albert_en_tiny/2')
  batch = proof_inputs.make(config, length)
  given = {name: tf.constant(value) for name, value in vars(batch).items()}
  theirs = dict(encoder.mlm(given))
  theirs['sop_log_probs'] = encoder.sop({name: given[name] for name in given if name != 'masked_lm_positions'})[
    'sop_log_probs'
  ]
  theirs |= {f'layer_{number}': value for number, value in enumerate(theirs.pop('encoder_outputs'))}
  ours = run(batch)
  assert set(ours) == names
  for name, value in ours.items():
    one, other = (measures.packed(np.asarray(x), batch.input_mask, name) for x in (value, theirs[name]))
    np.testing.assert_allclose(one, other, atol=tolerance, err_msg=name)


def test_it_computes_the_published_encoder(written, released, config):
  names = {'pooled_output', 'sequence_output', 'layer_0', 'layer_1', 'layer_2', 'mlm_logits', 'sop_log_probs'}
  run = litert_model.runner(written / 'model.tflite')
  for length in (11, 5):
    _assert_published(run, released, config, names, length)


def test_a_length_above_the_positions_is_refused(module, tmp_path):
  with source_lib.open_source(str(module)) as source:
    longest = source.config.max_position_embeddings
  message = f'option seq_length={longest + 1}: more than the {longest} positions of .*; give at most {longest}'
  with pytest.raises(errors.SourceError, match=message):
    write(module, tmp_path / 'x', graph_options.Options(), seq_length=longest + 1)


def test_one_length(module, released, config, tmp_path, monkeypatch):
  # The distribution is called `tensorflow` on some platforms.
  version = importlib.metadata.version
  monkeypatch.setattr(
    importlib.metadata, 'version', lambda name: version('no-such' if name == 'tensorflow-cpu' else name)
  )
  write(module, tmp_path / 'albert', graph_options.Options(), seq_length=16)
  path = tmp_path / 'albert/model.tflite'
  details = tf.lite.Interpreter(model_path=str(path)).get_signature_runner('serving_default').get_input_details()
  assert {name: value['shape'].tolist() for name, value in details.items()} == {
    name: [1, 16] for name in ('input_word_ids', 'input_mask', 'input_type_ids')
  }
  _assert_published(litert_model.runner(path, 16), released, config, {'pooled_output', 'sequence_output'})
  record = json.loads((tmp_path / 'albert/record.json').read_text())
  assert record['seq_length'] == 16 and 'tensorflow-cpu' not in record['packages']


def test_operations_are_builtin_and_weights_are_stored_once(written, module):
  interpreter = tf.lite.Interpreter(model_path=str(written / 'model.tflite'))
  assert not [op['op_name'] for op in interpreter._get_ops_details() if op['op_name'].startswith(('Flex', 'CUSTOM'))]
  with source_lib.open_source(str(module)) as source:
    size = 4 * weight_map.parameters(source.config, source.parts)
  assert size < (written / 'model.tflite').stat().st_size < size + 50_000


@pytest.mark.parametrize(
  'changes',
  [
    {'activation': albert_config.Activation.RELU, 'embedding_size': 16, 'num_hidden_groups': 3},
    *(pytest.param({'activation': value}, marks=pytest.mark.slow) for value in albert_config.Activation),
  ],
  ids=str,
)
def test_every_config_computes_the_reference(changes, config, source, monkeypatch, tmp_path):
  changed = dataclasses.replace(config, **changes)
  random = np.random.default_rng(1)
  weights = {
    row.name: random.normal(row.name.endswith('gamma'), 0.3, weight_map.shape(row.shape, changed)).astype(np.float32)
    for row in weight_map.rows(changed, weight_map.Part)
  }
  monkeypatch.setattr(source, 'config', changed)
  monkeypatch.setattr(source, 'tensor', lambda row: weights[row.name])
  litert_model.write(source, tmp_path, _ALL)  # which compares


def test_a_wrong_weight_is_refused(module, tmp_path, monkeypatch):
  build = litert_graph.build

  def wrong(weights, *args):
    return build(weights | {'attention.key.kernel': np.roll(weights['attention.key.kernel'], 1, axis=0)}, *args)

  monkeypatch.setattr(litert_graph, 'build', wrong)
  with pytest.raises(errors.ParityError, match=r'^model.tflite: \w+ differs from the float64 result by .*; report'):
    write(module, tmp_path / 'albert')


def test_int8(module, tmp_path, config):
  write(module, tmp_path / 'albert', graph_options.Options(mlm=True), int8=True)
  (path,) = (tmp_path / 'albert').rglob('*.tflite')
  assert path.name == 'model_quantized.tflite'
  details = tf.lite.Interpreter(model_path=str(path)).get_tensor_details()
  assert any(detail['dtype'] == np.int8 for detail in details)
  found = json.loads((tmp_path / 'albert/record.json').read_text())['int8']
  assert found['corpus'] == {'texts': 'random ids', 'count': 16}
  assert {f'layer_{number}' for number in range(config.num_hidden_layers)} < set(found['distance'])
  assert all(1e-4 < figure['rms'] < 0.2 for figure in found['distance'].values())
  assert all(0.9 < figure['least'] <= figure['mean'] <= 1 for figure in found['cosine'].values())
  assert '**not** those of the source' in (tmp_path / 'albert/README.md').read_text()


def test_to_litert(convert, module, tmp_path):
  for name in ('one', 'two'):
    done = convert(f'--source={module}', '--to=litert', f'--output={name}', '--with_sop')
    assert (done.returncode, done.stderr) == (0, '')
  assert 'Left out: the masked language model head' in done.stdout
  assert sorted(os.listdir(tmp_path / 'one')) == [
    'README.md', 'model.tflite', 'record.json', 'spiece.model', 'tokenizer.json', 'tokenizer_config.json'
  ]  # fmt: skip
  for path in (tmp_path / 'one').iterdir():
    assert path.read_bytes() == (tmp_path / 'two' / path.name).read_bytes(), path.name
  record = json.loads((tmp_path / 'one/record.json').read_text())
  content = (tmp_path / 'one/model.tflite').read_bytes()
  assert record['files']['model.tflite'] == {'size': len(content), 'sha256': hashlib.sha256(content).hexdigest()}
  assert set(record['parity']['model.tflite']) == {'pooled_output', 'sequence_output', 'sop_log_probs'}
