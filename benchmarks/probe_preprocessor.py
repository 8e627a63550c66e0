"""Times preprocessors' SavedModels in turns in one process, and prints one line of JSON with figures for each.

python -m benchmarks.probe_preprocessor PATH...
"""

import argparse
import functools
import itertools
import json
import pathlib
from collections.abc import Callable

import tensorflow as tf
import tensorflow_hub as hub
import tensorflow_text  # noqa: F401  the preprocessor's operations

from benchmarks import timing

_CORPUS = pathlib.Path(__file__).resolve().parents[1] / 'assets/demo/corpus.txt'
_BATCH = 256


def main() -> None:
  """Prints the seconds per text of each preprocessor."""
  parser = argparse.ArgumentParser()
  parser.add_argument('paths', nargs='+')
  parser.add_argument('--seconds', type=float, default=timing.SECONDS, help='time for each preprocessor')
  arguments = parser.parse_args()
  preprocessors = [hub.load(path) for path in arguments.paths]
  sentences = _CORPUS.read_text(encoding='utf-8').splitlines()
  texts = tf.constant(list(itertools.islice(itertools.cycle(sentences), _BATCH)))
  seconds = timing.steady_in_turns(
    [functools.partial(_call, preprocessor, texts) for preprocessor in preprocessors], arguments.seconds
  )
  print(json.dumps({'figures': [{'seconds_per_text': taken / _BATCH} for taken in seconds]}))


def _call(preprocessor: Callable[[tf.Tensor], dict[str, tf.Tensor]], texts: tf.Tensor) -> None:
  preprocessor(texts)['input_word_ids'].numpy()


if __name__ == '__main__':
  main()
