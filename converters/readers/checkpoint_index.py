"""Reads `variables.index` without TensorFlow: the position of each tensor's bytes in the data files.

The file is a LevelDB table (github.com/google/leveldb/blob/main/doc/table_format.md) from tensor names to
BundleEntryProto messages (tensorflow/core/protobuf/tensor_bundle.proto), with the BundleHeaderProto under the empty
name. TensorFlow writes it uncompressed, each block with its checksum.
"""

import dataclasses
import math
import os
import pathlib
import struct
from collections.abc import Iterator

from converters import errors
from converters.io import protobuf_wire
from converters.io import safe_read

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48  # two block handles, padding, magic number
_TRAILER = 5  # of a block: compression type, checksum
_LARGEST_FILE = 16 << 20  # bytes; an ALBERT's has 1.6 kB
_LARGEST_KEY = 1 << 12  # bytes; entries share prefixes, so a small file can describe long keys
_LEAST_ENTRY = 1 << 9  # bytes of memory per entry, in addition to its name
FLOAT32 = 1  # DT_FLOAT of TensorFlow's DataType enum
# Bytes of an element by number of that enum, for weights and for other tensors of a checkpoint, such as counters.
_WIDTHS = {FLOAT32: 4, 2: 8, 3: 4, 4: 1, 5: 2, 6: 1, 9: 8, 10: 1, 14: 2, 17: 2, 19: 2, 22: 4, 23: 8}
_STRING = 7  # a length and the bytes of each element: at least one byte
_LARGEST_RANK, _LARGEST_DIMENSION = 8, 1 << 31


@dataclasses.dataclass(frozen=True)
class Entry:
  """Position of a tensor's bytes in the data files.

  Attributes:
    dtype: number of the DataType enum; 1 is float32.
    shape: its dimensions.
    shard: number of the data file.
    offset, size: in bytes.
    sliced: whether it was saved in pieces, which have entries of their own.
  """

  dtype: int
  shape: tuple[int, ...]
  shard: int
  offset: int
  size: int
  sliced: bool = False


@dataclasses.dataclass(frozen=True)
class Index:
  """A checkpoint's table of contents.

  Attributes:
    entries: by tensor name; the pieces of a tensor that was saved in pieces under names that start with a zero byte.
    shards: number of data files.
  """

  entries: dict[str, Entry]
  shards: int


def read(path: pathlib.Path) -> Index:
  """Reads an index.

  Args:
    path: the `.index` file.

  Raises:
    CheckpointError: the file is not a valid index.
  """
  try:
    data = safe_read.read(path, _LARGEST_FILE)
    if struct.unpack('<Q', data[-8:])[0] != _MAGIC:
      raise ValueError('no magic number at the end')
    footer = data[-_FOOTER:]
    _, position = _handle(footer, 0)  # of the meta index, which TensorFlow leaves empty
    table = dict(_pairs(data, _handle(footer, position)[0]))
    shards = _header(table.pop(b''))
    return Index({key.decode(errors='surrogateescape'): _entry(value) for key, value in table.items()}, shards)
  except (OSError, ValueError, IndexError, KeyError, struct.error) as e:
    raise errors.CheckpointError(f'{path}: not a checkpoint index ({e}); fetch it again') from e


def check_data_files(index: Index, prefix: pathlib.Path) -> None:
  """Checks that the data files of `<prefix>.index` are complete, and long enough for the tensors.

  Raises:
    CheckpointError: a file is missing or unexpected, or an entry is invalid; the message names it.
  """
  wanted = [f'{prefix.name}.data-{shard:05}-of-{index.shards:05}' for shard in range(min(index.shards, 1 << 10))]
  found = sorted(path.name for path in prefix.parent.glob(f'{prefix.name}.data-*'))
  for name in (*(name for name in wanted if name not in found), *(name for name in found if name not in wanted)):
    raise errors.CheckpointError(
      f'{prefix.parent}: {name} is {"missing" if name in wanted else "unexpected"} (the index has '
      f'{index.shards} data files); fetch them again'
    )
  sizes = [os.path.getsize(prefix.parent / name) for name in wanted]
  for name, entry in index.entries.items():
    if entry.shard >= len(sizes) or entry.offset + entry.size > sizes[entry.shard]:
      raise errors.CheckpointError(
        f'{prefix.parent}: tensor {name} extends past the end of its data file; fetch the file again'
      )
    # TensorFlow's native reader does not check these values, and aborts the process if they are invalid.
    shown = f'{name[:99]!r}' if name.startswith('\0') else name
    if entry.dtype not in _WIDTHS and entry.dtype != _STRING:
      raise errors.CheckpointError(
        f'{prefix}.index: {shown} has dtype number {entry.dtype}, unlike any ALBERT; fetch the file again'
      )
    if len(entry.shape) > _LARGEST_RANK or any(not 0 <= size < _LARGEST_DIMENSION for size in entry.shape):
      raise errors.CheckpointError(
        f'{prefix}.index: {shown} has the invalid shape {list(entry.shape[:9])}; fetch the file again'
      )
    least = _WIDTHS.get(entry.dtype, 1) * math.prod(entry.shape)
    if least > sum(sizes) if entry.sliced else least > entry.size if entry.dtype == _STRING else least != entry.size:
      raise errors.CheckpointError(
        f'{prefix}.index: {shown} has {sum(sizes) if entry.sliced else entry.size} bytes for shape '
        f'{list(entry.shape)}; fetch the file again'
      )


def _pairs(data: bytes, index: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
  """Yields the entries of all blocks. Blocks must not overlap, and keys must ascend: no entry is read twice."""
  end, last, names = 0, None, 0
  for _, handle in _block(data, *index):
    offset, size = _handle(handle, 0)[0]
    if offset < end:
      raise ValueError('overlapping blocks')
    end = offset + size + _TRAILER
    for key, value in _block(data, offset, size):
      if last is not None and key <= last:
        raise ValueError(f'{key[:99]!r} is out of order or duplicate')
      last = key
      names += len(key) + _LEAST_ENTRY
      if names > _LARGEST_FILE:
        raise ValueError(f'names of more than {_LARGEST_FILE} bytes')
      yield key, value


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
  offset, position = protobuf_wire.varint(data, position)
  size, position = protobuf_wire.varint(data, position)
  return (offset, size), position


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
  block = data[offset : offset + size]
  if len(data) < offset + size + _TRAILER or data[offset + size] != 0:
    raise ValueError('truncated or compressed block')
  if struct.unpack('<I', data[offset + size + 1 : offset + size + _TRAILER])[0] != _masked(
    _crc32c(data[offset : offset + size + 1])
  ):
    raise ValueError('checksum mismatch in a block')
  restarts = struct.unpack('<I', block[-4:])[0]
  end = len(block) - 4 * (restarts + 1)
  if end < 0:
    raise ValueError('a block is shorter than its restart points')
  key, position = b'', 0
  while position < end:
    shared, position = protobuf_wire.varint(block, position)
    own, position = protobuf_wire.varint(block, position)
    length, position = protobuf_wire.varint(block, position)
    if shared > len(key) or shared + own > _LARGEST_KEY or position + own + length > end:
      raise ValueError('an entry longer than its block or than the limit of a name')
    key = key[:shared] + block[position : position + own]
    position += own
    yield key, block[position : position + length]
    position += length


def _crc_table() -> list[int]:
  table = []
  for byte in range(256):
    for _ in range(8):
      byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    table.append(byte)
  return table


_CRC_TABLE = _crc_table()


def _crc32c(data: bytes) -> int:
  crc = 0xFFFFFFFF
  for byte in data:
    crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 255]
  return crc ^ 0xFFFFFFFF


def _masked(crc: int) -> int:
  """Masks a checksum as LevelDB stores it: data may contain checksums itself."""
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _numbers(message: bytes) -> dict[int, int]:
  """Returns the varint fields of a message, by number."""
  return {number: value for number, value in protobuf_wire.fields(message) if isinstance(value, int)}


def _header(message: bytes) -> int:
  """Returns the number of data files, in field 1 of the header; field 2 is 0 for little-endian tensors."""
  numbers = _numbers(message)
  if numbers.get(2, 0):
    raise ValueError('big-endian tensors')
  return numbers.get(1, 0)


def _entry(message: bytes) -> Entry:
  numbers = _numbers(message)
  shape: list[int] = []
  slices: list[bytes] = []
  for number, value in protobuf_wire.fields(message):
    if number == 7:
      slices.append(value if isinstance(value, bytes) else b'\xff')
    # TensorShapeProto: Dim messages in field 2, each with its size in field 1.
    if number == 2 and isinstance(value, bytes):
      for _, dimension in protobuf_wire.fields(value):
        if not isinstance(dimension, bytes):
          raise ValueError('a shape without dimensions')
        shape.append(next((size for n, size in protobuf_wire.fields(dimension) if n == 1 and isinstance(size, int)), 0))
  for piece in slices:
    _check_slice(piece, shape)
  return Entry(numbers.get(1, 0), tuple(shape), numbers.get(3, 0), numbers.get(4, 0), numbers.get(5, 0), bool(slices))


def _check_slice(piece: bytes, shape: list[int]) -> None:
  """Raises ValueError for a slice outside of its tensor (a TensorSliceProto: extents of start and length)."""
  extents = [
    _numbers(value) for number, value in protobuf_wire.fields(piece) if number == 1 and isinstance(value, bytes)
  ]
  if len(extents) != len(shape) or any(
    extent.get(1, 0) + extent.get(2, 0) > size for extent, size in zip(extents, shape, strict=True)
  ):
    raise ValueError('a slice outside of its tensor')
