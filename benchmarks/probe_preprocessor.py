"""Times a preprocessor's SavedModel, whoever made it, and prints one line of JSON.

  python -m benchmarks.probe_preprocessor PATH
"""

import argparse
import itertools
import json
import pathlib

import tensorflow as tf
import tensorflow_hub as hub
import tensorflow_text  # noqa: F401  the preprocessor's operations

from benchmarks import timing

_CORPUS = pathlib.Path(__file__).resolve().parents[1] / 'assets/demo/corpus.txt'
_BATCH = 256


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('path')
  preprocessor = hub.load(parser.parse_args().path)
  sentences = _CORPUS.read_text(encoding='utf-8').splitlines()
  texts = tf.constant(list(itertools.islice(itertools.cycle(sentences), _BATCH)))
  seconds = timing.steady(lambda: preprocessor(texts)['input_word_ids'].numpy())
  print(json.dumps({'seconds_per_text': seconds / _BATCH, 'texts_per_second': _BATCH / seconds}))


if __name__ == '__main__':
  main()
