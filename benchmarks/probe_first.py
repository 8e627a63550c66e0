"""Times loading and the first call of an encoder's SavedModel in a fresh process, and prints one line of JSON.

  python -m benchmarks.probe_first PATH --vocab_size=30000 --outputs=FILE.npy

Times hub.load and the first call of the loaded object. Saves the sequence output of a second call to FILE.npy. Needs
TF_USE_LEGACY_KERAS=1.
"""

import argparse
import functools
import json

import numpy as np
import tensorflow_hub as hub

from benchmarks import encoders
from benchmarks import timing


def main() -> None:
  """Prints the seconds of loading and of the first call."""
  parser = argparse.ArgumentParser()
  parser.add_argument('path')
  parser.add_argument('--vocab_size', type=int, required=True)
  parser.add_argument('--outputs', required=True)
  arguments = parser.parse_args()
  loaded = []
  figures = {'load': timing.timed(lambda: loaded.append(hub.load(arguments.path)))}
  encoder = loaded.pop()
  batch = encoders.make_batch(arguments.vocab_size, timing.FIRST)
  figures['first_call'] = timing.timed(functools.partial(encoders.call, encoder, batch))
  np.save(arguments.outputs, encoder(batch)['sequence_output'].numpy())
  print(json.dumps(figures))


if __name__ == '__main__':
  main()
