"""Runs one job in the environment of `make interop`, which has PyTorch and no TensorFlow.

The job is JSON on standard input, and the answer is JSON on standard output.
"""

import json
import os
import sys

import numpy as np


def load(directory, class_name, inputs, outputs):
  """Loads a model with a class of Transformers, saves its outputs, and returns the keys that did not match."""
  import torch

  made, options = _class(class_name)
  model, loading_info = made.from_pretrained(directory, output_loading_info=True, local_files_only=True, **options)
  _save(model, inputs, outputs)
  return {kind: sorted(map(str, names)) for kind, names in loading_info.items()} | {
    'dtype': str(next(model.parameters()).dtype),
    'torch': torch.__version__,
  }


def save(directory, class_name, config, inputs, outputs, max_shard_size):
  """Makes a model with random weights, and saves it with Transformers, and its outputs."""
  import torch
  import transformers

  torch.manual_seed(1)
  made, options = _class(class_name)
  model = made(transformers.AlbertConfig(**config), **options)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.copy_(torch.randn_like(parameter) * 0.2)
  _save(model, inputs, outputs)
  model.save_pretrained(directory, max_shard_size=max_shard_size)
  return sorted(os.listdir(directory))


def _class(name):
  """Returns a class of Transformers and the arguments of its constructor; the name may end in ' without pooler'."""
  import transformers

  without = name.endswith(' without pooler')
  return getattr(transformers, name.partition(' ')[0]), {'add_pooling_layer': False} if without else {}


def _save(model, inputs, outputs):
  import torch

  model.eval()
  with np.load(inputs) as given:
    batch = {name: torch.from_numpy(given[name]).long() for name in given.files}
  with torch.inference_mode():
    result = model(**batch, output_hidden_states=True)
  base = getattr(model, 'albert', model)
  with torch.inference_mode():
    encoded = base(**batch)
  values = {'sequence_output': result.hidden_states[-1]}
  if encoded.pooler_output is not None:
    values['pooled_output'] = encoded.pooler_output
  fields = [('mlm_logits', 'prediction_logits'), ('sop_logits', 'sop_logits')]
  if type(model).__name__ == 'AlbertForMaskedLM':
    fields.append(('mlm_logits', 'logits'))
  for name, field in fields:
    if getattr(result, field, None) is not None:
      values[name] = getattr(result, field)
  np.savez(outputs, **{name: value.numpy() for name, value in values.items()})


def tokenize(directory, texts):
  """Returns the ids of texts by AutoTokenizer without special tokens, and of one text with them."""
  import transformers

  tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
  whole = tokenizer(texts[0], texts[0])
  return {
    'class': type(tokenizer).__name__,
    'ids': [tokenizer(text, add_special_tokens=False)['input_ids'] for text in texts],
    'pair': {name: whole[name] for name in whole},
    'mask': tokenizer.mask_token_id,
    'pad': tokenizer.pad_token_id,
    'longest': tokenizer.model_max_length,
  }


def keras_hub(directory, inputs, outputs):
  """Loads a model with KerasHub under Keras 3, and saves its outputs."""
  os.environ['KERAS_BACKEND'] = 'torch'
  import keras
  import keras_hub as hub

  backbone = hub.models.AlbertBackbone.from_preset(directory)
  with np.load(inputs) as given:
    batch = {
      'token_ids': given['input_ids'],
      'padding_mask': given['attention_mask'],
      'segment_ids': given['token_type_ids'],
    }
  values = backbone(batch)
  np.savez(outputs, **{name: keras.ops.convert_to_numpy(value) for name, value in values.items()})
  return {'keras': keras.__version__, 'keras_hub': hub.__version__}


if __name__ == '__main__':
  job = json.load(sys.stdin)
  print(json.dumps(globals()[job.pop('do')](**job)))
