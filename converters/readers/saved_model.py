"""Reads encoders in TF2 SavedModels: releases of this toolchain, also after fine-tuning in Keras.

The weights are found by the names that tf-models' AlbertEncoder gives its variables; Keras keeps these names. The
SavedModel's graph is not run: an export is compared only with the float64 reference.
"""

import json
import pathlib
import re
from typing import Any

import numpy as np

from converters import albert_config
from converters import errors
from converters import reading as reading_lib
from converters import weight_map
from converters.io import source_files
from converters.readers import checkpoint_variables
from converters.readers import sentencepiece_model
from converters.readers import without_graph

CONFIG = 'albert_config.json'  # an asset of every encoder that this toolchain publishes
_FILE = re.compile(
  r'saved_model\.pb|keras_metadata\.pb|variables/variables\.(index|data-[0-9]{5}-of-[0-9]{5})|assets/[^/]+'
)
_RECORD = '.release.json'  # `spec.RECORD` of export, which converters never imports
_LARGEST_RECORD = 16 << 20  # bytes


def belongs(name: str) -> bool:
  """Returns whether a file of that name, in the root or in one directory, belongs to the format."""
  return source_files.inside(name, _FILE)


def is_in(directory: pathlib.Path) -> bool:
  """Returns whether a directory has a SavedModel."""
  return (directory / 'saved_model.pb').exists() or (directory / 'variables').is_dir()


def open_in(handle: str, path: pathlib.Path, reading: reading_lib.Reading) -> 'Encoder':
  """Opens the SavedModel in a directory; see `Encoder`."""
  return Encoder(handle, path, reading)


class Encoder(without_graph.Files):
  """A `source.Source`; see there for the attributes."""

  format = 'TF2 SavedModel of an encoder'

  def __init__(self, handle: str, path: pathlib.Path, reading: reading_lib.Reading):
    """Opens the SavedModel in a directory.

    Raises:
      SourceError: files are missing or broken, the SavedModel is not an encoder, or the files contradict each other.
    """
    super().__init__(handle, path, reading.sha256)
    prefix = path / 'variables' / 'variables'
    missing = [name for name in ('saved_model.pb', 'variables/variables.index') if not (path / name).exists()]
    if missing:
      raise errors.SourceError(f'{path}: no {", no ".join(missing)}; fetch the model again')
    record = _record(handle, path)
    if record.get('kind') == 'preprocessor':
      raise errors.SourceError(f'{path}: this is a preprocessor; give the encoder with option source')
    if not sorted((path / 'assets').glob('*.model')):
      raise errors.SourceError(
        f'{path}: no SentencePiece model in assets/ (preprocessors and what Keras exports by model.export have none '
        'there); give a TF1 Hub module, a checkpoint, a release of this toolchain, or a model of one that '
        'tf.saved_model.save wrote'
      )
    self.config = reading.architecture(self._read_config(record, reading))
    self.tokenization = reading.tokenization(self.config.tokenizer, f'assets/{CONFIG}')
    self.sp_model_name, self.sp_model = sentencepiece_model.read(
      path / 'assets', '*.model', self.config.vocab_size, 'assets/'
    )
    self._variables = checkpoint_variables.Variables(prefix, self.config)
    if not self._variables.from_tf2:
      raise errors.SourceError(
        f'{path}: no tfhub_module.pb, but the variables of a TF1 Hub module; fetch the module again'
      )
    self.parts = self._variables.parts
    self.notes = self._variables.notes

  def _read_config(self, record: dict[str, Any], reading: reading_lib.Reading) -> albert_config.AlbertConfig:
    asset = self.path / 'assets' / CONFIG
    if reading.albert_config or asset.exists():
      return albert_config.read(reading.albert_config or asset, reading.activation)
    if 'config' in record:
      return albert_config.parse(record['config'], self.path.with_name(self.path.name + _RECORD), reading.activation)
    raise errors.ConfigError(f'{self.path}: no assets/{CONFIG}; give the config with option albert_config=FILE')

  def belongs(self, name: str) -> bool:
    """Returns whether a file, by its path relative to the SavedModel, is part of the source."""
    return bool(_FILE.fullmatch(name))

  def tensor(self, row: weight_map.Row) -> np.ndarray:
    """Reads one tensor; see `source.Source`."""
    return self._variables.tensor(row)


def _record(handle: str, path: pathlib.Path) -> dict[str, Any]:
  """Returns the record of a release, beside its directory or its archive; empty if it is missing or invalid."""
  archive = re.sub(r'\.(tar\.gz|tgz)$', '', handle)
  for release in (path, *([pathlib.Path(archive)] if archive != handle else [])):
    record = release.absolute().with_name(release.absolute().name + _RECORD)
    try:
      values = json.loads(source_files.read(record, _LARGEST_RECORD).decode(), object_pairs_hook=albert_config.unique)
    except (ValueError, RecursionError, errors.SourceError):
      continue
    if isinstance(values, dict):
      return values
  return {}
