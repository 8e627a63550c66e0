"""Times what a fresh process does first with an encoder's SavedModel, and prints one line of JSON.

  python -m benchmarks.probe_first PATH --vocab_size=30000 --outputs=FILE.npy

hub.load, and the first call of what it returns, called as it is. The outputs of a second one are kept. Needs
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
