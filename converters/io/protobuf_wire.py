"""Reads and edits protocol buffers without their definitions (protobuf.dev/programming-guides/encoding)."""

from collections.abc import Iterator


def varint(data: bytes, position: int) -> tuple[int, int]:
  """Reads a varint, and returns it with the position after it.

  Raises:
    ValueError, IndexError: there is no valid varint at the position.
  """
  value = 0
  for shift in range(0, 70, 7):
    byte = data[position]
    position += 1
    value |= (byte & 127) << shift
    if byte < 128:
      return value, position
  raise ValueError('a varint of more than 10 bytes')


def submessage(message: bytes, number: int) -> bytes:
  """Returns the first bytes field with a number; empty if there is none.

  Raises:
    ValueError, IndexError: the message is invalid.
  """
  return next((value for found, value in fields(message) if found == number and isinstance(value, bytes)), b'')


def with_submessage(message: bytes, number: int, content: bytes) -> bytes:
  """Returns a message with one bytes field of a number, in place of all its fields of this number.

  Raises:
    ValueError, IndexError: the message is invalid.
  """
  kept, start = [], 0
  for found, _, end in _spans(message):
    if found != number:
      kept.append(message[start:end])
    start = end
  return b''.join([*kept, _varint_of(number << 3 | 2), _varint_of(len(content)), content])


def _varint_of(value: int) -> bytes:
  groups = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
  return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
  """Yields the fields of a protocol buffer by number: varints as int, all other types as bytes.

  Raises:
    ValueError, IndexError: the message is invalid.
  """
  for number, value, _ in _spans(message):
    yield number, value


def _spans(message: bytes) -> Iterator[tuple[int, int | bytes, int]]:
  """Yields number, value and end of each field."""
  position = 0
  while position < len(message):
    tag, position = varint(message, position)
    value: int | bytes
    if tag & 7 == 0:
      value, position = varint(message, position)
    else:
      length = {1: 8, 5: 4}.get(tag & 7, 0)
      if tag & 7 == 2:
        length, position = varint(message, position)
      elif not length:
        raise ValueError('unknown wire type')
      value = message[position : position + length]
      position += length
      if position > len(message):
        raise ValueError('truncated field')
    yield tag >> 3, value, position
