"""The authors' checkpoints of ALBERT, and what is saved like them: albert_config.json, model.ckpt-best.*, 30k-clean.model.

They have no graph that could be run: an export is compared with the float64 reference alone.
"""

import pathlib
import re

import numpy as np

from converters import albert_config as albert_config_lib
from converters import errors
from converters import weight_map
from converters.io import digest
from converters.io import source_files
from converters.readers import sentencepiece_model
from converters.readers import tf1_variables

# What stands in a checkpoint's directory; `.meta` is its training graph, which nobody reads.
_FILE = re.compile(
  r'albert_config\.json|checkpoint|[^/.][^/]*\.(model|vocab|txt|md)|[^/.][^/]*\.ckpt[^/]*\.(index|meta|data-[0-9]{5}-of-[0-9]{5})'
)
_PREFIX = 'module/'  # of variables that came through hub.Module
_COUNTERS = frozenset({'global_step', 'beta1_power', 'beta2_power'})
# What optimizers keep for each weight: the authors' Adam and LAMB, and TensorFlow's own Adam.
_SLOTS = ('adam_m', 'adam_v', 'lamb_m', 'lamb_v', 'Adam', 'Adam_1')


def objection(name: str) -> str | None:
  """What is wrong with a file of that name in the archive of a checkpoint; None if nothing is."""
  return None if source_files.inside(name, _FILE) else 'is no file of a checkpoint: pack that alone'


def is_in(directory: pathlib.Path) -> bool:
  """Whether a directory has a file that only this format has."""
  return source_files.any_named(directory, '*.ckpt*', 'albert_config.json')


class Checkpoint(digest.OfFiles):
  """A `source.Source`; see there for the attributes."""

  format = 'TF1 checkpoint of the authors\' format'
  graph: pathlib.Path | None = None

  def __init__(self, handle: str, path: pathlib.Path, albert_config: str | None = None):
    """Opens a checkpoint.

    Args:
      handle: for messages.
      path: its directory.
      albert_config: read instead of its albert_config.json when given.

    Raises:
      SourceError: a file is missing or broken, or the files contradict each other.
    """
    self.handle = handle
    self.path = path
    self.config = albert_config_lib.read(albert_config or path / 'albert_config.json')
    self.sp_model_name, self.sp_model = sentencepiece_model.read(path, '*.model', self.config.vocab_size)
    index = source_files.only(path, '*.ckpt*.index', 'checkpoints')
    self._variables = tf1_variables.Variables(index.with_suffix(''))
    stored = self._variables.tensors()
    prefixed = [name for name in stored if name.startswith(_PREFIX)]
    both = [name for name in prefixed if name.removeprefix(_PREFIX) in stored]
    if both:
      raise errors.SourceError(
        f'{both[0]} is there with and without {_PREFIX} in {index}: which of the two is meant is not known'
      )
    self._names = {name.removeprefix(_PREFIX): name for name in stored}
    tensors = {name: stored[there] for name, there in self._names.items()}
    self.parts = frozenset(weight_map.parts_in(tensors))
    ignored = _COUNTERS | {
      f'{row.tf1}/{slot}' for row in weight_map.rows(self.config, weight_map.Part) for slot in _SLOTS
    }
    weight_map.check_source(
      self.config,
      self.parts,
      tensors,
      ignored,
      str(index),
      advice='the checkpoint is of another model, or its albert_config.json belongs to another',
    )

  @property
  def provable(self) -> frozenset[weight_map.Part]:
    return self.parts

  def tensor(self, row: weight_map.Row) -> np.ndarray:
    return self._variables.read(self._names[row.tf1])
