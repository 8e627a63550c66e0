"""A TF1 Hub module of ALBERT: google/albert_{base,large,xlarge,xxlarge}/{1,2,3} and what is built like it.

The graph is parsed, to learn its signatures, and never run.
"""

import functools
import hashlib
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import message
from tensorflow.core.protobuf import saved_model_pb2

from converters import config as config_lib
from converters import errors
from converters import vocabulary
from converters import weight_map

# ModuleDef.format == FORMAT_V3, the only one tensorflow_hub ever published.
_TFHUB_MODULE_PB = b'\x08\x03'
_TOKENS_INPUTS = {'input_ids', 'input_mask', 'segment_ids'}
_TOKENS_OUTPUTS = {'sequence_output', 'pooled_output'}


class Module:
  """A `source.Source` in TF1 Hub format; see there for the attributes."""

  def __init__(self, handle: str, path: pathlib.Path, albert_config: str | None = None):
    """Opens a module.

    Args:
      handle: for messages.
      path: its directory.
      albert_config: read instead of assets/albert_config.json when given.

    Raises:
      SourceError: a file is missing or broken, the signatures are not ALBERT's, or the files contradict each other.
    """
    self.handle = handle
    self.path = path
    self._check_format()
    self.signatures = _read_signatures(path / 'saved_model.pb')
    self.config = config_lib.read(albert_config or path / 'assets' / 'albert_config.json')
    sp_model_file = self._find_sp_model()
    self.sp_model_name = sp_model_file.name
    self.sp_model = _read(sp_model_file)
    vocabulary.check(self.sp_model, self.config.vocab_size, f'assets/{self.sp_model_name}')
    self._reader = _open_checkpoint(path / 'variables' / 'variables')
    tensors = self._tensors()
    self.parts = frozenset(weight_map.parts_in(tensors))
    weight_map.check_tf1(self.config, self.parts, tensors, where=f'{handle}/variables')

  @functools.cached_property
  def digest(self) -> str:
    return 'sha256:' + digest_of_tree(self.path)

  def tensor(self, row: weight_map.Row) -> np.ndarray:
    try:
      value = self._reader.get_tensor(row.tf1)
    except Exception as e:  # the native reader turns each status into another built-in exception
      raise errors.SourceError(f'{row.tf1} cannot be read ({_first_line(e)}) in variables/: fetch the module again') from e
    if not np.isfinite(value).all():
      raise errors.SourceError(f'NaN or infinity in {row.tf1} in variables/: these weights are of no use')
    return value

  def _check_format(self) -> None:
    if not (self.path / 'saved_model.pb').exists():
      inner = [p.parent.name for p in self.path.glob('*/saved_model.pb')]
      hint = f'the module is in its directory {inner[0]!r}' if inner else 'give the directory of a TF1 Hub module'
      raise errors.SourceError(f'no saved_model.pb in {self.handle}: {hint}')
    if not (self.path / 'tfhub_module.pb').exists():
      raise errors.SourceError(f'no tfhub_module.pb in {self.handle}: this is a SavedModel, but no TF1 Hub module')
    if _read(self.path / 'tfhub_module.pb') != _TFHUB_MODULE_PB:
      raise errors.SourceError(f'unknown format in tfhub_module.pb of {self.handle}: only format 3 was ever published')

  def _find_sp_model(self) -> pathlib.Path:
    found = sorted((self.path / 'assets').glob('*.model'))
    if len(found) != 1:
      names = ', '.join(p.name for p in found) or 'none'
      raise errors.SourceError(f'{len(found)} SentencePiece models ({names}) in {self.handle}/assets: one is needed')
    return found[0]

  def _tensors(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    dtypes = self._reader.get_variable_to_dtype_map()
    return {name: (tuple(shape), np.dtype(dtypes[name].as_numpy_dtype))
            for name, shape in sorted(self._reader.get_variable_to_shape_map().items())}


def _read(path: pathlib.Path) -> bytes:
  try:
    return path.read_bytes()
  except OSError as e:
    raise errors.SourceError(f'cannot read {path} ({e.strerror}): fetch the module again') from e


def _first_line(e: Exception) -> str:
  return str(e).strip().split('\n')[0]


def _read_signatures(path: pathlib.Path) -> dict[str, tuple[set[str], set[str]]]:
  """Input and output names of every signature of the metagraph without tags.

  Raises:
    SourceError: the file does not parse, or has no ALBERT `tokens` signature.
  """
  try:
    saved_model = saved_model_pb2.SavedModel.FromString(_read(path))
  except message.DecodeError as e:
    raise errors.SourceError(f'no SavedModel in {path} ({_first_line(e)}): fetch the module again') from e
  graphs = [m for m in saved_model.meta_graphs if not m.meta_info_def.tags]
  if len(graphs) != 1:
    raise errors.SourceError(f'{len(graphs)} metagraphs without tags in {path}, not 1: this is no TF1 Hub module')
  signatures = {name: (set(s.inputs), set(s.outputs)) for name, s in graphs[0].signature_def.items()}
  if 'tokens' not in signatures:
    there = ', '.join(sorted(signatures)) or 'none'
    raise errors.SourceError(f'no `tokens` signature in {path} (there are: {there}): this is no ALBERT module')
  inputs, outputs = signatures['tokens']
  if inputs != _TOKENS_INPUTS or not outputs >= _TOKENS_OUTPUTS:
    raise errors.SourceError(
        f'`tokens` goes from {sorted(inputs)} to {sorted(outputs)} in {path}, not from {sorted(_TOKENS_INPUTS)} to '
        f'{sorted(_TOKENS_OUTPUTS)}: this is no ALBERT module')
  return signatures


def _open_checkpoint(prefix: pathlib.Path) -> Any:
  if not prefix.with_suffix('.index').exists():
    raise errors.SourceError(f'no {prefix.name}.index in {prefix.parent}: fetch the module again')
  try:
    return tf.train.load_checkpoint(os.fspath(prefix))
  except Exception as e:  # the native reader turns each status into another built-in exception
    raise errors.SourceError(f'no checkpoint in {prefix}.index ({_first_line(e)}): fetch the module again') from e


def digest_of_tree(path: pathlib.Path) -> str:
  """SHA-256, in hex, over '<sha256>  <relative path>' lines of all files below `path`, sorted by path."""
  total = hashlib.sha256()
  for file in sorted(p for p in path.rglob('*') if p.is_file()):
    with open(file, 'rb') as f:
      total.update(f'{hashlib.file_digest(f, "sha256").hexdigest()}  {file.relative_to(path).as_posix()}\n'.encode())
  return total.hexdigest()
