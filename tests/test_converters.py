"""`python -m converters` writes one complete directory, or prints one line of error."""

import dataclasses
import os
import subprocess
import sys

import pytest
import tensorflow as tf
import yaml
from official.nlp.configs import encoders
from support import commands

from converters import build_encoder
from converters import source as source_lib
from converters import weight_map
from converters.readers import encoder_yaml
from converters.writers import tokenizer_json


def test_to_hugging_face(convert, module, tmp_path):
  done = convert(f'--source={module}', '--to=huggingface', '--output=albert')
  assert (done.returncode, done.stderr) == (0, '')
  assert done.stdout.startswith(f'albert from {module}: a TF1 Hub module, sha256:')
  assert sorted(path.name for path in (tmp_path / 'albert').iterdir()) == [
    'README.md',
    'config.json',
    'model.safetensors',
    'spiece.model',
    'tokenizer.json',
    'tokenizer_config.json',
  ]
  assert os.listdir(tmp_path) == ['albert']
  # Everybody may read it, whatever the libraries' defaults are.
  modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / 'albert', *(tmp_path / 'albert').iterdir())}
  assert modes.pop('albert') == 0o755 and set(modes.values()) == {0o644}, modes


def test_the_same_source_gives_the_same_bytes(convert, module, tmp_path):
  for name in ('one', 'two'):
    assert convert(f'--source={module}', '--to=huggingface', f'--output={name}').returncode == 0
  for path in (tmp_path / 'one').iterdir():
    assert path.read_bytes() == (tmp_path / 'two' / path.name).read_bytes(), path.name


def test_to_checkpoint(convert, module, tmp_path):
  done = convert(f'--source={module}', '--to=checkpoint', '--output=albert')
  assert (done.returncode, done.stderr) == (0, '')
  assert 'Left out: the sentence order head' in done.stdout
  config = encoders.EncoderConfig(yaml.safe_load((tmp_path / 'albert/encoder.yaml').read_text()))
  fresh = encoders.build_encoder(config)
  status = tf.train.Checkpoint(encoder=fresh).read(tf.train.latest_checkpoint(tmp_path / 'albert'))
  # Like official.nlp.tasks.
  status.expect_partial().assert_existing_objects_matched()
  with source_lib.open_source(str(module)) as source:
    right = build_encoder.build(source, [weight_map.Part.ENCODER]).encoder
  assert len(fresh.variables) == len(right.variables) > 20
  for ours, theirs in zip(fresh.variables, right.variables, strict=True):
    assert ours.name == theirs.name and bool(tf.reduce_all(ours == theirs)), ours.name


def test_small_numbers_are_numbers_in_yaml(config):
  text = encoder_yaml.text(dataclasses.replace(config, hidden_dropout_prob=5e-05))
  assert yaml.safe_load(text)['albert']['dropout_rate'] == 5e-05


@pytest.mark.parametrize(
  'flags, status, message',
  [
    (['--to=huggingface', '--output=there'], 2, '--source'),
    (['--source={module}', '--output=there'], 2, '--to'),
    (['--source={module}', '--to=pickle', '--output=there'], 2, '--to'),
    (['--source={module}', '--to=huggingface', '--output='], 2, '--output'),
    (['--source={module}', '--to=checkpoint', '--architecture=AlbertModel', '--output=there'], 2, '--architecture'),
    (['--source={module}', '--to=huggingface', '--with_mlm', '--output=there'], 2, '--with_mlm'),
    (['--source={module}', '--to=checkpoint', '--nopadding_free', '--output=there'], 2, '--padding_free'),
    (['--source={module}', '--to=onnx', '--corpus=texts.txt', '--output=there'], 2, '--corpus'),
    (['--source={module}', '--to=onnx', '--quantize=int8', '--corpus=texts.txt', '--output=there'], 1, 'texts.txt'),
    (['--source={module}', '--to=onnx', '--quantize=int8', '--corpus=', '--output=there'], 2, '--corpus: empty'),
    (['--source={module}', '--to=onnx', '--quantize=int8', '--corpus=.', '--output=there'], 1, 'Is a directory'),
    (['--source=nowhere', '--to=huggingface', '--output=there'], 1, 'nowhere'),
    (['--source={module}', '--to=huggingface', '--output={module}'], 1, 'exists'),
    (['--source={module}', '--to=checkpoint', '--output={module}/saved_model.pb/x'], 2, '--output'),
    (['--source={module}', '--to=checkpoint', '--output=no/such/place'], 2, '--output'),
    (['--source={module}', '--to=checkpoint', '--output=/proc/x'], 1, 'cannot be written'),
    (['--source={module}', '--to=huggingface', '--output={module}/there'], 2, 'inside the source'),
    (['--source=.', '--to=huggingface', '--output=there'], 1, 'no TF1 Hub module'),
  ],
)
def test_one_line_says_why_not(convert, module, tmp_path, flags, status, message):
  done = convert(*(flag.format(module=module) for flag in flags))
  assert done.returncode == status and done.stdout == '', done
  (line,) = done.stderr.splitlines()
  assert line.startswith('error: ') and message in line
  assert os.listdir(tmp_path) == []


def test_the_second_segment_of_a_pair_has_the_other_type(sp_model):
  pair = tokenizer_json.of(sp_model)['post_processor']['pair']
  types = [next(iter(part.values())) for part in pair]
  assert [(part['id'], part['type_id']) for part in types] == [
    ('[CLS]', 0),
    ('A', 0),
    ('[SEP]', 0),
    ('B', 1),
    ('[SEP]', 1),
  ]


@pytest.mark.real_processes
def test_onnx_runtime_leaves_no_files_of_its_telemetry(tmp_path):
  pytest.importorskip('onnxruntime')
  code = 'from converters import cli; cli.set_environment(); import onnxruntime; onnxruntime.get_available_providers()'
  environment = os.environ | {'HOME': str(tmp_path), 'TMPDIR': str(tmp_path), 'PYTHONPATH': commands.ROOT}
  environment.pop('ORT_DISABLE_TELEMETRY', None)
  subprocess.run([sys.executable, '-c', code], env=environment, check=True)
  assert os.listdir(tmp_path) == []
