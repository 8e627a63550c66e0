"""Writes a directory that Hugging Face Transformers loads: weights, config, tokenizer, model card."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jinja2
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from converters import albert_config
from converters import errors
from converters import source as source_lib
from converters import weight_map
from converters.readers import hugging_face
from converters.writers import tokenizer_json

_CARDS = pathlib.Path(__file__).parent / 'cards'
# Parts of each class. AlbertForMaskedLM has no pooler.
_E, _M, _S = weight_map.Part.ENCODER, weight_map.Part.MLM, weight_map.Part.SOP
_PARTS = {'AlbertModel': {_E}, 'AlbertForMaskedLM': {_E, _M}, 'AlbertForPreTraining': {_E, _M, _S}}
_WITHOUT_POOLER = 'AlbertForMaskedLM'
ARCHITECTURES = tuple(_PARTS)
_TOKENIZER = {
  'tokenizer_class': 'PreTrainedTokenizerFast',  # loads tokenizer.json unchanged
  'model_input_names': ['input_ids', 'token_type_ids', 'attention_mask'],
  'bos_token': '[CLS]',
  'eos_token': '[SEP]',
  'unk_token': '<unk>',
  'sep_token': '[SEP]',
  'pad_token': '<pad>',
  'cls_token': '[CLS]',
  'mask_token': {
    '__type': 'AddedToken',
    'content': '[MASK]',
    'lstrip': True,
    'rstrip': False,
    'normalized': False,
    'single_word': False,
    'special': True,
  },
}


def write(
  source: source_lib.Source,
  directory: pathlib.Path,
  progress: Callable[[str], None] = lambda name: None,
  architecture: str | None = None,
) -> list[str]:
  """Writes a model into an empty directory. All of its weights are in memory at once.

  Args:
    source: the model.
    directory: the directory to write to.
    progress: called with the canonical name of each tensor once it is read.
    architecture: class in ARCHITECTURES; None for AlbertForPreTraining if the source has both heads, AlbertForMaskedLM
      if it has that head and no pooler, else AlbertModel.

  Returns:
    The parts of the source that are left out.

  Raises:
    OSError: the directory cannot be written.
    SourceError: the source lacks a head of the architecture, or a tensor cannot be read.
  """
  if architecture is None:
    architecture = _default(source)
  kept = _PARTS[architecture]
  if missing := [part for part in weight_map.Part if part in kept - source.parts]:
    raise errors.SourceError(
      f'{source.handle}: no {missing[0].title} head, but {architecture} has one; give another option architecture'
    )
  left = [f'the {part.title} head' for part in weight_map.Part if part in source.parts - kept]
  left += ['the pooler'] if architecture == _WITHOUT_POOLER and source.config.pooler else []
  write_config(source, directory, architecture)
  try:
    safetensors_numpy.save_file(
      tensors(source, architecture, progress), directory / hugging_face.WEIGHTS, {'format': 'pt'}
    )
  except safetensors.SafetensorError as e:
    raise OSError(str(e)) from e
  write_tokenizer(source, directory)
  write_card(
    source,
    directory,
    'huggingface.md',
    heads=[part.value for part in weight_map.Part if part in kept],
    architecture=architecture,
    pooler=source.config.pooler and architecture != _WITHOUT_POOLER,
  )
  return left


def write_config(source: source_lib.Source, directory: pathlib.Path, architecture: str) -> None:
  """Writes config.json for a class of Transformers into a directory."""
  values = {'architectures': [architecture], **albert_config.as_hugging_face(source.config)}
  _write_json(directory / hugging_face.CONFIG, values)


def write_tokenizer(source: source_lib.Source, directory: pathlib.Path) -> None:
  """Writes the three files of the tokenizer into a directory."""
  (directory / hugging_face.SP_MODEL).write_bytes(source.sp_model)
  _write_json(directory / 'tokenizer.json', tokenizer_json.of(source.sp_model, source.tokenization))
  _write_json(
    directory / hugging_face.TOKENIZER_CONFIG,
    _TOKENIZER
    | {
      'model_max_length': source.config.max_position_embeddings,
      'do_lower_case': source.tokenization.lower_case,
      'keep_accents': source.tokenization.keep_accents,
    },
  )


def write_card(source: source_lib.Source, directory: pathlib.Path, template: str, **values: Any) -> None:
  """Writes README.md into a directory, from a template in `cards` that gets `values` too."""
  card = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True).from_string(
    (_CARDS / template).read_text(encoding='utf-8')
  )
  text = card.render(
    source=source,
    config=source.config,
    handle=source.handle if '://' in source.handle else None,
    setting=source.tokenization,
    lacks=source_lib.missing_heads(source),
    **values,
  )
  (directory / 'README.md').write_text(text, encoding='utf-8')


def _default(source: source_lib.Source) -> str:
  """Returns the class that loads the most of a source and makes no weight of its own."""
  if source.parts == _PARTS['AlbertForPreTraining']:
    return 'AlbertForPreTraining'
  return 'AlbertModel' if source.config.pooler or source.parts == _PARTS['AlbertModel'] else _WITHOUT_POOLER


def tensors(
  source: source_lib.Source, architecture: str, progress: Callable[[str], None] = lambda name: None
) -> dict[str, np.ndarray]:
  """Returns the parameters of a class by its own names, float32."""
  base = '' if architecture == 'AlbertModel' else hugging_face.BASE
  result = {}

  def add(name: str, value: np.ndarray) -> None:
    result[base + name.removeprefix(hugging_face.BASE) if name.startswith(hugging_face.BASE) else name] = value

  for row in weight_map.rows(source.config, _PARTS[architecture]):
    if architecture == _WITHOUT_POOLER and row.name.startswith('pooler.'):
      continue
    stored = row.stored_shape(weight_map.Format.HUGGING_FACE, source.config)
    add(row.hugging_face, np.ascontiguousarray(row.hugging_face_transform.apply(source.tensor(row), stored)))
    progress(row.name)
  # Transformers also projects embeddings as wide as the hidden size; the identity changes no number.
  if source.config.embedding_size == source.config.hidden_size:
    for name, value in zip(
      hugging_face.PROJECTION,
      (np.eye(source.config.hidden_size, dtype=np.float32), np.zeros(source.config.hidden_size, np.float32)),
      strict=True,
    ):
      add(name, value)
  return result


def _write_json(path: pathlib.Path, values: object) -> None:
  path.write_text(json.dumps(values, indent=2, sort_keys=True) + '\n', encoding='utf-8')
