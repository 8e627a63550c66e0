"""The variables of a TF1 checkpoint, checked before TensorFlow's native reader sees them."""

import os
import pathlib
import threading

import numpy as np
import tensorflow as tf

from converters import errors
from converters.readers import checkpoint_index

Tensors = dict[str, tuple[tuple[int, ...], np.dtype]]


class Variables:
  """The variables below `<prefix>.index`. A partitioned one is a single variable here: the reader puts it together."""

  def __init__(self, prefix: pathlib.Path):
    """Opens a checkpoint.

    Args:
      prefix: its files' names, up to `.index`.

    Raises:
      CheckpointError, SourceError: a file is missing or broken.
    """
    self._where = prefix.parent.name
    self._reading = threading.Lock()  # the native reader seeks
    index = prefix.with_name(f'{prefix.name}.index')
    if not index.exists():
      raise errors.SourceError(f'no {index.name} in {prefix.parent}: fetch the module again')
    checkpoint_index.check_data_files(checkpoint_index.read(index), prefix)
    try:
      self._reader = tf.train.load_checkpoint(os.fspath(prefix))
    except Exception as e:  # the native reader turns each status into another built-in exception
      raise errors.SourceError(f'no checkpoint in {index} ({_first_line(e)}): fetch the module again') from e

  def tensors(self) -> Tensors:
    """Shape and dtype of every variable, by name."""
    dtypes = self._reader.get_variable_to_dtype_map()
    return {
      name: (tuple(shape), np.dtype(dtypes[name].as_numpy_dtype))
      for name, shape in sorted(self._reader.get_variable_to_shape_map().items())
    }

  def read(self, name: str) -> np.ndarray:
    """Reads one variable. May be called by several threads.

    Raises:
      SourceError: it cannot be read, or is not finite.
    """
    try:
      with self._reading:
        value = self._reader.get_tensor(name)
    except Exception as e:  # as above
      raise errors.SourceError(
        f'{name} cannot be read ({_first_line(e)}) in {self._where}/: fetch the module again'
      ) from e
    if not np.isfinite(value).all():
      raise errors.SourceError(f'NaN or infinity in {name} in {self._where}/: these weights are of no use')
    return value


def _first_line(e: Exception) -> str:
  return str(e).strip().split('\n')[0]
