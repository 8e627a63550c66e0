"""Runs one job in the environment of Optimum and LiteRT's runtime, for `make interop`.

The job is JSON on standard input, and the answer is JSON on standard output.
"""

import json
import sys

import numpy as np


def optimum(directory, file_name, class_name, inputs, outputs):
  """Loads a directory with a class of Optimum, and saves its outputs."""
  import torch
  from optimum import onnxruntime

  model = getattr(onnxruntime, class_name).from_pretrained(
    directory, subfolder='onnx', file_name=file_name, local_files_only=True
  )
  with np.load(inputs) as given:
    batch = {name: torch.from_numpy(given[name]).long() for name in given.files}
  result = model(**batch)
  np.savez(outputs, **{name: value.numpy() for name, value in result.items()})
  return {'names': sorted(result)}


def litert(path, inputs, outputs):
  """Runs a LiteRT model with the runtime of phones, and saves its outputs."""
  from ai_edge_litert import interpreter

  signature = interpreter.Interpreter(model_path=path).get_signature_runner('serving_default')
  with np.load(inputs) as given:
    batch = {
      'input_word_ids': given['input_ids'],
      'input_mask': given['attention_mask'],
      'input_type_ids': given['token_type_ids'],
    }
  np.savez(outputs, **signature(**{name: value.astype(np.int32) for name, value in batch.items()}))
  return {'names': sorted(signature.get_output_details())}


if __name__ == '__main__':
  job = json.load(sys.stdin)
  print(json.dumps(globals()[job.pop('do')](**job)))
