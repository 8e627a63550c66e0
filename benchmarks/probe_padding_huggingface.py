"""Runs Transformers' AlbertModel on padded batches, on request. Runs in a separate environment.

python -m benchmarks.probe_padding_huggingface albert_config.json

Each line of standard input is a JSON object: `rows`, the lengths of the texts; `length`, what they are padded to; and
`training`. Each line of standard output has the processor seconds of one call.
"""

import json
import sys
import time

import numpy as np
import torch
import transformers


def main() -> None:
  """Answers one line for each line read."""
  with open(sys.argv[1], encoding='utf-8') as file:
    config = json.load(file)
  torch.set_num_threads(2)
  model = transformers.AlbertModel(
    transformers.AlbertConfig(
      **{name: value for name, value in config.items() if 'dropout' not in name and name != 'hidden_act'},
      hidden_act='gelu_pytorch_tanh',  # what the authors call gelu
      hidden_dropout_prob=0.0,
      attention_probs_dropout_prob=0.0,
    )
  ).eval()
  for line in sys.stdin:
    asked = json.loads(line)
    mask = (np.arange(asked['length']) < np.array(asked['rows'])[:, np.newaxis]).astype(np.int64)
    ids = np.random.default_rng(1).integers(5, config['vocab_size'], mask.shape) * mask
    batch = {
      name: torch.from_numpy(value)
      for name, value in (('input_ids', ids), ('attention_mask', mask), ('token_type_ids', np.zeros_like(mask)))
    }
    start = time.process_time()
    if asked['training']:
      model.zero_grad(set_to_none=True)
      model(**batch).pooler_output.sum().backward()
    else:
      with torch.inference_mode():
        model(**batch)
    print(time.process_time() - start, flush=True)


if __name__ == '__main__':
  main()
