"""Reads the tensors of a TensorFlow checkpoint, which is checked before TensorFlow's native reader opens it."""

import os
import pathlib
import threading
from typing import Any

import numpy as np

from converters import errors
from converters.readers import checkpoint_index

Tensors = dict[str, tuple[tuple[int, ...], np.dtype]]


class Variables:
  """The tensors of `<prefix>.index`. A partitioned variable is one tensor here."""

  def __init__(self, prefix: pathlib.Path):
    """Opens a checkpoint.

    Args:
      prefix: path of its files, up to `.index`.

    Raises:
      CheckpointError, SourceError: a file is missing or broken.
    """
    self._where = f'{prefix.parent.name}/{prefix.name}'
    self._reading = threading.Lock()  # the native reader seeks
    index = prefix.with_name(f'{prefix.name}.index')
    if not index.exists():
      raise errors.SourceError(f'{prefix.parent}: no {index.name}; fetch the module again')
    checkpoint_index.check_data_files(checkpoint_index.read(index), prefix)
    import tensorflow as tf  # takes seconds

    try:
      self._reader = tf.train.load_checkpoint(os.fspath(prefix))
    except Exception as e:
      raise errors.SourceError(f'{index}: not a checkpoint ({_first_line(e)}); fetch the module again') from e

  def tensors(self) -> Tensors:
    """Returns the shape and dtype of every variable, by name."""
    dtypes = self._reader.get_variable_to_dtype_map()
    return {
      name: (tuple(shape), np.dtype(dtypes[name].as_numpy_dtype))
      for name, shape in sorted(self._reader.get_variable_to_shape_map().items())
    }

  def read(self, name: str) -> np.ndarray:
    """Reads one tensor of numbers. May be called by several threads.

    Raises:
      SourceError: it cannot be read, or is not finite.
    """
    value = self._get(name)
    if not np.isfinite(value).all():
      raise errors.SourceError(f'{self._where}: NaN or infinity in {name}; give other weights')
    return value

  def text(self, name: str) -> bytes:
    """Reads one scalar string.

    Raises:
      SourceError: it cannot be read, or is not a scalar string.
    """
    value = self._get(name)
    if not isinstance(value, bytes):
      raise errors.SourceError(f'{self._where}: {name} is not a string; fetch the module again')
    return value

  def _get(self, name: str) -> Any:
    try:
      with self._reading:
        return self._reader.get_tensor(name)
    except Exception as e:  # the native reader turns each status into another built-in exception
      raise errors.CheckpointError(
        f'{self._where}: {name} cannot be read ({_first_line(e)}); fetch the module again'
      ) from e


def _first_line(e: Exception) -> str:
  return str(e).strip().split('\n')[0]
