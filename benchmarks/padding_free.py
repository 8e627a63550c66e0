"""Compares the padding-free call with other calls of an encoder on padded batches, and writes a table.

  TF_USE_LEGACY_KERAS=1 python -m benchmarks.padding_free --release=DIR... [--text=DIR --preprocessor=DIR] --output=FILE

All calls take turns in one process; those of Transformers (--huggingface_python) in a second one, which idles in the
turns of the others. A figure is the median ratio of processor time to the plain call in the same turn. Peak memory is
measured in a subprocess for each call.
"""

import argparse
import collections
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks import encoders
from benchmarks import machine
from benchmarks import measure
from converters import albert_config
from converters import build_encoder

LENGTH = 128
_SHAPES = ((1, 25), (8, 25), (32, 25), (128, 25), (1, LENGTH), (8, LENGTH))
_STEPS = ((8, 25), (8, LENGTH))
# Lengths of texts, in tokens with [CLS] and [SEP]: a log-normal distribution, whose median is 0.9 of the mean, as in
# corpora of sentences; between 5 and 128.
_SIGMA = 0.46
_COLUMNS = ('padding-free', 'trimmed', 'tf-models', 'Transformers', 'Transformers, trimmed')
_NONE = ' - |' * (len(_COLUMNS) - 1)


def lengths(batch: int, mean: int, seed: int = 0) -> np.ndarray:
  """Returns deterministic lengths of texts, int [batch]; all 128 for that mean."""
  if mean == LENGTH:
    return np.full(batch, LENGTH)
  if batch == 1:
    return np.array([mean])
  drawn = np.random.default_rng(seed).lognormal(np.log(mean) - _SIGMA**2 / 2, _SIGMA, batch)
  return np.clip(np.rint(drawn * mean / drawn.mean()), 5, LENGTH).astype(int)


def make_batch(vocab_size: int, batch: int, mean: int) -> dict[str, tf.Tensor]:
  """Returns a padded batch, int32 [batch, 128] by input name."""
  mask = (np.arange(LENGTH) < lengths(batch, mean)[:, np.newaxis]).astype(np.int32)
  ids = np.random.default_rng(1).integers(5, vocab_size, mask.shape, dtype=np.int32) * mask
  return dict(zip(encoders.INPUTS, map(tf.constant, (ids, mask, np.zeros_like(mask))), strict=True))


def trimmed(call: Callable[..., Any]) -> Callable[..., Any]:
  """Returns the call on a batch that is cut to its longest text, as data collators pad."""

  def on_trimmed(batch: dict[str, tf.Tensor], **kwargs: Any) -> Any:
    longest = int(tf.reduce_max(tf.reduce_sum(batch['input_mask'], axis=1)))
    return call({name: value[:, :longest] for name, value in batch.items()}, **kwargs)

  return on_trimmed


def tf_models(config: albert_config.AlbertConfig) -> Callable[..., Any]:
  """Returns tf-models' AlbertEncoder as its users call it, with random weights."""
  encoder = build_encoder.new_encoder(
    dataclasses.replace(config, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
  )
  run = tf.function(lambda batch, training=False: encoder(batch, training=training))
  run.trainable_variables = encoder.trainable_variables
  return run


def training_step(call: Callable[..., Any], variables: Sequence[Any]) -> Callable[[dict[str, tf.Tensor]], Any]:
  """Returns a function that computes the gradient of a loss of the pooled output by all variables."""

  @tf.function(autograph=False)
  def step(batch):
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(call(batch, training=True)['pooled_output'])
    gradient = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return tf.add_n([tf.reduce_sum(tf.convert_to_tensor(derivative)) for derivative in gradient])

  return step


class Transformers:
  """AlbertModel of Transformers in a process of another environment."""

  def __init__(self, python: pathlib.Path, config: pathlib.Path):
    """Starts the process; `config` is an albert_config.json."""
    self._process = subprocess.Popen(
      [python, '-m', 'benchmarks.probe_padding_huggingface', config],
      cwd=measure.ROOT,
      # Else threads that wait for each other count as processor time, more so on a busy machine.
      env=os.environ | {'OMP_WAIT_POLICY': 'PASSIVE', 'KMP_BLOCKTIME': '0'},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def __call__(self, rows: np.ndarray, length: int, training: bool) -> float:
    """Runs one call, and returns its processor seconds."""
    assert self._process.stdin is not None and self._process.stdout is not None
    self._process.stdin.write(json.dumps({'rows': rows.tolist(), 'length': length, 'training': training}) + '\n')
    self._process.stdin.flush()
    return float(self._process.stdout.readline())

  def close(self) -> None:
    """Ends the process."""
    self._process.communicate()


def ratios(calls: dict[str, Callable[[], Any]], turns: int) -> dict[str, tuple[float, float]]:
  """Returns the median processor seconds of each call, and of its ratio to the first call of the same turn.

  A call that returns a number has measured its processor seconds itself.
  """
  seconds = collections.defaultdict[str, list[float]](list)
  for call in calls.values():
    for _ in range(min(2, turns)):
      call()
  for turn in range(turns):
    for name in reversed(calls) if turn % 2 else calls:
      start = time.process_time()
      result = calls[name]()
      seconds[name].append(result if isinstance(result, float) else time.process_time() - start)
  first = seconds[next(iter(calls))]
  return {
    name: (statistics.median(taken), statistics.median(one / base for one, base in zip(taken, first, strict=True)))
    for name, taken in seconds.items()
  }


def _peak(path: str, call: str, mean: int, result: Any) -> None:
  """Puts the growth of peak memory by three training steps, in bytes, into the queue."""
  loaded = tf.saved_model.load(path)
  batch = make_batch(loaded.variables[0].shape[0], 8, mean)
  before = _peak_memory()
  step = training_step(getattr(loaded, call) if call else loaded, loaded.trainable_variables)
  for _ in range(3):
    step(batch)
  result.put(_peak_memory() - before)


def _peak_memory() -> int:
  """Returns the peak memory of this process in bytes. `ru_maxrss` begins with that of the parent process."""
  return int(pathlib.Path('/proc/self/status').read_text(encoding='ascii').split('VmHWM:')[1].split()[0]) << 10


def peak(path: pathlib.Path, call: str, mean: int) -> int:
  """Returns the growth of peak memory by training steps of a call, in bytes, in a new process."""
  context = multiprocessing.get_context('spawn')
  result = context.Queue()
  process = context.Process(target=_peak, args=(os.fspath(path), call, mean, result))
  process.start()
  found = result.get(timeout=600)
  process.join()
  return found


def main() -> None:
  """Writes the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--release', type=pathlib.Path, nargs='+', required=True, help='directories of encoders')
  parser.add_argument('--text', type=pathlib.Path, help='directory of the text model of the first encoder')
  parser.add_argument('--preprocessor', type=pathlib.Path, help='directory of its preprocessor')
  parser.add_argument('--huggingface_python', type=pathlib.Path, help='Python with PyTorch and Transformers')
  parser.add_argument('--turns', type=int, default=7)
  parser.add_argument('--most_rows', type=int, default=128, help='largest batch')
  parser.add_argument('--only_inference', action='store_true', help='no training steps')
  parser.add_argument('--output', type=pathlib.Path, required=True, help='file of the table')
  arguments = parser.parse_args()
  lines = [
    f'| model | work | batch | tokens | plain, s | {" | ".join(_COLUMNS)} |',
    '|---|---|---|---|---|' + '---|' * len(_COLUMNS),
  ]
  for path in arguments.release:
    loaded = tf.saved_model.load(os.fspath(path))
    config = albert_config.read(path / 'assets/albert_config.json')
    peer = tf_models(config)
    other = arguments.huggingface_python and Transformers(
      arguments.huggingface_python, path.resolve() / 'assets/albert_config.json'
    )
    for work, shapes in (('inference', _SHAPES), ('training step', () if arguments.only_inference else _STEPS)):
      wanted = {'plain': loaded, 'padding-free': loaded.padding_free, 'trimmed': trimmed(loaded), 'tf-models': peer}
      if work == 'training step':
        del wanted['trimmed']
        wanted = {
          name: training_step(call, peer.trainable_variables if call is peer else loaded.trainable_variables)
          for name, call in wanted.items()
        }
      for rows, mean in shapes:
        if rows > arguments.most_rows:
          continue
        batch = make_batch(config.vocab_size, rows, mean)
        calls: dict[str, Callable[[], Any]] = {name: functools.partial(call, batch) for name, call in wanted.items()}
        if other:
          texts, training = lengths(rows, mean), work == 'training step'
          calls['Transformers'] = functools.partial(other, texts, LENGTH, training)
          calls['Transformers, trimmed'] = functools.partial(other, texts, int(texts.max()), training)
        found = ratios(calls, arguments.turns)
        cells = [f'{found[name][1]:.2f}' if name in found else '-' for name in _COLUMNS]
        name = f'{path.parent.name}, {config.hidden_size} x {config.num_hidden_layers}'
        line = [name, work, str(rows), str(mean), f'{found["plain"][0]:.2f}', *cells]
        lines.append(f'| {" | ".join(line)} |')
        print(lines[-1], flush=True)
    if other:
      other.close()
    if not arguments.only_inference:
      plain, ours = peak(path, '', 25), peak(path, 'padding_free', 25)
      lines.append(f'| {name} | peak memory of the step | 8 | 25 | {plain / 1e6:.0f} MB | {ours / plain:.2f} |{_NONE}')
      print(lines[-1], flush=True)
    graph = (path / 'saved_model.pb').stat().st_size
    lines.append(f'| {name} | `saved_model.pb` | - | - | {graph / 1e3:.0f} kB | - |{_NONE}')
  if arguments.text is not None:
    import tensorflow_text  # noqa: F401  (registers the operations)

    text, encoder, preprocessor = (
      tf.saved_model.load(os.fspath(path)) for path in (arguments.text, arguments.release[0], arguments.preprocessor)
    )
    sentences = tf.constant((measure.ROOT / 'assets/demo/corpus.txt').read_text().splitlines()[:8])
    found = ratios({'both': lambda: encoder(preprocessor(sentences)), 'text': lambda: text(sentences)}, arguments.turns)
    tokens = int(tf.reduce_sum(preprocessor(sentences)['input_mask'])) // sentences.shape[0]
    lines.append(
      f'| text model | from text to vectors | {sentences.shape[0]} | {tokens} | {found["both"][0]:.2f} | '
      f'{found["text"][1]:.2f} |{_NONE}'
    )
  arguments.output.write_text('\n'.join([*lines, '', machine.describe(machine.facts()), '']))


if __name__ == '__main__':
  main()
