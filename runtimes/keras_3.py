"""Runs a published program that trains under Keras 3, and checks that it trained, saved and reloaded every weight.

  python runtimes/keras_3.py program.py

The program defines `encoder` (the layer), `inputs`, `labels`, `classifier` (trained, exported to the directory
'classifier') and `again` (the classifier saved and loaded). This file needs nothing of this project. It prints the
number of weights as JSON. Exit status 1 with the faults on standard error.
"""

import json
import runpy
import sys

import numpy as np

# A bias of all keys does not change attention, so its gradient is zero up to rounding.
_WITHOUT_GRADIENT = 'self_attention/key/bias'
# Float32: a reloaded or exported model runs in other graphs, which may add in another order.
_TOLERANCE = 1e-5
_HEAD = 2  # kernel and bias of the classifier's Dense layer


def main() -> None:
  """Runs the program, and checks its variables."""
  names = runpy.run_path(sys.argv[1])
  found = faults(names)
  if found:
    sys.exit('\n'.join(found))
  print(json.dumps({'weights': len(names['encoder'].trainable_weights)}))


def faults(names: dict) -> list:
  """Returns the faults of the program as messages.

  Args:
    names: the program's global variables.
  """
  import tensorflow as tf
  import tensorflow_hub as hub

  found = []
  encoder, classifier, again, inputs, labels = (
    names[name] for name in ('encoder', 'classifier', 'again', 'inputs', 'labels')
  )
  published = hub.load(encoder.handle).trainable_variables
  # The count and the sizes are those of the SavedModel.
  if [tuple(v.shape) for v in encoder.trainable_weights] != [tuple(v.shape) for v in published]:
    found.append(f'the layer has {len(encoder.trainable_weights)} weights instead of {len(published)}')
  if len(classifier.trainable_weights) != len(published) + _HEAD:
    found.append(f'the classifier has {len(classifier.trainable_weights)} weights instead of {len(published) + _HEAD}')

  trained = _values(encoder)
  found += [f'fit does not change {name}' for name in _unchanged(published, [v.numpy() for v in published], trained)]

  outputs = classifier.predict(inputs, verbose=0)
  (loaded,) = (layer for layer in again.layers if hasattr(layer, 'handle'))
  found += [
    f'the saved classifier has other values of {variable.name}'
    for variable, value, other in zip(published, trained, _values(loaded), strict=True)
    if not np.array_equal(value, other)
  ]
  exported = tf.saved_model.load('classifier')
  if len(exported.trainable_variables) != len(classifier.trainable_weights):
    found.append(f'the exported classifier has {len(exported.trainable_variables)} trainable variables')
  for name, other in (('saved', again.predict(inputs, verbose=0)), ('exported', exported.serve(inputs).numpy())):
    distance = float(np.max(np.abs(other - outputs)))
    if not distance <= _TOLERANCE:  # also true for NaN
      found.append(f'outputs of the {name} classifier are {distance:.1e} from the trained ones')

  again.fit(inputs, labels, verbose=0)
  found += [f'fit after loading does not change {name}' for name in _unchanged(published, trained, _values(loaded))]
  encoder.trainable = False
  classifier.compile('adam', classifier.loss)
  classifier.fit(inputs, labels, verbose=0)
  if not all(map(np.array_equal, trained, _values(encoder))):
    found.append('fit changes a layer that is not trainable')
  return found


def _values(layer):
  # The variables that the SavedModel's functions read.
  return [variable.numpy() for variable in layer.model.trainable_variables]


def _unchanged(variables, before, after):
  return [
    variable.name
    for variable, one, other in zip(variables, before, after, strict=True)
    if np.array_equal(one, other) and _WITHOUT_GRADIENT not in variable.name
  ]


if __name__ == '__main__':
  main()
