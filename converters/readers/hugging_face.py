"""ALBERT in the format of Hugging Face Transformers: config.json, model.safetensors (or its shards) and spiece.model.

In the layout of AlbertModel, AlbertForMaskedLM or AlbertForPreTraining. There is no graph that could be run: what is
made from one is compared with the float64 reference alone.
"""

import json
import pathlib
import re
from typing import Any

import numpy as np
import safetensors

from converters import albert_config
from converters import errors
from converters import weight_map
from converters.io import digest
from converters.io import source_files
from converters.readers import sentencepiece_model

CONFIG, WEIGHTS, SP_MODEL, TOKENIZER_CONFIG = (
  'config.json',
  'model.safetensors',
  'spiece.model',
  'tokenizer_config.json',
)
_INDEX = f'{WEIGHTS}.index.json'
_SHARD = re.compile(r'model-[0-9]{5}-of-[0-9]{5}\.safetensors')
_FILE = re.compile(
  rf'{CONFIG}|model\.safetensors(\.index\.json)?|{_SHARD.pattern}|{SP_MODEL}|tokenizer(_config)?\.json|'
  r'special_tokens_map\.json|generation_config\.json|README\.md|LICENSE|\.gitattributes'
)
_LARGEST_JSON = 1 << 20  # bytes
_FORMAT = weight_map.Format.HUGGING_FACE
BASE = 'albert.'  # what the classes with heads put before AlbertModel's names
_HEADS = ('predictions.', 'sop_classifier.')
# Saved by early versions; not a weight.
_POSITION_IDS = 'albert.embeddings.position_ids'
# The decoder's own names for what it shares.
_TIED = {
  'predictions.decoder.weight': 'albert.embeddings.word_embeddings.weight',
  'predictions.decoder.bias': 'predictions.bias',
}
PROJECTION = ('albert.encoder.embedding_hidden_mapping_in.weight', 'albert.encoder.embedding_hidden_mapping_in.bias')


def objection(name: str) -> str | None:
  """What is wrong with a file of that name in the archive of a model of Hugging Face; None if nothing is."""
  return None if source_files.inside(name, _FILE) else 'is no file of a model of Hugging Face: pack that alone'


def is_in(directory: pathlib.Path) -> bool:
  """Whether a directory has a file that only this format has."""
  return source_files.any_named(directory, CONFIG, '*.safetensors*')


class Model(digest.OfFiles):
  """A `source.Source`; see there for the attributes."""

  format = 'model of Hugging Face Transformers'
  graph: pathlib.Path | None = None

  def __init__(self, handle: str, path: pathlib.Path):
    """Opens a model.

    Args:
      handle: for messages.
      path: its directory.

    Raises:
      SourceError: a file is missing or broken, the model is no ALBERT that can be converted, or the files contradict
        each other.
    """
    self.handle = handle
    self.path = path
    self.config = albert_config.of_hugging_face(_json(path / CONFIG), path / CONFIG)
    if not (path / SP_MODEL).exists():
      raise errors.SourceError(
        f'no {SP_MODEL} in {path}: the preprocessor is made from it, copy it from the model that this one was '
        'trained from'
      )
    _check_uncased(path / TOKENIZER_CONFIG)
    self.sp_model_name, self.sp_model = sentencepiece_model.read(path, SP_MODEL, self.config.vocab_size)
    self._files = _weight_files(path)
    self._places = self._find()
    tensors = {name: file.tensors[stored] for name, (file, stored) in self._places.items()}
    self.parts = frozenset(weight_map.parts_in(tensors, _FORMAT))
    if 'albert.pooler.weight' not in tensors:
      raise errors.SourceError(
        f'no pooler.weight in {path}: a model of AlbertForMaskedLM has no pooled output, give the one that it was '
        'trained from, or one of AlbertModel or AlbertForPreTraining'
      )
    ignored = {_POSITION_IDS, *_TIED}
    if self.config.embedding_size == self.config.hidden_size:
      ignored |= {*PROJECTION}
    weight_map.check_source(
      self.config,
      self.parts,
      tensors,
      ignored,
      str(path),
      _FORMAT,
      f'the model is another one, or its {CONFIG} belongs to another',
    )
    self._check_shared(tensors)

  @property
  def provable(self) -> frozenset[weight_map.Part]:
    return self.parts

  def tensor(self, row: weight_map.Row) -> np.ndarray:
    value = self._read(row.hugging_face)
    if not np.isfinite(value).all():
      raise errors.SourceError(f'NaN or infinity in {row.hugging_face} in {self.path}: these weights are of no use')
    return np.ascontiguousarray(row.hugging_face_transform.invert(value, weight_map.shape(row.shape, self.config)))

  def _find(self) -> dict[str, tuple['_Weights', str]]:
    """In which file each tensor is, and under which name, by its name in AlbertForPreTraining."""
    places: dict[str, tuple[_Weights, str]] = {}
    stored = [name for file in self._files for name in file.tensors]
    bare = not any(name.startswith((BASE, *_HEADS)) for name in stored)
    for file in self._files:
      for name in file.tensors:
        if (full := BASE + name if bare else name) in places:
          raise errors.SourceError(f'{name} is in two files in {self.path}: fetch the model again')
        places[full] = file, name
    return places

  def _read(self, name: str) -> np.ndarray:
    file, stored = self._places[name]
    return file.read(stored)

  def _check_shared(self, tensors: dict[str, Any]) -> None:
    """What stands there once more must be the same: AlbertEncoder has it once."""
    for name, original in _TIED.items():
      if name in tensors and (
        tensors[name] != tensors.get(original) or not np.array_equal(self._read(name), self._read(original))
      ):
        raise errors.SourceError(f'{name} is not {original} in {self.path}: an ALBERT has one tensor for both')
    kernel, bias = PROJECTION
    size = self.config.hidden_size
    if self.config.embedding_size == size and (kernel in tensors or bias in tensors):
      expected = {kernel: ((size, size), np.float32), bias: ((size,), np.float32)}
      if (
        any(tensors.get(name) != right for name, right in expected.items())
        or self._read(bias).any()
        or not np.array_equal(self._read(kernel), np.eye(size, dtype=np.float32))
      ):
        raise errors.SourceError(
          f'{kernel} changes embeddings that are as wide as the hidden size in {self.path}: AlbertEncoder does not '
          'project such, so this model cannot be converted'
        )


class _Weights:
  """One safetensors file, mapped into memory.

  Attributes:
    tensors: shape and dtype by name; that of others than float32 as safetensors calls it.
  """

  def __init__(self, path: pathlib.Path):
    self._path = path
    if not path.is_file():  # opening a pipe would wait for ever
      raise errors.SourceError(f'cannot read {path}, which is no file: fetch it again')
    try:
      self._file = safetensors.safe_open(path, 'numpy')
      slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118  (it is no dict)
    except (OSError, safetensors.SafetensorError) as e:
      raise errors.SourceError(f'cannot read {path} ({e}): fetch it again') from e
    self.tensors = {
      name: (tuple(s.get_shape()), np.float32 if s.get_dtype() == 'F32' else s.get_dtype())
      for name, s in slices.items()
    }

  def read(self, name: str) -> np.ndarray:
    try:
      return self._file.get_tensor(name)
    except (OSError, safetensors.SafetensorError) as e:
      raise errors.SourceError(f'{name} cannot be read ({e}) in {self._path}: fetch it again') from e


def _check_uncased(path: pathlib.Path) -> None:
  """Refuses a cased model: every preprocessor folds case and drops marks."""
  values = _json(path) if path.exists() else {}
  for name, only in (('do_lower_case', True), ('keep_accents', False), ('remove_space', True)):
    if values.get(name, only) is not only:
      raise errors.SourceError(
        f'{name} is {repr(values[name])[:40]}, not {only}, in {path}: preprocessors for cased models are not supported'
      )


def _weight_files(path: pathlib.Path) -> list[_Weights]:
  """The files with weights: one, or the shards that the index names."""
  if (path / WEIGHTS).exists():
    if (path / _INDEX).exists():
      raise errors.SourceError(f'{WEIGHTS} and {_INDEX} are both in {path}: which of the two is meant is not known')
    return [_Weights(path / WEIGHTS)]
  index = path / _INDEX
  if not index.exists():
    raise errors.SourceError(f'neither {WEIGHTS} nor {_INDEX} in {path}: give a model in safetensors')
  places = _json(index).get('weight_map')
  if (
    not isinstance(places, dict)
    or not places
    or not all(isinstance(name, str) and _SHARD.fullmatch(name) for name in places.values())
  ):
    raise errors.SourceError(f'no `weight_map` from tensors to files in {index}: fetch it again')
  shards = {name: _Weights(path / name) for name in sorted(set(places.values()))}
  there = {tensor: name for name, file in shards.items() for tensor in file.tensors}
  different = sorted(there.items() ^ places.items())
  if different:
    raise errors.SourceError(f'{different[0][0]} is not where {index} says: fetch the model again')
  return list(shards.values())


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(source_files.read(path, _LARGEST_JSON).decode(), object_pairs_hook=albert_config.unique)
  except (ValueError, RecursionError) as e:
    raise errors.SourceError(f'no valid JSON in {path} ({str(e)[:100]}): fetch it again') from e
  if not isinstance(value, dict):
    raise errors.SourceError(f'a {type(value).__name__} instead of an object in {path}: fetch it again')
  return value
