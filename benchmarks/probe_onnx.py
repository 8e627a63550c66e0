"""Compares ONNX Runtime and LiteRT with a SavedModel under TensorFlow, and prints a table of ratios.

  python -m benchmarks.probe_onnx saved_model=dist/tensorflow/albert_en_base/2 onnx=base_onnx/model.onnx \
    int8=base_int8/model_quantized.onnx litert=base_litert/model.tflite

Every ratio is of processor time to that of the first, all threads together: the models take turns in one process for
steady calls, and each has processes of its own for the cold start. Needs TF_USE_LEGACY_KERAS=1.
"""

import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np

_TURNS, _COLD_TURNS = 5, 2
_SECONDS = 0.3  # processor time of the first model in a turn
_MEAN = 25  # tokens of a text, in rows of 128
_VOCABULARY = 30000
_SHAPES = {
  '1 x 16': (1, 16, None),
  '1 x 128': (1, 128, None),
  '8 x 128': (8, 128, None),
  f'1 x 128, mean {_MEAN}': (1, 128, _MEAN),
  f'8 x 128, mean {_MEAN}': (8, 128, _MEAN),
}
_HUGGING_FACE = {'input_ids': 'input_word_ids', 'attention_mask': 'input_mask', 'token_type_ids': 'input_type_ids'}
_Call = Callable[[Mapping[str, np.ndarray]], Any]


def main() -> None:
  """Prints the table, or the figures of one cold start."""
  if sys.argv[1] == 'cold':
    print(json.dumps(_cold(sys.argv[2])))
    return
  paths = dict(argument.split('=', 1) for argument in sys.argv[1:])
  cold: dict[str, list[dict[str, float]]] = {name: [] for name in paths}
  for _ in range(_COLD_TURNS):
    for name, path in paths.items():
      done = subprocess.run([sys.executable, '-m', 'benchmarks.probe_onnx', 'cold', path], stdout=-1, check=True)
      cold[name].append(json.loads(done.stdout.splitlines()[-1]))
  print('| |' + ' | '.join(paths) + ' |')
  print('|---' * (len(paths) + 1) + '|')
  _print_row('size of all files, MB', {name: _size(pathlib.Path(path)) / 1e6 for name, path in paths.items()})
  for label, figure in (('cold start, processor time', 'seconds'), ('peak memory of a cold start', 'memory')):
    _print_row(label, _ratios({name: statistics.median(one[figure] for one in cold[name]) for name in paths}))
  calls = {name: _load(path) for name, path in paths.items()}
  for label, shape in _SHAPES.items():
    _print_row(label, _ratios(_steady(calls, _inputs(*shape))))


def _print_row(label: str, values: Mapping[str, float]) -> None:
  print(f'| {label} | ' + ' | '.join(f'{value:.3g}' for value in values.values()) + ' |', flush=True)


def _ratios(values: Mapping[str, float]) -> dict[str, float]:
  first = next(iter(values.values()))
  return {name: value / first for name, value in values.items()}


def _size(path: pathlib.Path) -> int:
  """Returns the bytes of the models in a directory, or in the directory of a file."""
  place = path if path.is_dir() else path.parent
  names = ('*.pb', 'variables.*', '*.onnx', '*.tflite')
  return sum(file.stat().st_size for name in names for file in place.rglob(name))


def _load(path: str) -> _Call:
  """Loads a model by its file name."""
  if path.endswith('.onnx'):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    session = onnxruntime.InferenceSession(path, options)
    return functools.partial(_run, session, [value.name for value in session.get_inputs()])
  if path.endswith('.tflite'):
    import tensorflow as tf

    signature = tf.lite.Interpreter(model_path=path, num_threads=os.cpu_count()).get_signature_runner()
    return lambda inputs: signature(**inputs)
  import tensorflow as tf

  encoder = tf.saved_model.load(path)
  return lambda inputs: encoder({name: tf.constant(value) for name, value in inputs.items()})['pooled_output'].numpy()


def _run(session: Any, names: list[str], inputs: Mapping[str, np.ndarray]) -> Any:
  """Runs an ONNX file with the encoder's names, or with those of Hugging Face."""
  if 'input_ids' in names:
    inputs = {other: inputs[name].astype(np.int64) for other, name in _HUGGING_FACE.items()}
  return session.run(None, dict(inputs))


def _inputs(batch: int, length: int, mean: int | None) -> dict[str, np.ndarray]:
  random = np.random.default_rng(0)
  lengths = np.full(batch, length) if mean is None else np.clip(random.poisson(mean, batch), 2, length)
  mask = (np.arange(length) < lengths[:, np.newaxis]).astype(np.int32)
  ids = random.integers(5, _VOCABULARY, mask.shape).astype(np.int32) * mask
  return {'input_word_ids': ids, 'input_mask': mask, 'input_type_ids': np.zeros_like(ids)}


def _steady(calls: Mapping[str, _Call], inputs: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Returns the median processor seconds of a warm call, by model."""
  for call in calls.values():
    call(inputs)
    call(inputs)
  start = time.process_time()
  next(iter(calls.values()))(inputs)
  count = max(1, int(_SECONDS / (time.process_time() - start)))
  samples: dict[str, list[float]] = {name: [] for name in calls}
  for _ in range(_TURNS):
    for name, call in calls.items():
      start = time.process_time()
      for _ in range(count):
        call(inputs)
      samples[name].append((time.process_time() - start) / count)
  return {name: statistics.median(values) for name, values in samples.items()}


def _cold(path: str) -> dict[str, float]:
  """Returns the processor seconds and the peak memory (KiB) from importing the library to the first result."""
  start = time.process_time()
  _load(path)(_inputs(1, 16, None))
  seconds = time.process_time() - start
  status = pathlib.Path('/proc/self/status').read_text(encoding='ascii')
  return {'seconds': seconds, 'memory': float(status.split('VmHWM:')[1].split()[0])}


if __name__ == '__main__':
  main()
