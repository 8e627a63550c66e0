"""Reads models of Hugging Face Transformers: config.json, model.safetensors (or its shards) and spiece.model.

The layout is that of AlbertModel or of any class with heads; heads for tasks are left out. There is no graph to run, so
an export is compared with the float64 reference alone.
"""

import json
import pathlib
import re
from typing import Any

import numpy as np
import safetensors

from converters import albert_config
from converters import errors
from converters import notes
from converters import reading as reading_lib
from converters import weight_map
from converters.io import source_files
from converters.readers import sentencepiece_model
from converters.readers import without_graph

CONFIG, WEIGHTS, SP_MODEL, TOKENIZER_CONFIG = (
  'config.json',
  'model.safetensors',
  'spiece.model',
  'tokenizer_config.json',
)
_INDEX = f'{WEIGHTS}.index.json'
_ADAPTER = 'adapter_config.json'  # of PEFT
_SHARD = re.compile(r'model-[0-9]{5}-of-[0-9]{5}\.safetensors')
# Files that are unpacked from an archive: those that are read.
_FILE = re.compile(rf'{CONFIG}|model\.safetensors(\.index\.json)?|{_SHARD.pattern}|{SP_MODEL}|{TOKENIZER_CONFIG}')
_LARGEST_JSON = 1 << 20  # bytes
_FORMAT = weight_map.Format.HUGGING_FACE
BASE = 'albert.'  # prefix of AlbertModel's names in the classes with heads
_WORDS = 'embeddings.word_embeddings.weight'
_PRETRAINING_HEADS = ('predictions.', 'sop_classifier.')
# Saved by early versions; not a weight.
_POSITION_IDS = 'albert.embeddings.position_ids'
# The decoder's own names of shared tensors.
_TIED = {
  'predictions.decoder.weight': 'albert.embeddings.word_embeddings.weight',
  'predictions.decoder.bias': 'predictions.bias',
}
# Names of TensorFlow's layer norm, which Transformers renames when it loads a state dict.
_OLD_NAME = re.compile(r'(LayerNorm|layer_norm)\.(gamma|beta)$')
# The classes that have no pooler, by the name of their head.
_WITHOUT_POOLER = {
  'qa_outputs': 'AlbertForQuestionAnswering',
  'classifier': 'AlbertForTokenClassification',
  'predictions': 'AlbertForMaskedLM',
}
_POOLER = {'albert.pooler.weight', 'albert.pooler.bias'}
# Dtypes of safetensors by the name that NumPy has for them.
_DTYPES = {'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16'}
PROJECTION = ('albert.encoder.embedding_hidden_mapping_in.weight', 'albert.encoder.embedding_hidden_mapping_in.bias')


def belongs(name: str) -> bool:
  """Returns whether a file of that name, in the root or in one directory, belongs to the format."""
  return source_files.inside(name, _FILE)


def is_in(directory: pathlib.Path) -> bool:
  """Returns whether a directory has a file that only this format has."""
  return source_files.any_named(directory, CONFIG, '*.safetensors*')


def open_in(handle: str, path: pathlib.Path, reading: reading_lib.Reading) -> 'Model':
  """Opens the model in a directory; see `Model`.

  Raises:
    SourceError: also if `reading` has a config, which would contradict the model's own.
  """
  if reading.albert_config is not None:
    raise errors.SourceError(f'{handle}: it has a config.json of Hugging Face; leave option albert_config out')
  return Model(handle, path, reading)


class Model(without_graph.Files):
  """A `source.Source`; see there for the attributes."""

  format = 'model of Hugging Face Transformers'

  def __init__(self, handle: str, path: pathlib.Path, reading: reading_lib.Reading):
    """Opens the model in a directory.

    Raises:
      SourceError: a file is missing or broken, the model is not a supported ALBERT, or the files contradict
        each other.
    """
    super().__init__(handle, path, reading.sha256)
    _check_files(path)
    self.config = reading.architecture(albert_config.read_hugging_face(path / CONFIG, reading.activation))
    tokenizer = _tokenizer_setting(path / TOKENIZER_CONFIG)
    self.tokenization = reading.tokenization(self.config.tokenizer | tokenizer, TOKENIZER_CONFIG)
    self.sp_model_name, self.sp_model = sentencepiece_model.read(path, SP_MODEL, self.config.vocab_size)
    self._files = _weight_files(path)
    self._places = self._find()
    tensors = {name: file.tensors[stored] for name, (file, stored) in self._places.items()}
    self.parts = frozenset(weight_map.parts_in(self.config, tensors, _FORMAT))
    if self.config.pooler:
      self._check_pooler(tensors)
    known = {_POSITION_IDS, *_TIED}
    if self.config.embedding_size == self.config.hidden_size:
      known |= {*PROJECTION}
    heads = sorted(name for name in tensors if not name.startswith((BASE, *_PRETRAINING_HEADS)))
    widened = weight_map.check_source(
      self.config,
      self.parts,
      tensors,
      (known | set(heads)).__contains__,
      str(path),
      _FORMAT,
      f'give an ALBERT with its own {CONFIG}',
    )
    self.notes = notes.left_out(heads) + notes.converted(widened)
    if (path / _ADAPTER).exists():
      self.notes.append(f'left out, an adapter that is not merged: {_ADAPTER}')
    if not self.config.pooler:
      self.notes += notes.without_pooler(weight_map.pooled(tensors, _FORMAT))
    self._check_shared(tensors)

  def belongs(self, name: str) -> bool:
    """Returns whether a file, by its path relative to the model, is read."""
    return bool(_FILE.fullmatch(name))

  def _check_pooler(self, tensors: dict[str, Any]) -> None:
    if _POOLER & tensors.keys() or 'albert.embeddings.word_embeddings.weight' not in tensors:
      return
    heads = {name.partition('.')[0] for name in tensors}
    others = sorted(heads - {BASE.rstrip('.')})
    unknown = f'a class with {", ".join(others)}' if others else 'AlbertModel with add_pooling_layer=False'
    named = next((name for head, name in _WITHOUT_POOLER.items() if head in heads), unknown)
    raise errors.SourceError(
      f'{self.path}: no albert.pooler.weight, so no pooled output (the model is {named}); {weight_map.WITHOUT_POOLER}'
    )

  def tensor(self, row: weight_map.Row) -> np.ndarray:
    """Reads one tensor; see `source.Source`."""
    value = weight_map.widen(self._read(row.hugging_face))
    if not np.isfinite(value).all():
      raise errors.SourceError(f'{self.path}: NaN or infinity in {row.hugging_face}; give other weights')
    return np.ascontiguousarray(row.hugging_face_transform.invert(value, weight_map.shape(row.shape, self.config)))

  def _find(self) -> dict[str, tuple['_Weights', str]]:
    """Returns the file and the stored name of each tensor, by its name in AlbertForPreTraining.

    State dicts of wrappers have a prefix (`module.` of DataParallel, `model.`), and old ones TensorFlow's names of the
    layer norms.
    """
    stored = [(file, name, _OLD_NAME.sub(_new_name, name)) for file in self._files for name in file.tensors]
    words = sorted({name for _, _, name in stored if name == _WORDS or name.endswith(f'.{_WORDS}')})
    if len(words) > 1:
      raise errors.SourceError(f'{self.path}: two encoders ({words[0]} and {words[1]}); give one alone')
    prefix = words[0].removesuffix(_WORDS) if words else BASE
    outer = prefix.removesuffix(BASE) if prefix.endswith(BASE) else prefix
    places: dict[str, tuple[_Weights, str]] = {}
    for file, name, renamed in stored:
      if prefix.endswith(BASE):
        full = renamed.removeprefix(outer)
      elif renamed.startswith(_PRETRAINING_HEADS) and not prefix:
        full = renamed
      else:
        full = (
          BASE + renamed.removeprefix(prefix) if renamed.startswith(prefix) and _is_base(renamed, prefix) else renamed
        )
      if full in places:
        raise errors.SourceError(
          f'{self.path}: {name} and {places[full][1]} are the same tensor; fetch the model again'
        )
      places[full] = file, name
    return places

  def _read(self, name: str) -> np.ndarray:
    file, stored = self._places[name]
    return file.read(stored)

  def _check_shared(self, tensors: dict[str, Any]) -> None:
    """Checks that tensors that are stored twice are equal; AlbertEncoder has each once."""
    for name, original in _TIED.items():
      if name in tensors and (
        tensors[name] != tensors.get(original) or not np.array_equal(self._read(name), self._read(original))
      ):
        raise errors.SourceError(f'{self.path}: {name} differs from {original}; give a model with one tensor for both')
    kernel, bias = PROJECTION
    size = self.config.hidden_size
    if self.config.embedding_size == size and (kernel in tensors or bias in tensors):
      expected = {kernel: (size, size), bias: (size,)}
      if (
        any(name not in tensors or tensors[name][0] != right for name, right in expected.items())
        or self._read(bias).any()
        or not np.array_equal(self._read(kernel), np.eye(size, dtype=np.float32))
      ):
        raise errors.SourceError(
          f'{self.path}: {kernel} is not the identity (AlbertEncoder does not project embeddings as wide as the '
          'hidden size); give another model'
        )


def _is_base(name: str, prefix: str) -> bool:
  return name.removeprefix(prefix).startswith(('embeddings.', 'encoder.', 'pooler.'))


def _new_name(match: re.Match[str]) -> str:
  return f'{match[1]}.{"weight" if match[2] == "gamma" else "bias"}'


class _Weights:
  """One safetensors file, mapped into memory.

  Attributes:
    tensors: shape and dtype by name; float32 as NumPy's type, others by name.
  """

  def __init__(self, path: pathlib.Path):
    self._path = path
    if not path.is_file():  # opening a pipe would block
      raise errors.SourceError(f'{path}: not a regular file, or a broken link; fetch it again')
    try:
      self._file = safetensors.safe_open(path, 'numpy')
      slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118  (not a dict)
    except (OSError, safetensors.SafetensorError) as e:
      raise errors.SourceError(f'{path}: not a safetensors file ({e}); fetch it again') from e
    self.tensors: dict[str, tuple[tuple[int, ...], Any]] = {}
    for name, part in slices.items():
      dtype = _DTYPES.get(part.get_dtype(), part.get_dtype())
      self.tensors[name] = (tuple(part.get_shape()), np.float32 if dtype == 'float32' else dtype)

  def read(self, name: str) -> np.ndarray:
    """Reads one tensor in its own dtype."""
    try:
      return self._file.get_tensor(name)
    except (OSError, safetensors.SafetensorError) as e:
      raise errors.SourceError(f'{self._path}: {name} cannot be read ({e}); fetch it again') from e


def _check_files(path: pathlib.Path) -> None:
  """Checks that all files exist.

  Raises:
    SourceError: files are missing; the message names them.
  """
  missing = [f'{name} is a broken link' for name in (CONFIG, WEIGHTS, SP_MODEL) if _is_broken_link(path / name)]
  if missing:
    raise errors.SourceError(f'{path}: {", ".join(missing)}; download the model again')
  if not (path / CONFIG).exists():
    missing.append(f'no {CONFIG}')
  if not (path / WEIGHTS).exists() and (path / _INDEX).exists():
    missing += [f'no {shard}' for shard in sorted(set(_places(path / _INDEX).values())) if not (path / shard).exists()]
  elif not (path / WEIGHTS).exists():
    if graphs := sorted(p.relative_to(path).as_posix() for p in (*path.glob('*.onnx'), *path.glob('onnx/*.onnx'))):
      raise errors.SourceError(
        f'{path}: a model for ONNX Runtime alone ({graphs[0]}), from which no weights are read; give the model that it '
        'was made from'
      )
    if (path / _ADAPTER).exists():
      raise errors.SourceError(
        f'{path}: an adapter alone ({_ADAPTER}); merge it into its base model with merge_and_unload(), and save that'
      )
    pickles = sorted(p.name for pattern in ('*.bin', '*.pt', '*.pth', '*.h5', '*.msgpack') for p in path.glob(pattern))
    there = f' ({pickles[0]} is not supported)' if pickles else ''
    there = f' or {_INDEX}, which names the shards' if source_files.any_named(path, 'model-*.safetensors') else there
    missing.append(f'no {WEIGHTS}{there}')
  if not (path / SP_MODEL).exists():
    fast = ' (tokenizer.json cannot replace it)' if (path / 'tokenizer.json').exists() else ''
    word_piece = ' (vocab.txt is a WordPiece vocabulary)' if (path / 'vocab.txt').exists() else ''
    missing.append(f'no {SP_MODEL}{fast or word_piece}, from which the preprocessor is made')
  if missing:
    advice = 'save the model with save_pretrained(safe_serialization=True), and copy spiece.model from its base model'
    raise errors.SourceError(f'{path}: {", ".join(missing)}; {advice}')


def _is_broken_link(path: pathlib.Path) -> bool:
  return path.is_symlink() and not path.exists()


def _tokenizer_setting(path: pathlib.Path) -> dict[str, bool]:
  """Reads letter case and accents from tokenizer_config.json, as far as they are stated there."""
  values = _json(path) if path.exists() else {}
  if values.get('remove_space', True) is not True:
    raise errors.SourceError(
      f'{path}: remove_space is {repr(values["remove_space"])[:40]}, not true; give another model'
    )
  stated = {}
  for key, name in (('do_lower_case', 'lower_case'), ('keep_accents', 'keep_accents')):
    if key in values:
      if not isinstance(values[key], bool):
        raise errors.SourceError(f'{path}: {key} is {repr(values[key])[:40]}, not true or false; restore the file')
      stated[name] = values[key]
  return stated


def _weight_files(path: pathlib.Path) -> list[_Weights]:
  """Opens the files with weights: one, or the shards that the index names."""
  if (path / WEIGHTS).exists():
    if (path / _INDEX).exists():
      raise errors.SourceError(f'{path}: both {WEIGHTS} and {_INDEX}; remove one of the two')
    return [_Weights(path / WEIGHTS)]
  index = path / _INDEX
  places = _places(index)
  shards = {name: _Weights(path / name) for name in sorted(set(places.values()))}
  there = {tensor: name for name, file in shards.items() for tensor in file.tensors}
  different = sorted(there.items() ^ places.items())
  if different:
    raise errors.SourceError(f'{index}: {different[0][0]} is in another file; fetch the model again')
  return list(shards.values())


def _places(index: pathlib.Path) -> dict[str, str]:
  """Reads the file of each tensor from the index of shards."""
  places = _json(index).get('weight_map')
  if (
    not isinstance(places, dict)
    or not places
    or not all(isinstance(name, str) and _SHARD.fullmatch(name) for name in places.values())
  ):
    raise errors.SourceError(f'{index}: no `weight_map` from tensors to files; fetch it again')
  return places


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(
      source_files.read(path, _LARGEST_JSON).decode('utf-8-sig'), object_pairs_hook=albert_config.unique
    )
  except (ValueError, RecursionError) as e:
    raise errors.SourceError(f'{path}: invalid JSON ({str(e)[:100]}); fetch it again') from e
  if not isinstance(value, dict):
    raise errors.SourceError(f'{path}: a {type(value).__name__} instead of an object; fetch it again')
  return value
