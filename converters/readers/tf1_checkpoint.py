"""Reads checkpoints of TensorFlow: the authors' (model.ckpt-best.*), fine-tuned ones, and those of tf2_checkpoint.

A directory has the checkpoint, the config (albert_config.json or encoder.yaml) and the SentencePiece model. There is
no graph to run, so an export is compared with the float64 reference alone.
"""

import pathlib
import re

import numpy as np

from converters import albert_config
from converters import errors
from converters import reading as reading_lib
from converters import weight_map
from converters.io import source_files
from converters.readers import checkpoint_variables
from converters.readers import encoder_yaml
from converters.readers import sentencepiece_model
from converters.readers import without_graph

# Files that are unpacked from an archive; `.meta`, the training graph, is not read.
_FILE = re.compile(
  rf'albert_config[^/]*\.json|{re.escape(encoder_yaml.NAME)}|checkpoint|[^/.][^/]*\.(model|vocab)|vocab\.txt|'
  r'[^/.][^/]*\.(index|data-[0-9]{5}-of-[0-9]{5})'
)
_STATE = 'checkpoint'  # the file in which TensorFlow names the newest checkpoint
_NEWEST = re.compile(r'^model_checkpoint_path:\s*"([^"]+)"', re.MULTILINE)
_LARGEST_STATE = 1 << 20  # bytes


def belongs(name: str) -> bool:
  """Returns whether a file of that name, in the root or in one directory, belongs to the format."""
  return source_files.inside(name, _FILE)


def is_in(directory: pathlib.Path) -> bool:
  """Returns whether a directory has a file that only this format has."""
  return source_files.any_named(directory, 'albert_config*.json') or bool(_prefixes(directory))


def open_in(handle: str, path: pathlib.Path, reading: reading_lib.Reading, name: str | None = None) -> 'Checkpoint':
  """Opens the checkpoint in a directory, or the one of that name; see `Checkpoint`."""
  return Checkpoint(handle, path, reading, name)


class Checkpoint(without_graph.Files):
  """A `source.Source`; see there for the attributes."""

  format = 'TensorFlow checkpoint'

  def __init__(self, handle: str, path: pathlib.Path, reading: reading_lib.Reading, name: str | None = None):
    """Opens the checkpoint `name` in a directory, as 'model.ckpt-100'; None for the newest.

    Raises:
      SourceError: files are missing or broken, or contradict each other.
    """
    _check_files(path, reading)
    self._prefix = _select(path, name)
    super().__init__(handle, path, reading.sha256)
    self.config = reading.architecture(self._read_config(reading))
    self.sp_model_name, self.sp_model = sentencepiece_model.read(path, '*.model', self.config.vocab_size)
    self.tokenization = reading.tokenization(self.config.tokenizer, 'albert_config.json')
    self._variables = checkpoint_variables.Variables(self._prefix, self.config)
    self.parts = self._variables.parts
    self.notes = self._variables.notes

  def _read_config(self, reading: reading_lib.Reading) -> albert_config.AlbertConfig:
    configs = _configs(self.path)
    if reading.albert_config or configs:
      return albert_config.read(reading.albert_config or configs[0], reading.activation)
    return encoder_yaml.read(self.path / encoder_yaml.NAME, reading.activation)

  def belongs(self, name: str) -> bool:
    """Returns whether a file is one of the selected checkpoint, its config or its vocabulary."""
    if '/' in name:
      return False
    if re.fullmatch(r'albert_config[^/]*\.json|[^/.][^/]*\.(model|vocab)', name) or name == encoder_yaml.NAME:
      return True
    return name.startswith(f'{self._prefix.name}.') and not name.endswith('.meta')

  def tensor(self, row: weight_map.Row) -> np.ndarray:
    """Reads one tensor; see `source.Source`."""
    return self._variables.tensor(row)


def _configs(directory: pathlib.Path) -> list[pathlib.Path]:
  """Returns the config in the authors' format; several if none is named albert_config.json."""
  exact = directory / 'albert_config.json'
  if exact.exists():
    return [exact]
  return source_files.matching(directory, 'albert_config*.json')


def _check_files(path: pathlib.Path, reading: reading_lib.Reading) -> None:
  """Checks that the files of a checkpoint exist.

  Raises:
    SourceError: files are missing; names all of them.
  """
  configs, missing = _configs(path), []
  if not reading.albert_config and len(configs) > 1:
    missing.append(f'{len(configs)} configs, none albert_config.json')
  elif not reading.albert_config and not configs and not (path / encoder_yaml.NAME).exists():
    missing.append('no albert_config.json')
  if not _prefixes(path):
    missing.append('no checkpoint (*.index)')
  if not source_files.any_named(path, '*.model'):
    there = ' (vocab.txt is a WordPiece vocabulary, from which no preprocessor is made)'
    missing.append(f'no SentencePiece model (*.model){there if (path / "vocab.txt").exists() else ""}')
  if missing:
    raise errors.SourceError(f'{path}: {", ".join(missing)}; put the missing files there')


def _prefixes(directory: pathlib.Path) -> list[str]:
  return sorted(path.name.removesuffix('.index') for path in source_files.matching(directory, '*.index'))


def _select(directory: pathlib.Path, name: str | None) -> pathlib.Path:
  """Returns the prefix of the checkpoint to read: the one of that name, the only one, or the newest.

  Raises:
    SourceError: there is no such checkpoint, or there are several and no `checkpoint` file names one.
  """
  found = _prefixes(directory)
  if name is None and len(found) > 1:
    state = directory / _STATE
    match = (
      _NEWEST.search(source_files.read(state, _LARGEST_STATE).decode(errors='replace')) if state.exists() else None
    )
    choice = f'give the path of one, as option source={directory / found[0]}'
    if match is None:
      raise errors.SourceError(
        f'{directory}: {len(found)} checkpoints ({", ".join(found[:10])}), and no `{_STATE}` file names one; {choice}'
      )
    name = pathlib.PurePosixPath(match[1].replace('\\\\', '/')).name
    if name not in found:
      raise errors.SourceError(f'{state}: names {name[:100]}, which does not exist; {choice}')
  elif name is None:
    name = found[0]
  return directory / name
