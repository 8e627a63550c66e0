"""Exchanges named arrays and integers with a subprocess through pipes, without pickle.

A message begins with eight bytes: a mark, and the length of the header as little-endian uint32. A header in JSON and
the bytes of the arrays in order follow. The reader specifies the arrays that it expects, and rejects any other message.
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from typing import Any
from typing import IO

import numpy as np

_HEAD = struct.Struct('<4sI')
_MARK = b'ahc1'
_LONGEST_HEADER = 1 << 16
_LARGEST = 1 << 31  # maximum bytes of all arrays

Arrays = dict[str, np.ndarray]
# Type and shape of each array by name; None for a dimension of any size.
Shapes = Mapping[str, tuple[type[np.generic], tuple[int | None, ...]]]


class Garbled(Exception):
  """A message is invalid or unexpected."""


def write(stream: IO[bytes], arrays: Mapping[str, np.ndarray], figures: Mapping[str, int]) -> None:
  """Writes a message.

  Args:
    stream: stream to write to.
    arrays: arrays of numbers, by name.
    figures: nonnegative integers, by name.
  """
  parts = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
  header = json.dumps(
    {'arrays': {name: [value.dtype.str, value.shape] for name, value in parts.items()}, 'figures': dict(figures)}
  ).encode()
  stream.write(_HEAD.pack(_MARK, len(header)) + header)
  for value in parts.values():
    if value.size:
      stream.write(value.reshape(-1).view(np.uint8).data)
  stream.flush()


def read(stream: IO[bytes], expected: Shapes | None) -> tuple[Arrays, dict[str, int]] | None:
  """Reads a message.

  Args:
    stream: stream to read from.
    expected: type and shape of each expected array; None to accept any array of a trusted writer.

  Returns:
    The arrays and the integers; None at the end of the stream.

  Raises:
    Garbled: the message is invalid, or has other arrays.
  """
  head = stream.read(_HEAD.size)
  if not head:
    return None
  if len(head) < _HEAD.size:
    raise Garbled('truncated message')
  mark, length = _HEAD.unpack(head)
  if mark != _MARK or length > _LONGEST_HEADER:
    raise Garbled('invalid mark or header length')
  try:
    header = json.loads(stream.read(length))
    figures = {str(name): value for name, value in header['figures'].items()}
    shapes = {str(name): (np.dtype(str(kind)), tuple(shape)) for name, (kind, shape) in header['arrays'].items()}
  except (ValueError, TypeError, KeyError, AttributeError, RecursionError, SyntaxError) as e:
    raise Garbled(f'invalid header ({type(e).__name__})') from e
  if not all(type(value) is int and 0 <= value < 1 << 63 for value in figures.values()):
    raise Garbled('invalid integer in the header')
  for name, (kind, shape) in shapes.items():
    if kind.kind not in 'iuf' or not all(type(size) is int and 0 <= size < 1 << 40 for size in shape):
      raise Garbled(f'{name[:40]!r} is not an array of numbers')
  if expected is not None:
    _check(shapes, expected)
  if sum(kind.itemsize * math.prod(shape) for kind, shape in shapes.values()) > _LARGEST:
    raise Garbled('arrays exceed the size limit')
  return {name: _array(stream, kind, shape) for name, (kind, shape) in shapes.items()}, figures


def _check(shapes: Mapping[str, tuple[Any, tuple[int, ...]]], expected: Shapes) -> None:
  if shapes.keys() != expected.keys():
    raise Garbled('unexpected array names')
  for name, (kind, shape) in shapes.items():
    right, wanted = expected[name]
    if (
      kind != np.dtype(right)
      or len(shape) != len(wanted)
      or any(w is not None and w != s for w, s in zip(wanted, shape, strict=True))
    ):
      raise Garbled(f'{name} is {kind} {list(shape)} instead of {np.dtype(right)} {list(wanted)}')


def _array(stream: IO[bytes], kind: Any, shape: tuple[int, ...]) -> np.ndarray:
  value = np.empty(shape, kind)
  rest = value.reshape(-1).view(np.uint8).data if value.size else memoryview(b'')
  while rest:
    count = stream.readinto(rest)  # type: ignore[attr-defined]
    if not count:
      raise Garbled('truncated message')
    rest = rest[count:]
  return value


def own_output() -> IO[bytes]:
  """Returns standard output as a stream for messages, and redirects other prints to standard error."""
  stream = os.fdopen(os.dup(1), 'wb')
  os.dup2(2, 1)
  return stream
