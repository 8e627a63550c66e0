"""Reads `variables.index` without TensorFlow: where in the data files each tensor's bytes are.

The file is a LevelDB table (github.com/google/leveldb/blob/main/doc/table_format.md) from tensor names to BundleEntryProto
messages (tensorflow/core/protobuf/tensor_bundle.proto). TensorFlow writes it uncompressed.
"""

import dataclasses
import pathlib
import struct
from collections.abc import Iterator

from converters import errors

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48  # two block handles, padding, magic number
_TRAILER = 5  # of a block: compression type, checksum


@dataclasses.dataclass(frozen=True)
class Entry:
  """Where a tensor's bytes are.

  Attributes:
    dtype: number of the DataType enum; 1 is float32.
    shape: its dimensions.
    shard: number of the data file.
    offset, size: in bytes.
  """
  dtype: int
  shape: tuple[int, ...]
  shard: int
  offset: int
  size: int


def read(path: pathlib.Path) -> dict[str, Entry]:
  """Reads an index.

  Args:
    path: the `.index` file.

  Returns:
    The entries by tensor name.

  Raises:
    IntegrityError: the file is not such a table.
  """
  try:
    data = path.read_bytes()
    if struct.unpack('<Q', data[-8:])[0] != _MAGIC:
      raise ValueError('no magic number at the end')
    footer = data[-_FOOTER:]
    _, position = _handle(footer, 0)  # of the meta index, which TensorFlow leaves empty
    index, _ = _handle(footer, position)
    return {
        key.decode(): _entry(value)
        for _, handle in _block(data, *index) for key, value in _block(data, *_handle(handle, 0)[0]) if key
    }
  except (OSError, ValueError, IndexError, struct.error) as e:
    raise errors.IntegrityError(f'no checkpoint index in {path} ({e}): the release is damaged, publish it again') from e


def _varint(data: bytes, position: int) -> tuple[int, int]:
  value = shift = 0
  while True:
    byte = data[position]
    position += 1
    value |= (byte & 127) << shift
    if byte < 128:
      return value, position
    shift += 7


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
  offset, position = _varint(data, position)
  size, position = _varint(data, position)
  return (offset, size), position


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
  block = data[offset:offset + size]
  if len(data) < offset + size + _TRAILER or data[offset + size] != 0:
    raise ValueError('a block is cut off or compressed')
  restarts = struct.unpack('<I', block[-4:])[0]
  end = len(block) - 4 * (restarts + 1)
  key, position = b'', 0
  while position < end:
    shared, position = _varint(block, position)
    own, position = _varint(block, position)
    length, position = _varint(block, position)
    key = key[:shared] + block[position:position + own]
    position += own
    yield key, block[position:position + length]
    position += length


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
  """The fields of a protocol buffer by number: varints as int, everything else as bytes."""
  position = 0
  while position < len(message):
    tag, position = _varint(message, position)
    value: int | bytes
    if tag & 7 == 0:
      value, position = _varint(message, position)
    else:
      length = {1: 8, 5: 4}.get(tag & 7, 0)
      if tag & 7 == 2:
        length, position = _varint(message, position)
      elif not length:
        raise ValueError('an entry of no known wire type')
      value = message[position:position + length]
      position += length
    yield tag >> 3, value


def _entry(message: bytes) -> Entry:
  numbers = {number: value for number, value in _fields(message) if isinstance(value, int)}
  shape: list[int] = []
  for number, value in _fields(message):
    if number == 2 and isinstance(value, bytes):  # TensorShapeProto, of Dim messages in field 2, with the size in field 1
      for _, dimension in _fields(value):
        if not isinstance(dimension, bytes):
          raise ValueError('a shape without dimensions')
        shape.append(next((size for n, size in _fields(dimension) if n == 1 and isinstance(size, int)), 0))
  return Entry(numbers.get(1, 0), tuple(shape), numbers.get(3, 0), numbers.get(4, 0), numbers.get(5, 0))
