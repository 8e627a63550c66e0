"""A checkpoint's index is read as TensorFlow reads it."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from support import craft

from converters import errors
from converters.io import protobuf_wire
from converters.readers import checkpoint_index


def test_index_is_read_like_tensorflow_reads_it(encoder_path):
  entries = checkpoint_index.read(pathlib.Path(encoder_path) / 'variables/variables.index').entries
  reader = tf.train.load_checkpoint(f'{encoder_path}/variables/variables')
  assert sorted(entries) == sorted(reader.get_variable_to_shape_map())
  data = (pathlib.Path(encoder_path) / craft.DATA).read_bytes()
  for name, shape in reader.get_variable_to_shape_map().items():
    entry = entries[name]
    assert entry.dtype == reader.get_variable_to_dtype_map()[name].as_datatype_enum
    assert list(entry.shape) == shape
    if reader.get_variable_to_dtype_map()[name] == tf.float32:
      assert np.array_equal(
        np.frombuffer(data, '<f4', entry.size // 4, entry.offset).reshape(shape), reader.get_tensor(name)
      )


@pytest.mark.parametrize('position', [0.0, 0.2, 0.5, 0.8, 1.0])
def test_cut_index_is_refused(encoder_path, tmp_path, position):
  content = (pathlib.Path(encoder_path) / 'variables/variables.index').read_bytes()
  path = tmp_path / 'variables.index'
  path.write_bytes(content[: int(position * (len(content) - 1))])
  with pytest.raises(errors.CheckpointError, match='variables.index: not a checkpoint index '):
    checkpoint_index.read(path)


@pytest.mark.parametrize('message', [b'\x0a\x03ab', b'\x0d\x01\x02\x03', b'\x09\x01\x02', b'\x0a\x01a\x12\x7f'])
def test_field_that_is_cut_off_is_refused(message):
  with pytest.raises(ValueError, match='truncated field'):
    list(protobuf_wire.fields(message))
