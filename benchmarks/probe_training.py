"""Times training steps with an encoder's SavedModel, and prints one line of JSON.

  python -m benchmarks.probe_training PATH --vocab_size=30000

Times the first step and steady steps of hub.KerasLayer(PATH, trainable=True), as Keras' fit runs them. Needs
TF_USE_LEGACY_KERAS=1.
"""

import argparse
import json

import tensorflow as tf
import tensorflow_hub as hub
import tf_keras

from benchmarks import encoders
from benchmarks import timing


def main() -> None:
  """Prints the seconds of the first step and of a steady step."""
  parser = argparse.ArgumentParser()
  parser.add_argument('path')
  parser.add_argument('--vocab_size', type=int, required=True)
  parser.add_argument('--seconds', type=float, default=timing.SECONDS, help='time for steady steps')
  arguments = parser.parse_args()
  inputs = {name: tf_keras.layers.Input(shape=(None,), dtype=tf.int32, name=name) for name in encoders.INPUTS}
  pooled = hub.KerasLayer(arguments.path, trainable=True)(inputs)['pooled_output']
  model = tf_keras.Model(inputs, tf_keras.layers.Dense(2)(pooled))
  # Plain gradient descent: an optimizer with slots would add the same time and memory to every encoder.
  model.compile(tf_keras.optimizers.SGD(1e-3), tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
  batch = encoders.make_batch(arguments.vocab_size, timing.FIRST), tf.range(timing.FIRST[0]) % 2
  # Not train_on_batch: it makes a tf.data iterator, and at the end waits up to 5 s for a sleeping thread of it.
  batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
  train = model.make_train_function()

  def step() -> None:
    train(batches)['loss'].numpy()

  print(json.dumps({'first_step': timing.timed(step), 'steady_step': timing.steady(step, arguments.seconds)}))


if __name__ == '__main__':
  main()
