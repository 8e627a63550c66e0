"""TensorFlow's command saved_model_cli shows and runs published models: signatures work without code."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the preprocessor's operations)
from support import commands

COMMAND = [f'{commands.BIN}/saved_model_cli']
# Has TensorFlow imported: see fork_server.
FORKED = ['-m', 'tensorflow.python.tools.saved_model_cli']
# The command knows only TensorFlow's operations. Importing TF-Text registers its operations.
WITH_TEXT = [
  sys.executable,
  '-c',
  'import tensorflow_text; from tensorflow.python.tools import saved_model_cli; saved_model_cli.main()',
]
SIGNATURE = ['--tag_set', 'serve', '--signature_def', 'serving_default']


def _output(command, *arguments):
  process = subprocess.run(
    [*command, *map(str, arguments)], capture_output=True, text=True, env=os.environ | {'TF_CPP_MIN_LOG_LEVEL': '3'}
  )
  assert process.returncode == 0, process.stderr
  return process.stdout


@pytest.mark.parametrize('interface', [1, 3])
def test_show(history, interface):
  shown = _output(
    [sys.executable, *FORKED], 'show', '--dir', history / f'tensorflow/albert_en_demo/{interface}', *SIGNATURE
  )
  inputs, outputs = shown.split('output(s)')
  for name in ('input_word_ids', 'input_mask', 'input_type_ids'):
    assert f"inputs['{name}'] tensor_info:\n      dtype: DT_INT32\n      shape: (-1, -1)\n" in inputs
  for name, shape in (('default', '(-1, 16)'), ('pooled_output', '(-1, 16)'), ('sequence_output', '(-1, -1, 16)')):
    assert f"outputs['{name}'] tensor_info:\n      dtype: DT_FLOAT\n      shape: {shape}\n" in outputs


@pytest.mark.slow
def test_run_gives_what_the_loaded_encoder_gives(encoder_path, tmp_path):
  inputs = {
    'input_word_ids': np.array([[2, 17, 60, 3], [2, 5, 3, 0]], np.int32),
    'input_mask': np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int32),
    'input_type_ids': np.array([[0, 0, 1, 1], [0, 0, 0, 0]], np.int32),
  }
  for name, value in inputs.items():
    np.save(tmp_path / f'{name}.npy', value)
  _output(
    COMMAND,
    'run',
    '--dir',
    encoder_path,
    *SIGNATURE,
    '--outdir',
    tmp_path / 'outputs',
    '--inputs',
    ';'.join(f'{name}={tmp_path}/{name}.npy' for name in inputs),
  )
  expected = tf.saved_model.load(encoder_path)({name: tf.constant(value) for name, value in inputs.items()})
  assert sorted(os.listdir(tmp_path / 'outputs')) == ['default.npy', 'pooled_output.npy', 'sequence_output.npy']
  for name in ('default', 'pooled_output', 'sequence_output'):
    # Not the same bits: a session optimizes the graph as a whole.
    np.testing.assert_allclose(np.load(tmp_path / f'outputs/{name}.npy'), expected[name], atol=1e-6)


def test_run_gives_what_the_loaded_preprocessor_gives(preprocessor_path, tmp_path):
  _output(
    [sys.executable, *FORKED],
    'run',
    '--dir',
    preprocessor_path,
    *SIGNATURE,
    '--outdir',
    tmp_path,
    '--input_exprs',
    'sentences=["The ferry was late.", "Nobody minded."]',
  )
  expected = tf.saved_model.load(preprocessor_path)(tf.constant(['The ferry was late.', 'Nobody minded.']))
  for name in ('input_word_ids', 'input_mask', 'input_type_ids'):
    assert np.array_equal(np.load(tmp_path / f'{name}.npy'), expected[name])


@pytest.mark.slow
def test_run_takes_text_to_vectors(text_path, tmp_path):
  _output(
    WITH_TEXT,
    'run',
    '--dir',
    text_path,
    *SIGNATURE,
    '--outdir',
    tmp_path,
    '--input_exprs',
    'sentences=["The ferry was late.", "Nobody minded."]',
  )
  expected = tf.saved_model.load(text_path)(tf.constant(['The ferry was late.', 'Nobody minded.']))
  for name in ('default', 'pooled_output', 'sequence_output'):
    np.testing.assert_allclose(np.load(tmp_path / f'{name}.npy'), expected[name], atol=1e-6)
