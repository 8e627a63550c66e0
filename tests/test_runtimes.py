"""The probe of other environments passes on published artifacts, and reports differences.

It runs in this environment only.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from support import commands

from runtimes import __main__ as runtimes
from runtimes import probe

CHECKS = [
  'load',
  'text to tensors',
  'pairs of texts',
  'outputs',
  'signature',
  'heads',
  'padding-free',
  'TFSMLayer of Keras 3',
  'gradient',
  'training mode',
  'training step',
  'complete',
]


def _paths(history, version):
  return [str(history / f'tensorflow/albert_en_demo{kind}/{version}') for kind in ('', '_preprocess')]


@pytest.fixture(scope='module')
def recorded(history):
  """Recorded results of version 3."""
  ledger = probe.Ledger()
  probe.run(*_paths(history, 3), 'dict', ledger)
  assert not ledger.faults
  return ledger.values


def _probed(paths, expected, interface='dict'):
  ledger = probe.Ledger(expected)
  probe.run(*paths, interface, ledger)
  return ledger


def test_every_derivative_is_recorded(history, recorded):
  assert {name for name in recorded if name.startswith('gradient/')} == {
    f'gradient/{variable.name}' for variable in tf.saved_model.load(_paths(history, 3)[0]).trainable_variables
  }


TEXT_CHECKS = ['text to vectors', 'text to vectors, TFSMLayer', 'text to vectors, gradient']


def _probed_text(history, version, expected, text):
  ledger = probe.Ledger(expected)
  probe.run(*_paths(history, version), 'dict', ledger, str(history / f'tensorflow/albert_en_demo_text/{text}'))
  return ledger


@pytest.mark.slow
def test_text_passes_and_computes_the_same(history, recorded):
  ledger = _probed_text(history, 3, recorded, 3)
  before = CHECKS.index('training mode')
  assert not ledger.faults and list(ledger.checks) == CHECKS[:before] + TEXT_CHECKS + CHECKS[before:]


@pytest.mark.slow
def test_text_that_differs_is_named(history, recorded):
  # The same weights with another preprocessor.
  faults = _probed_text(history, 3, recorded, 4).faults
  assert {fault.partition(':')[0] for fault in faults} == set(TEXT_CHECKS)
  assert any(fault.startswith('text to vectors: layer_0 is ') for fault in faults) and any(
    ': gradient/' in fault for fault in faults
  )


@pytest.mark.slow
def test_lists_pass_and_compute_the_same(history, recorded):
  ledger = probe.Ledger()
  probe.run(*_paths(history, 1), 'list', ledger)
  assert not ledger.faults and list(ledger.checks) == [
    check for check in CHECKS if check not in ('heads', 'padding-free')
  ]
  np.testing.assert_allclose(ledger.values['pooled_output'], recorded['pooled_output'], atol=1e-6)  # one set of weights


@pytest.mark.slow
def test_dropout_passes_and_is_expected(make_module, release, recorded):
  path, _ = release(make_module(hidden_dropout=0.1, attention_dropout=0.1))
  paths = [str(path), str(path.parents[1] / 'albert_en_tiny_preprocess/3')]
  ledger = probe.Ledger()
  probe.run(*paths, 'dict', ledger)
  assert not ledger.faults and ledger.values['dropout']
  assert any(
    'training mode: dropout' in fault for fault in _probed(paths, ledger.values | {'dropout': np.array(False)}).faults
  )


# Compared arrays by name, with their checks.
HELD = {
  'input_type_ids': 2 * ['text to tensors'],
  'pair/input_type_ids': ['pairs of texts'],
  'special_tokens/mask_id': ['pairs of texts'],
  'pooled_output': ['outputs', 'signature', 'padding-free', 'padding-free', 'TFSMLayer of Keras 3'],
  'layer_1': ['outputs', 'padding-free', 'TFSMLayer of Keras 3'],
  'sequence_output': ['outputs', 'signature', 'padding-free', 'padding-free', 'TFSMLayer of Keras 3', 'training mode'],
  'mlm_logits': ['heads'],
  'sop_log_probs': ['heads'],
  'gradient/transformer/self_attention/value/kernel:0': ['padding-free', 'gradient'],
}


@pytest.mark.parametrize(
  'names',
  [pytest.param(['input_type_ids'], marks=pytest.mark.slow), [name for name in HELD if name != 'input_type_ids']],
  ids=['inputs', 'the others'],
)
@pytest.mark.slow
def test_what_differs_is_named(history, recorded, names):
  other = dict(recorded)
  for name in names:
    value = recorded[name]
    other[name] = value + 1 if value.dtype.kind == 'i' else value + np.float32(2e-5 * max(1, np.abs(value).max()))
    if name.startswith('gradient/'):
      other[name] = value * np.float32(1.5)
  faults = _probed(_paths(history, 3), other).faults
  for name in names:
    assert [fault.partition(':')[0] for fault in faults if f': {name} is ' in fault] == HELD[name]
  if 'input_type_ids' not in names:
    assert len(faults) == sum(len(HELD[name]) for name in names)


@pytest.mark.slow
def test_what_is_missing_or_new_is_named(history, recorded):
  other = {name: value for name, value in recorded.items() if name != 'layer_2'} | {'layer_3': recorded['layer_2']}
  assert _probed(_paths(history, 3), other).faults == [
    'outputs: layer_2 is not in the record',
    'padding-free: layer_2 is not in the record',
    'TFSMLayer of Keras 3: layer_2 is not in the record',
    'complete: layer_3 was not computed',
  ]


def test_no_model_is_a_fault(history, recorded, tmp_path):
  ledger = _probed([str(tmp_path), _paths(history, 3)[1]], recorded)
  assert list(ledger.checks) == ['load'] and str(tmp_path) in ledger.faults[0]


@pytest.mark.slow
def test_derivatives_that_are_none_or_no_numbers_are_named(history, recorded, monkeypatch):
  real = probe.derivatives
  damage = {
    'transformer/output/kernel:0': (lambda derivative: None, 'no derivative by '),
    'transformer/intermediate/kernel:0': (lambda derivative: derivative * np.float32('nan'), 'is not finite'),
    'transformer/self_attention/value/kernel:0': (lambda derivative: derivative * 0, 'is zero'),
  }

  def damaged(ledger, encoder, interface, inputs, training):
    found = real(ledger, encoder, interface, inputs, training)
    return found | {name: change(found[name]) for name, (change, _) in damage.items()} if training else found

  monkeypatch.setattr(probe, 'derivatives', damaged)
  faults = _probed(_paths(history, 3), recorded).faults
  assert len(faults) == 3 and all(fault.startswith('training step: ') for fault in faults)
  for name, (_, word) in damage.items():
    assert [fault for fault in faults if name in fault and word in fault]


@pytest.mark.slow
def test_a_step_that_does_not_descend_is_named(history, recorded, monkeypatch):
  real = probe.derivatives
  monkeypatch.setattr(
    probe,
    'derivatives',
    lambda *arguments: {
      name: -derivative if arguments[-1] else derivative for name, derivative in real(*arguments).items()
    },
  )
  faults = _probed(_paths(history, 3), recorded).faults
  assert len(faults) == 1 and faults[0].startswith('training step: a step of gradient descent changed')


@pytest.mark.slow
def test_as_a_program_it_records_and_compares(history, tmp_path):
  encoder, preprocessor = _paths(history, 3)
  record = tmp_path / 'record.npz'
  answers = []
  for place in (f'--record={record}', f'--expected={record}'):
    process = subprocess.run(
      [
        sys.executable,
        str(pathlib.Path(probe.__file__)),
        f'--encoder={encoder}',
        f'--preprocessor={preprocessor}',
        place,
      ],
      capture_output=True,
      text=True,
      cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr
    answers.append(json.loads(process.stdout.splitlines()[-1]))
  assert answers[0]['versions']['tensorflow'] == tf.__version__ and answers[0]['versions'].keys() >= {
    'python',
    'keras',
    'tensorflow-text',
    'numpy',
  }
  assert all(
    list(answer['checks']) == CHECKS and not any(check['faults'] for check in answer['checks'].values())
    for answer in answers
  )


def test_cells():
  assert [
    runtimes.cell(check)
    for check in (
      None,
      {'distance': 0.0, 'allowed': None, 'faults': []},
      {'distance': 0.0, 'allowed': 1e-5, 'faults': []},
      {'distance': 2.5e-7, 'allowed': 1e-5, 'faults': []},
      {'distance': 1.0, 'allowed': 1e-5, 'faults': ['x']},
    )
  ] == ['-', 'passed', 'same', '2.5e-07', 'FAILED']


@pytest.mark.slow
def test_an_environment_that_fails_is_told_and_is_no_pass(tmp_path):
  answer = runtimes.probe_environment(sys.executable, ['--nothing'], tmp_path / 'log')
  with pytest.raises(
    runtimes.RuntimesError, match=r'tensorflow-9: start: .*the following arguments are required.*see .*logs'
  ):
    runtimes.check_answers({'tensorflow-9': answer}, tmp_path)
  runtimes.check_answers({'tensorflow-9': {'checks': {'load': {'faults': []}}}}, tmp_path)


def test_no_environment_at_all_is_refused(python_module, tmp_path):
  commands.fails(
    commands.run(python_module('runtimes', f'--environments={tmp_path}/nothing', f'--work_dir={tmp_path}')),
    2,
    'all environments are missing',
  )


@pytest.mark.parametrize('value, faults', [([1.0, np.nan], 1), ([1.0, np.inf], 1), ([1.0, 2.0], 0)])
def test_what_is_no_number_is_no_match(value, faults):
  ledger = probe.Ledger({'pooled_output': np.array([1.0, 2.0], np.float32)})
  with ledger.check('outputs'):
    ledger.hold('pooled_output', np.array(value, np.float32), 1e-5)
  assert len(ledger.faults) == faults
