"""Reads protocol buffers without their definitions (protobuf.dev/programming-guides/encoding)."""

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


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
  """Yields the fields of a protocol buffer by number: varints as int, all other types as bytes.

  Raises:
    ValueError, IndexError: the message is invalid.
  """
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
    yield tag >> 3, value
