"""Reads the weights of an ALBERT in a TensorFlow checkpoint: named as in TF1, or as an object graph of TF2."""

import dataclasses
import pathlib

import numpy as np
from google.protobuf import message

from converters import albert_config
from converters import errors
from converters import notes
from converters import weight_map
from converters.readers import tf1_variables

_OBJECT_GRAPH = '_CHECKPOINTABLE_OBJECT_GRAPH'
_PREFIX = 'module/'  # of variables that came through hub.Module
_COUNTERS = frozenset({'global_step', 'beta1_power', 'beta2_power', 'loss_scale', 'good_steps'})
# Optimizer slots of each weight: the authors' Adam and LAMB, and TensorFlow's own Adam and moving averages.
_SLOTS = ('adam_m', 'adam_v', 'lamb_m', 'lamb_v', 'Adam', 'Adam_1', 'ExponentialMovingAverage')
# Scopes of the authors' ALBERT. A tensor outside of them belongs to a task's head.
_SCOPES = ('bert/', 'cls/predictions/', 'cls/seq_relationship/')
# Prefixes of checkpoint keys of training state, which TF2 saves in addition to a model's variables.
_TRAINING_STATE = ('optimizer/', 'keras_api/', 'save_counter/', _OBJECT_GRAPH)
_OPTIMIZER_SLOT = '/.OPTIMIZER_SLOT/'
_ADVICE = 'give a checkpoint of ALBERT with its own config'


class Variables:
  """The weights in a checkpoint.

  Attributes:
    parts: the parts that the checkpoint has weights for.
    from_tf2: whether the checkpoint has an object graph, as TF2 writes it.
    notes: sentences on weights that are left out or converted, for people and the record.
  """

  def __init__(self, prefix: pathlib.Path, config: albert_config.AlbertConfig):
    """Opens a checkpoint.

    Args:
      prefix: path of its files, up to `.index`.
      config: gives the shapes.

    Raises:
      SourceError: a file is missing or broken, or the tensors do not match the config.
    """
    self._config = config
    self._raw = tf1_variables.Variables(prefix)
    where = str(prefix.with_name(f'{prefix.name}.index'))
    stored = self._raw.tensors()
    if _OBJECT_GRAPH in stored:
      self._format = weight_map.Format.TF_MODELS
      self._names = _object_names(self._raw.text(_OBJECT_GRAPH), where)
      self._names = {name: key for name, key in self._names.items() if key in stored}
    else:
      self._format = weight_map.Format.TF1
      self._names = _plain_names(stored, where)
    tensors = {name: stored[key] for name, key in self._names.items()}
    self.parts = frozenset(weight_map.parts_in(config, tensors, self._format))
    every = weight_map.rows(dataclasses.replace(config, pooler=True), weight_map.Part)
    wanted = {row.stored_name(self._format) for row in every}
    slots = {f'{name}/{slot}' for name in wanted for slot in _SLOTS}
    heads = sorted(name for name in tensors if name not in wanted | slots | _COUNTERS and self._is_of_a_head(name))
    widened = weight_map.check_source(
      config, self.parts, tensors, (slots | _COUNTERS | set(heads)).__contains__, where, self._format, _ADVICE
    )
    self.from_tf2 = self._format is weight_map.Format.TF_MODELS
    self.notes = notes.left_out(name for name in heads if not name.endswith(_SLOTS)) + notes.converted(widened)
    if not config.pooler:
      self.notes += notes.without_pooler(weight_map.pooled(tensors, self._format))

  def tensor(self, row: weight_map.Row) -> np.ndarray:
    """Reads one tensor: float32, in its canonical layout. May be called by several threads.

    Raises:
      SourceError: it cannot be read, or is not finite.
    """
    value = weight_map.widen(self._raw.read(self._names[row.stored_name(self._format)]))
    if self._format is weight_map.Format.TF_MODELS:
      value = row.transform.invert(value, weight_map.shape(row.shape, self._config))
    return np.ascontiguousarray(value)

  def _is_of_a_head(self, name: str) -> bool:
    if self._format is weight_map.Format.TF1:
      return not name.startswith(_SCOPES)
    scopes = {row.tf_models.partition('/')[0] for row in weight_map.rows(self._config, weight_map.Part)}
    return name.partition('/')[0] not in scopes - {'cls'} and not name.startswith(_SCOPES)


def _plain_names(stored: tf1_variables.Tensors, where: str) -> dict[str, str]:
  """Returns the name in the checkpoint of every variable, by its name in a TF1 Hub module."""
  both = [name for name in stored if name.startswith(_PREFIX) and name.removeprefix(_PREFIX) in stored]
  if both:
    raise errors.SourceError(f'{where}: {both[0]} occurs with and without {_PREFIX}; remove one of the two')
  return {name.removeprefix(_PREFIX): name for name in stored}


def _object_names(serialized: bytes, where: str) -> dict[str, str]:
  """Returns the checkpoint key of every variable of a model, by its name in tf-models' AlbertEncoder."""
  from tensorflow.core.protobuf import trackable_object_graph_pb2

  try:
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(serialized)
  except message.DecodeError as e:
    raise errors.CheckpointError(f'{where}: invalid object graph ({str(e).strip()}); fetch the model again') from e
  keys: dict[str, str] = {}
  for node in graph.nodes:
    for attribute in node.attributes:
      key, name = attribute.checkpoint_key, attribute.full_name
      if not name or key.startswith(_TRAINING_STATE) or _OPTIMIZER_SLOT in key:
        continue
      if keys.setdefault(name, key) != key:
        raise errors.SourceError(f'{where}: two variables are named {name[:100]}; give the encoder alone')
  anchor = weight_map.WORD_EMBEDDING.tf_models
  prefixes = [name.removesuffix(anchor) for name in keys if name == anchor or name.endswith(f'/{anchor}')]
  if len(prefixes) > 1:
    raise errors.SourceError(f'{where}: {len(prefixes)} encoders ({", ".join(prefixes)}); give one alone')
  prefix = prefixes[0] if prefixes else ''
  return {name.removeprefix(prefix): key for name, key in keys.items()}
