"""Times Hugging Face's AlbertModel on PyTorch, and prints one line of JSON. Runs in a separate environment.

python -m benchmarks.probe_huggingface DIRECTORY --outputs=FILE.npy             # loading; saves the outputs of a call
python -m benchmarks.probe_huggingface DIRECTORY --outputs=FILE.npy --steady    # loading and steady calls
"""

import argparse
import functools
import json
import os

import numpy as np
import torch
import transformers

from benchmarks import timing

_HEADS = ('predictions.', 'sop_classifier.')


def main() -> None:
  """Prints the seconds of loading, and with --steady of a call of each shape."""
  parser = argparse.ArgumentParser()
  parser.add_argument('directory')
  parser.add_argument('--outputs', required=True)
  parser.add_argument('--steady', action='store_true')
  arguments = parser.parse_args()
  model_class = transformers.AlbertModel  # imports the class lazily, which is not part of loading weights
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  loaded = []
  seconds = timing.timed(
    lambda: loaded.append(
      model_class.from_pretrained(
        arguments.directory, output_loading_info=True, dtype=torch.float32, local_files_only=True
      )
    )
  )
  model, loading_info = loaded[0]
  # The files also have the weights of the heads, which AlbertModel lacks.
  faults = {
    kind: left
    for kind, names in loading_info.items()
    if (left := sorted(n for n in map(str, names) if not n.startswith(_HEADS)))
  }
  if faults:
    raise SystemExit(f'{arguments.directory}: weights do not match AlbertModel ({faults}); write them again')
  model.eval()
  figures = {'load': seconds}
  with torch.inference_mode():
    first = _batch(model.config.vocab_size, timing.FIRST)
    np.save(arguments.outputs, model(**first).last_hidden_state.numpy())
    for shape in timing.SHAPES if arguments.steady else ():
      batch = _batch(model.config.vocab_size, shape)
      figures[f'steady_{timing.name(shape)}'] = timing.steady(functools.partial(_call, model, batch))
  print(json.dumps(figures))


def _call(model: transformers.AlbertModel, batch: dict[str, torch.Tensor]) -> None:
  model(**batch).pooler_output.numpy()


def _batch(vocab_size: int, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
  ids, mask, types = (torch.from_numpy(array).long() for array in timing.tokens(vocab_size, shape))
  return {'input_ids': ids, 'attention_mask': mask, 'token_type_ids': types}


if __name__ == '__main__':
  main()
