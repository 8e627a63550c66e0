"""Runs an exported encoder and its preprocessor in the current environment, and compares the results with a record.

  python probe.py --encoder=PATH --preprocessor=PATH --record=FILE.npz      # records the results
  python probe.py --encoder=PATH --preprocessor=PATH --expected=FILE.npz    # compares the results with a record
  python probe.py --encoder=PATH --preprocessor=PATH --text=PATH ...        # includes the text model made of both

Needs TensorFlow 2.11 or later, TF-Text of the same release, NumPy, and Python 3.7 or later. Imports nothing else of
this project. Prints one line of JSON: the versions, and the distance, tolerance and faults of each check.
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

# Tolerance of outputs. With the same graph, weights and inputs, releases of TensorFlow differ by the order of additions
# in their kernels. Outputs are of the order of 1 (layer norms, tanh), where float32 has an epsilon of 1.2e-7. Measured
# differences are 1.3e-6 with 4 layers and 4.1e-6 with 12. A wrong operation differs by 1e-2 or more.
OUTPUTS = 1e-5
# Tolerance of derivatives, relative to the largest one of a layer: each is a sum over the batch with much cancellation.
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
# A bias of all keys does not change attention, so its derivative is zero up to rounding.
_WITHOUT_DERIVATIVE = 'self_attention/key/bias'


def main() -> None:
  """Runs all checks, and prints the versions and checks as JSON."""
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
  """Returns the version of Python and of each library."""
  return {
    'python': platform.python_version(),
    'tensorflow': tf.__version__,
    'tensorflow-text': tensorflow_text.__version__,
    'keras': getattr(tf.keras, '__version__', 'unknown'),
    'numpy': np.__version__,
  }


class Ledger:
  """Compares arrays with recorded ones, and collects the faults of checks.

  Attributes:
    values: recorded arrays by name. While recording, the first array of a name is recorded.
    checks: by check name, `distance` (largest distance, see `hold`), `allowed` (largest tolerance; None without a
      comparison) and `faults` (list of messages).
  """

  def __init__(self, expected: dict[str, np.ndarray] | None = None) -> None:
    """Starts a comparison with `expected`, the values of another ledger; None starts a recording."""
    self.values = dict(expected or {})
    self.checks: dict[str, dict[str, Any]] = {}
    self._recording = expected is None
    self._computed: set[str] = set()
    self._current: dict[str, Any] = {}

  @contextlib.contextmanager
  def check(self, name: str) -> Iterator[None]:
    """Returns the context of one check. An exception in it becomes a fault, and later checks still run."""
    self._current = self.checks[name] = {'distance': 0.0, 'allowed': None, 'faults': []}
    try:
      yield
    except Exception as e:  # other versions of TensorFlow may raise any exception
      self.fault(f'{type(e).__name__}: {" ".join(str(e).split())[:300]}')

  def fault(self, text: str) -> None:
    """Adds a fault to the current check."""
    self._current['faults'].append(text)

  def record(self, name: str, value: Any) -> None:
    """Records an array while recording, unless the name is already recorded."""
    if self._recording:
      self.values.setdefault(name, np.asarray(value))

  def hold(self, name: str, value: Any, allowed: float = 0.0, scale: float | None = None) -> None:
    """Compares an array with the recorded one, and adds a fault if they differ.

    Args:
      name: name of the array, as 'pooled_output'.
      value: array to compare.
      allowed: tolerance of the relative distance; 0 for exact equality.
      scale: divisor of the distance. Default: the largest recorded absolute value, at least 1.
    """
    self.record(name, value)
    self._computed.add(name)
    if name not in self.values:
      self.fault(f'{name} is not in the record')
      return
    value, expected = np.asarray(value), self.values[name]
    if value.shape != expected.shape or value.dtype != expected.dtype:
      self.fault(f'{name} is {value.dtype} {value.shape} instead of {expected.dtype} {expected.shape}')
      return
    apart = np.abs(value.astype(np.float64) - expected.astype(np.float64))
    distance = float(np.max(apart)) / (scale or max(1.0, float(np.max(np.abs(expected)))))
    if not distance <= allowed:  # also true for NaN
      self.fault(f'{name} is {distance:.1e} from the record (at most {allowed:.0e})')
    self._current['distance'] = max(self._current['distance'], distance)
    self._current['allowed'] = max(self._current['allowed'] or 0.0, allowed)

  def close(self) -> None:
    """Adds the check 'complete', with a fault for each recorded array that was not computed."""
    with self.check('complete'):
      for name in sorted(set(self.values) - self._computed):
        self.fault(f'{name} was not computed')

  @property
  def faults(self) -> list[str]:
    """All faults, each after the name of its check."""
    return [f'{name}: {fault}' for name, check in self.checks.items() for fault in check['faults']]


def run(
  encoder_path: str, preprocessor_path: str, interface: str, ledger: Ledger, text_path: str | None = None
) -> None:
  """Runs all checks of an encoder, its preprocessor and the text model.

  Args:
    encoder_path: directory of the encoder's SavedModel.
    preprocessor_path: directory of the preprocessor's SavedModel.
    interface: interface of the encoder, 'dict' or 'list'.
    ledger: ledger that takes the results.
    text_path: directory of the text model, whose outputs and gradient must be those of the encoder; None without one.
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
  # The recorded tensors, so that a fault of the preprocessor does not fail the checks of the encoder.
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
    with ledger.check('padding-free'):
      _hold_outputs(ledger, encoder.padding_free(inputs), padding_free=True)
      _hold_outputs(ledger, encoder.signatures['serving_padding_free'](**inputs), padding_free=True)
      _hold_gradient(ledger, encoder.padding_free, interface, inputs)
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
      ledger.hold('sequence_output', one * ledger.values['input_mask'][:, :, np.newaxis].astype(np.float32), OUTPUTS)
  with ledger.check('training step'):
    _train(ledger, encoder, interface, inputs)  # the last check, because it changes the weights
  ledger.close()


def _call(encoder: Any, interface: str, inputs: Any, **kwargs: bool) -> dict[str, Any]:
  if interface == 'dict':
    return encoder(inputs, **kwargs)
  pooled_output, sequence_output = encoder([inputs[name] for name in NAMES], **kwargs)
  return {'pooled_output': pooled_output, 'sequence_output': sequence_output}


def _hold_outputs(ledger: Ledger, outputs: dict[str, Any], padding_free: bool = False) -> None:
  """Holds the outputs, without padding, whose values mean nothing; they must be zero in a padding-free call."""
  mask = ledger.values['input_mask'][:, :, np.newaxis].astype(np.float32)
  ledger.hold('pooled_output', outputs['pooled_output'], OUTPUTS)
  sequences = {f'layer_{number}': layer for number, layer in enumerate(outputs.get('encoder_outputs', []))}
  for name, value in dict(sequences, sequence_output=outputs['sequence_output']).items():
    array = np.asarray(value)
    ledger.hold(name, array * mask, OUTPUTS)
    if padding_free and array.shape[:2] == mask.shape[:2] and np.any(array * (1 - mask)):
      ledger.fault(f'{name} is not zero at padding')


def _keras_3() -> Any:
  """Returns the module of Keras 3 or later; None if it is not installed."""
  try:
    import keras
  except ImportError:
    return None
  return keras if int(keras.__version__.split('.')[0]) >= 3 else None


def _run_in_keras(
  ledger: Ledger, keras: Any, encoder_path: str, preprocessor_path: str, interface: str, trainable: int
) -> None:
  """Checks preprocessor and encoder as TFSMLayers of one Keras model."""
  text = keras.Input(shape=(), dtype='string')
  tensors = keras.layers.TFSMLayer(preprocessor_path, call_endpoint='__call__')(text)
  layer = keras.layers.TFSMLayer(encoder_path, call_endpoint='__call__')
  outputs = layer([tensors[name] for name in NAMES] if interface == 'list' else tensors)
  if interface == 'list':
    outputs = {'pooled_output': outputs[0], 'sequence_output': outputs[1]}
  _hold_outputs(ledger, keras.Model(text, outputs)(tf.constant(TEXTS)))
  if len(layer.trainable_variables) != trainable:
    ledger.fault(f'the layer has {len(layer.trainable_variables)} trainable variables instead of {trainable}')


def _check_text(ledger: Ledger, keras: Any, text_path: str) -> None:
  """Checks that outputs and gradient of the text model are those of the encoder after the preprocessor."""
  sentences = tf.constant(TEXTS)
  with ledger.check('text to vectors'):
    text = tf.saved_model.load(text_path)
    _hold_outputs(ledger, text(sentences), padding_free=True)
    _hold_outputs(ledger, text.signatures['serving_default'](sentences=sentences), padding_free=True)
  if keras is not None:
    with ledger.check('text to vectors, TFSMLayer'):
      inputs = keras.Input(shape=(), dtype='string')
      layer = keras.layers.TFSMLayer(text_path, call_endpoint='__call__')
      _hold_outputs(ledger, keras.Model(inputs, layer(inputs))(sentences))
  with ledger.check('text to vectors, gradient'):
    _hold_gradient(ledger, tf.saved_model.load(text_path), 'dict', sentences)


def _loss(ledger: Ledger, encoder: Any, interface: str, inputs: Any, training: bool) -> Any:
  """Returns a fixed linear combination of all outputs.

  The factors differ: with equal factors, the derivative by the weights of a layer norm would be zero.
  """
  outputs = _call(encoder, interface, inputs, training=training)
  terms = []
  for name in ('pooled_output', 'sequence_output'):
    shape = ledger.values[name].shape
    factors = np.sin(np.arange(np.prod(shape))).reshape(shape).astype(np.float32)
    if name == 'sequence_output':
      factors = factors * ledger.values['input_mask'][:, :, np.newaxis]
    terms.append(tf.reduce_mean(outputs[name] * factors.astype(np.float32)))
  return tf.add_n(terms)


def derivatives(ledger: Ledger, encoder: Any, interface: str, inputs: Any, training: bool) -> dict[str, Any]:
  """Returns the derivatives of the loss by variable name, as arrays, or None for a variable without a derivative.

  They are computed in a graph, as in training.

  Args:
    ledger: ledger with the recorded outputs, whose shapes are needed.
    encoder: loaded encoder or text model.
    interface: interface of the encoder, 'dict' or 'list'.
    inputs: inputs of the encoder by name, or texts.
    training: whether the encoder runs in training mode.
  """

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
    # The scale is the largest derivative of the layer, since the derivative of a bias of keys is zero.
    layer = name.rpartition('/')[0]
    scale = max(
      [float(np.max(np.abs(value))) for key, value in ledger.values.items() if key.rpartition('/')[0] == layer],
      default=1.0,
    )
    ledger.hold(name, derivative, GRADIENTS, scale)


def _train(ledger: Ledger, encoder: Any, interface: str, inputs: dict[str, Any]) -> None:
  """Checks one step of gradient descent: each variable has a non-zero derivative, and the loss decreases."""
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
    ledger.fault(f'a step of gradient descent changed the loss from {before:.6f} to {after:.6f}')


if __name__ == '__main__':
  main()
