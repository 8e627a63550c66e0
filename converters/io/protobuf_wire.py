"""Reads protocol buffers without their definitions (protobuf.dev/programming-guides/encoding)."""

from collections.abc import Iterator


def varint(data: bytes, position: int) -> tuple[int, int]:
  """The number at a position, and the position after it.

  Raises:
    ValueError, IndexError: there is none.
  """
  value = 0
  for shift in range(0, 70, 7):
    byte = data[position]
    position += 1
    value |= (byte & 127) << shift
    if byte < 128:
      return value, position
  raise ValueError('a number without an end')


def submessage(message: bytes, number: int) -> bytes:
  """The first of its fields of that number that is bytes; empty if there is none.

  Raises:
    ValueError, IndexError: it is no such message.
  """
  return next((value for found, value in fields(message) if found == number and isinstance(value, bytes)), b'')


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
  """The fields of a protocol buffer by number: varints as int, everything else as bytes.

  Raises:
    ValueError, IndexError: it is no such message.
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
        raise ValueError('an entry of no known wire type')
      value = message[position : position + length]
      position += length
      if position > len(message):
        raise ValueError('a field that is cut off')
    yield tag >> 3, value
