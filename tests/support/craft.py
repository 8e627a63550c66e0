"""Makes faulty archives, checkpoints, graphs and vocabularies."""

import gzip
import pathlib
import struct
import tarfile
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from converters.io import protobuf_wire
from converters.readers import checkpoint_index

DATA = 'variables/variables.data-00000-of-00001'


def archive(module: pathlib.Path, path: pathlib.Path, root: str = '.') -> pathlib.Path:
  """Makes a valid archive."""
  with tarfile.open(path, 'w:gz') as tar:
    tar.add(module, root)
  return path


def archive_with(module: pathlib.Path, path: pathlib.Path, *members: tuple[tarfile.TarInfo, bytes]) -> pathlib.Path:
  """Makes a valid archive with additional members at its end."""
  with tarfile.open(path, 'w:gz') as tar:
    tar.add(module, '.')
    for info, content in members:
      tar.fileobj.write(header_bytes(info) + content + bytes(-len(content) % 512))
      tar.offset = tar.fileobj.tell()
  return path


def raw_archive(path: pathlib.Path, *members: tuple[tarfile.TarInfo | bytes, bytes]) -> pathlib.Path:
  """Makes an archive of only the given headers and contents."""
  with gzip.open(path, 'wb', 1) as f:
    for info, content in members:
      f.write((info if isinstance(info, bytes) else header_bytes(info)) + content + bytes(-len(content) % 512))
    f.write(bytes(1024))
  return path


def header(**fields) -> tarfile.TarInfo:
  info = tarfile.TarInfo()
  for name, value in fields.items():
    setattr(info, name, value)
  return info


def header_bytes(info: tarfile.TarInfo) -> bytes:
  return info.tobuf(tarfile.GNU_FORMAT if len(info.name) > 99 or not 0 <= info.size < 1 << 33 else tarfile.USTAR_FORMAT)


def flip(path: pathlib.Path, position: int, bit: int = 0) -> None:
  content = bytearray(path.read_bytes())
  content[position] ^= 1 << bit
  path.write_bytes(content)


def rewrite_checkpoint(module: pathlib.Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
  """Changes the tensors of a module's checkpoint, and rewrites it in TensorFlow's format."""
  prefix = str(module / 'variables/variables')
  reader = tf.train.load_checkpoint(prefix)
  tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
  change(tensors)
  names = sorted(tensors)
  tf.raw_ops.SaveV2(
    prefix=prefix, tensor_names=names, shape_and_slices=[''] * len(names), tensors=[tensors[name] for name in names]
  )


def varint(value: int) -> bytes:
  result = bytearray()
  while value > 127:
    result.append(value & 127 | 128)
    value >>= 7
  return bytes([*result, value])


def field(number: int, value: int | bytes) -> bytes:
  """Encodes a field of a protocol buffer."""
  if isinstance(value, bytes):
    return varint(number << 3 | 2) + varint(len(value)) + value
  return varint(number << 3) + varint(value)


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
  return protobuf_wire.fields(message)


def index_pairs(path: pathlib.Path) -> list[tuple[bytes, bytes]]:
  """Returns the names and messages in an index. The header's name is empty."""
  data = path.read_bytes()
  _, position = checkpoint_index._handle(data[-48:], 0)
  return list(checkpoint_index._pairs(data, checkpoint_index._handle(data[-48:], position)[0]))


def block(pairs: Iterable[tuple[bytes, bytes]], compression: int = 0) -> bytes:
  """Encodes a LevelDB block with its checksum and without shared prefixes."""
  body = b''.join(varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in pairs)
  return sealed(body + struct.pack('<II', 0, 1), compression)


def sealed(body: bytes, compression: int = 0) -> bytes:
  body += bytes([compression])
  return body + struct.pack('<I', checkpoint_index._masked(checkpoint_index._crc32c(body)))


def index(blocks: Iterable[bytes], handles: Iterable[tuple[int, int]] | None = None) -> bytes:
  """Encodes a LevelDB table of blocks, with correct or given handles."""
  blocks = list(blocks)
  data, right = b'', []
  for content in blocks:
    right.append((len(data), len(content) - 5))
    data += content
  meta, table = (
    block([]),
    block([(b'\xff', varint(offset) + varint(size)) for offset, size in (right if handles is None else handles)]),
  )
  footer = b''
  for content in (meta, table):
    footer += varint(len(data)) + varint(len(content) - 5)
    data += content
  return data + footer.ljust(40, b'\0') + struct.pack('<Q', 0xDB4775248B80FB57)
