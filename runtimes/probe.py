"""Runs an exported encoder and its preprocessor in whatever environment runs this file, and holds what they compute against a record.

  python probe.py --encoder=PATH --preprocessor=PATH --record=FILE.npz      # what they compute here
  python probe.py --encoder=PATH --preprocessor=PATH --expected=FILE.npz    # ... and whether it is what they computed
  there
  python probe.py --encoder=PATH --preprocessor=PATH --text=PATH ...        # ... and of the model from text to vectors
  that is made of both

Takes TensorFlow from 2.11 on, TF-Text of the same release, NumPy, and Python from 3.7 on; nothing else of this project.
Prints one line of
JSON: the versions, and for each check how far off it was, what is allowed, and its faults.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
from typing import Any
from typing import Iterator

import numpy as np
import tensorflow as tf
import tensorflow_text

# The same graph, weights and inputs: two releases of TensorFlow differ by the order in which their kernels add up.
# Outputs are of the order of 1 (layer norms, tanh), and float32 has 1.2e-7 there: 4 layers came to 1.3e-6, 12 to
# 4.1e-6. A wrong operation is off by 1e-2 and more.
OUTPUTS = 1e-5
# By the largest derivative of a layer: each is a sum over the whole batch, in which much cancels out.
GRADIENTS = 1e-4

NAMES = ('input_word_ids', 'input_mask', 'input_type_ids')
# Short, long, empty, padded, composed and decomposed, more than one script.
TEXTS = (
  'The ferry was late.',
  'A fox crossed the pond, and nobody saw it.',
  '',
  '  In  1,000 na\u00efve \uff26\uff4f\uff52\uff4d\uff53, STRASSE or Stra\u00dfe? ',
  '\u65e5\u672c\u8a9e \u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03b1\u0301 \U0001f600',
  'word ' * 200,
)
_PAIR_LENGTH = 40
# Added to all keys alike, it moves no attention: its derivative is zero but for rounding.
_WITHOUT_DERIVATIVE = 'self_attention/key/bias'


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--encoder', required=True)
  parser.add_argument('--preprocessor', required=True)
  parser.add_argument('--text')
  parser.add_argument('--interface', choices=('dict', 'list'), default='dict')
  place = parser.add_mutually_exclusive_group(required=True)
  place.add_argument('--record')
  place.add_argument('--expected')
  arguments = parser.parse_args()
  ledger = Ledger()
  if arguments.expected:
    with np.load(arguments.expected) as expected:
      ledger = Ledger({name: expected[name] for name in expected.files})
  run(arguments.encoder, arguments.preprocessor, arguments.interface, ledger, arguments.text)
  if arguments.record:
    values: dict[str, Any] = ledger.values
    np.savez(arguments.record, **values)
  print(json.dumps({'versions': versions(), 'checks': ledger.checks}))


def versions() -> dict[str, str]:
  """What is installed here."""
  return {
    'python': platform.python_version(),
    'tensorflow': tf.__version__,
    'tensorflow-text': tensorflow_text.__version__,
    'keras': getattr(tf.keras, '__version__', 'unknown'),
    'numpy': np.__version__,
  }


class Ledger:
  """What was computed, and how far from it is what is computed now.

  Attributes:
    values: arrays by name. Of a value that nobody has computed before, the first one counts.
    checks: by name, `distance` (the largest there was, see `hold`), `allowed` (None if nothing was held), and `faults`.
  """

  def __init__(self, expected: dict[str, np.ndarray] | None = None) -> None:
    """`expected` are the values of another ledger: then each of them has to be computed here too, and no other."""
    self.values = dict(expected or {})
    self.checks: dict[str, dict[str, Any]] = {}
    self._recording = expected is None
    self._computed: set[str] = set()
    self._current: dict[str, Any] = {}

  @contextlib.contextmanager
  def check(self, name: str) -> Iterator[None]:
    """A context for one check: whatever goes wrong in it is a fault of it, and the next one is made all the same."""
    self._current = self.checks[name] = {'distance': 0.0, 'allowed': None, 'faults': []}
    try:
      yield
    except Exception as e:  # of another TensorFlow: nobody knows which
      self.fault(f'{type(e).__name__}: {" ".join(str(e).split())[:300]}')

  def fault(self, text: str) -> None:
    self._current['faults'].append(text)

  def record(self, name: str, value: Any) -> None:
    """Takes an array for the record, where one is being made and has no such value."""
    if self._recording:
      self.values.setdefault(name, np.asarray(value))

  def hold(self, name: str, value: Any, allowed: float = 0.0, scale: float | None = None) -> None:
    """Holds an array against the value of that name.

    Args:
      name: e.g. 'pooled_output'.
      value: the array.
      allowed: the most that it may be off; 0 for what must be the same.
      scale: what the distance is relative to; default: the largest number expected, or 1.
    """
    self.record(name, value)
    self._computed.add(name)
    if name not in self.values:
      self.fault(f'{name} was not recorded')
      return
    value, expected = np.asarray(value), self.values[name]
    if value.shape != expected.shape or value.dtype != expected.dtype:
      self.fault(f'{name} is {value.dtype} {value.shape} instead of {expected.dtype} {expected.shape}')
      return
    apart = np.abs(value.astype(np.float64) - expected.astype(np.float64))
    distance = float(np.max(apart)) / (scale or max(1.0, float(np.max(np.abs(expected)))))
    if not distance <= allowed:  # not a number is no distance either
      self.fault(f'{name} is {distance:.1e} from what was recorded, and may be {allowed:.0e}')
    self._current['distance'] = max(self._current['distance'], distance)
    self._current['allowed'] = max(self._current['allowed'] or 0.0, allowed)

  def close(self) -> None:
    """Checks that all that was recorded was computed."""
    with self.check('complete'):
      for name in sorted(set(self.values) - self._computed):
        self.fault(f'{name} was not computed')

  @property
  def faults(self) -> list[str]:
    return [f'{name}: {fault}' for name, check in self.checks.items() for fault in check['faults']]


def run(
  encoder_path: str, preprocessor_path: str, interface: str, ledger: Ledger, text_path: str | None = None
) -> None:
  """Makes all checks of an encoder and its preprocessor, and of the model from text to vectors.

  Args:
    encoder_path, preprocessor_path: their SavedModels.
    interface: the encoder's, 'dict' or 'list'.
    ledger: takes what is found.
    text_path: of a model from text to vectors, whose outputs and gradient are to be those of the encoder; None for
      none.
  """
  with ledger.check('load'):
    preprocessor = tf.saved_model.load(preprocessor_path)
    encoder = tf.saved_model.load(encoder_path)
  if ledger.faults:
    return
  with ledger.check('text to tensors'):
    for tensors in (
      preprocessor(tf.constant(TEXTS)),
      preprocessor.signatures['serving_default'](sentences=tf.constant(TEXTS)),
    ):
      for name in NAMES:
        ledger.hold(name, tensors[name])
  with ledger.check('pairs of texts'):
    segments = [preprocessor.tokenize(tf.constant(texts)) for texts in (TEXTS, TEXTS[::-1])]
    packed = preprocessor.bert_pack_inputs(segments, seq_length=_PAIR_LENGTH)
    for name in NAMES:
      ledger.hold(f'pair/{name}', packed[name])
    for name, value in preprocessor.tokenize.get_special_tokens_dict().items():
      ledger.hold(f'special_tokens/{name}', value)
  if not ledger.values.keys() >= set(NAMES):
    return
  # Those that were recorded: what follows shall not fail for another reason than its own.
  inputs = {name: tf.constant(ledger.values[name]) for name in NAMES}
  with ledger.check('outputs'):
    _hold_outputs(ledger, _call(encoder, interface, inputs))
  with ledger.check('signature'):
    _hold_outputs(ledger, encoder.signatures['serving_default'](**inputs))
  if interface == 'dict':
    with ledger.check('heads'):
      positions = tf.constant([[1, 3]] * len(TEXTS))
      ledger.hold('mlm_logits', encoder.mlm(dict(inputs, masked_lm_positions=positions))['mlm_logits'], OUTPUTS)
      ledger.hold('sop_log_probs', encoder.sop(inputs)['sop_log_probs'], OUTPUTS)
  keras = _keras_3()
  if keras is not None:
    with ledger.check('TFSMLayer of Keras 3'):
      _run_in_keras(ledger, keras, encoder_path, preprocessor_path, interface, len(encoder.trainable_variables))
  with ledger.check('gradient'):
    _hold_gradient(ledger, encoder, interface, inputs)
  if text_path is not None:
    _check_text(ledger, keras, text_path)
  with ledger.check('training mode'):
    one, other = (np.asarray(_call(encoder, interface, inputs, training=True)['sequence_output']) for _ in range(2))
    if not np.all(np.isfinite(one)):
      ledger.fault('sequence_output with training=True is not finite')
    dropout = not np.array_equal(one, other)
    ledger.hold('dropout', np.array(dropout))
    if not dropout:
      ledger.hold('sequence_output', one, OUTPUTS)
  with ledger.check('training step'):
    _train(ledger, encoder, interface, inputs)  # the last: the weights are others afterwards
  ledger.close()


def _call(encoder: Any, interface: str, inputs: Any, **kwargs: bool) -> dict[str, Any]:
  if interface == 'dict':
    return encoder(inputs, **kwargs)
  pooled_output, sequence_output = encoder([inputs[name] for name in NAMES], **kwargs)
  return {'pooled_output': pooled_output, 'sequence_output': sequence_output}


def _hold_outputs(ledger: Ledger, outputs: dict[str, Any]) -> None:
  for name in ('pooled_output', 'sequence_output'):
    ledger.hold(name, outputs[name], OUTPUTS)
  for number, layer in enumerate(outputs.get('encoder_outputs', [])):
    ledger.hold(f'layer_{number}', layer, OUTPUTS)


def _keras_3() -> Any:
  """Keras, if there is one of that generation here; else None."""
  try:
    import keras
  except ImportError:
    return None
  return keras if int(keras.__version__.split('.')[0]) >= 3 else None


def _run_in_keras(
  ledger: Ledger, keras: Any, encoder_path: str, preprocessor_path: str, interface: str, trainable: int
) -> None:
  """From text to vectors in one Keras model."""
  text = keras.Input(shape=(), dtype='string')
  tensors = keras.layers.TFSMLayer(preprocessor_path, call_endpoint='__call__')(text)
  layer = keras.layers.TFSMLayer(encoder_path, call_endpoint='__call__')
  outputs = layer([tensors[name] for name in NAMES] if interface == 'list' else tensors)
  if interface == 'list':
    outputs = {'pooled_output': outputs[0], 'sequence_output': outputs[1]}
  _hold_outputs(ledger, keras.Model(text, outputs)(tf.constant(TEXTS)))
  if len(layer.trainable_variables) != trainable:
    ledger.fault(f'it has {len(layer.trainable_variables)} trainable variables instead of {trainable}')


def _check_text(ledger: Ledger, keras: Any, text_path: str) -> None:
  """What comes out for texts is what the encoder gave for the tensors that they become."""
  sentences = tf.constant(TEXTS)
  with ledger.check('text to vectors'):
    text = tf.saved_model.load(text_path)
    _hold_outputs(ledger, text(sentences))
    _hold_outputs(ledger, text.signatures['serving_default'](sentences=sentences))
  if keras is not None:
    with ledger.check('text to vectors, TFSMLayer'):
      inputs = keras.Input(shape=(), dtype='string')
      layer = keras.layers.TFSMLayer(text_path, call_endpoint='__call__')
      _hold_outputs(ledger, keras.Model(inputs, layer(inputs))(sentences))
  with ledger.check('text to vectors, gradient'):
    _hold_gradient(ledger, tf.saved_model.load(text_path), 'dict', sentences)


def _loss(ledger: Ledger, encoder: Any, interface: str, inputs: Any, training: bool) -> Any:
  """A fixed combination of all numbers that come out. (With equal factors, a layer norm's would have no derivative.)"""
  outputs = _call(encoder, interface, inputs, training=training)
  terms = []
  for name in ('pooled_output', 'sequence_output'):
    shape = ledger.values[name].shape
    factors = np.sin(np.arange(np.prod(shape))).reshape(shape).astype(np.float32)
    terms.append(tf.reduce_mean(outputs[name] * factors))
  return tf.add_n(terms)


def derivatives(ledger: Ledger, encoder: Any, interface: str, inputs: Any, training: bool) -> dict[str, Any]:
  """Derivatives by variable name, as arrays; None where there is none. In a graph, as users train."""

  @tf.function(autograph=False)
  def differentiate() -> list[Any]:
    with tf.GradientTape() as tape:
      loss = _loss(ledger, encoder, interface, inputs, training)
    gradient = tape.gradient(loss, encoder.trainable_variables)
    return [None if derivative is None else tf.convert_to_tensor(derivative) for derivative in gradient]

  names = [variable.name for variable in encoder.trainable_variables]
  return {
    name: None if derivative is None else np.asarray(derivative) for name, derivative in zip(names, differentiate())
  }


def _hold_gradient(ledger: Ledger, encoder: Any, interface: str, inputs: Any) -> None:
  gradient = {
    f'gradient/{name}': derivative
    for name, derivative in derivatives(ledger, encoder, interface, inputs, False).items()
  }
  for name in [name for name, derivative in gradient.items() if derivative is None]:
    ledger.fault(f'no {name}')
    del gradient[name]
  for name, derivative in gradient.items():
    ledger.record(name, derivative)
  for name, derivative in gradient.items():
    # By the largest of its layer: a bias of keys has nothing of its own to be measured by.
    layer = name.rpartition('/')[0]
    scale = max(
      [float(np.max(np.abs(value))) for key, value in ledger.values.items() if key.rpartition('/')[0] == layer],
      default=1.0,
    )
    ledger.hold(name, derivative, GRADIENTS, scale)


def _train(ledger: Ledger, encoder: Any, interface: str, inputs: dict[str, Any]) -> None:
  """A step of descent: there is a derivative by every variable, and what is to become less does."""
  gradient = derivatives(ledger, encoder, interface, inputs, True)
  for name, derivative in gradient.items():
    if derivative is None:
      ledger.fault(f'no derivative by {name}')
    elif not np.all(np.isfinite(derivative)):
      ledger.fault(f'the derivative by {name} is not finite')
    elif not np.any(derivative) and _WITHOUT_DERIVATIVE not in name:
      ledger.fault(f'the derivative by {name} is zero')
  if ledger.faults:
    return
  before = float(_loss(ledger, encoder, interface, inputs, False))
  length = float(np.sqrt(sum(np.sum(np.square(derivative, dtype=np.float64)) for derivative in gradient.values())))
  for variable in encoder.trainable_variables:
    variable.assign_sub(gradient[variable.name] * np.float32(1e-2 / length))
  after = float(_loss(ledger, encoder, interface, inputs, False))
  if not after < before:
    ledger.fault(f'a step of descent took what it was to make less from {before:.6f} to {after:.6f}')


if __name__ == '__main__':
  main()
