"""Lines of text files, in pieces of files that can be read side by side, and never more than a few at once."""

import bz2
import dataclasses
import functools
import gzip
import itertools
import lzma
import math
import zlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import BinaryIO

from export.beam import filesystems

WINDOW = 512  # lines that are held at once, to make batches of those that are alike in length
LONGEST = 1 << 20  # bytes of a line
_PIECE = 1 << 16  # bytes, or a share of the file: a list of all pieces is held somewhere
_PIECES = 1000
_STRIPES = 16  # the most times that a packed file is read
_CHUNK = 1 << 16
_Read = Callable[[int], bytes]

# Unpacked here and not by Beam, which takes a file that breaks off for a whole one.
_PACKED: dict[str, Callable[[Any], Any]] = {'.gz': gzip.open, '.bz2': bz2.open, '.xz': lzma.open}


class Unreadable(Exception):
  """What stands there cannot be read, from some place on.

  Attributes:
    offset: bytes before it, unpacked.
  """

  def __init__(self, offset: int, why: str):
    super().__init__(why)
    self.offset = offset


@dataclasses.dataclass(frozen=True)
class Piece:
  """Some lines of a file.

  Of a plain file, those that begin at a byte from `start` on and before `stop`. A packed file can only be read from its
  beginning: of
  its lines, every `stripes`-th WINDOW of them, from number `stripe` on.
  """

  path: str
  start: int = 0
  stop: int = 0
  stripe: int = 0
  stripes: int = 0


@dataclasses.dataclass(frozen=True)
class Line:
  """A line.

  Attributes:
    path: its file.
    offset: bytes before it there, unpacked.
    content: without what ends it; None of a line of more than LONGEST bytes, a carriage return counted.
  """

  path: str
  offset: int
  content: bytes | None

  @property
  def text(self) -> str:
    assert self.content is not None
    return self.content.decode('utf-8', 'replace')


def pieces(path: str, size: int) -> Iterator[Piece]:
  """The pieces of a file; the same however many read them.

  Args:
    path: the file.
    size: bytes, as it lies there.
  """
  if _unpacker(path):
    # Unpacking is cheap beside what is done with a line: so each of them may unpack it all.
    stripes = min(_STRIPES, max(1, size * 4 // _PIECE))
    yield from (Piece(path, stripe=stripe, stripes=stripes) for stripe in range(stripes))
  else:
    step = max(_PIECE, math.ceil(size / _PIECES))
    yield from (Piece(path, start, min(start + step, size)) for start in range(0, size, step))


def read(piece: Piece) -> Iterator[Line]:
  """The lines of a piece, in their order.

  Raises:
    Unreadable: the file cannot be read further. That what is packed is broken, which all pieces find, is told by one.
  """
  try:
    with filesystems.opened(piece.path) as file:
      if unpacker := _unpacker(piece.path):
        with unpacker(file) as unpacked:
          yield from _stripe(functools.partial(_unpack, file, unpacked), piece)
        return
      first = _first_line(file, piece)
      file.seek(first)
      for offset, content in _lines(file.read, first, piece.stop):
        yield Line(piece.path, offset, content)
  except Unreadable:
    raise
  except Exception as e:  # each file system has errors of its own
    raise _unreadable(piece.start, e) from e


def _unpack(file: BinaryIO, unpacked: Any, size: int) -> bytes:
  chunk: bytes = unpacked.read1(size)  # not read: what comes before a break would be lost with it
  # gzip takes a file of no bytes for a whole one; it is what is left where nothing could be written.
  if not chunk and not file.tell():
    raise EOFError('it is empty, and what is packed never is')
  return chunk


def _stripe(read: _Read, piece: Piece) -> Iterator[Line]:
  number = 0  # of the line that comes next

  def is_ours() -> bool:
    return number // WINDOW % piece.stripes == piece.stripe

  try:
    for offset, content in _lines(read, 0):
      if is_ours():
        yield Line(piece.path, offset, content)
      number += 1
  except Unreadable as e:
    if is_ours() or not _is_broken(e.__cause__):
      raise


def _is_broken(e: BaseException | None) -> bool:
  """Whether an error is one of what was unpacked, and not of what it was read with."""
  # bz2 has no class of its own, and file systems have some below OSError.
  return isinstance(e, (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)) or (
    type(e) is OSError and e.errno is None
  )


def windows(piece: Piece) -> Iterator[list[Line]]:
  """The lines of a piece, WINDOW at a time.

  Raises:
    Unreadable: as `read` does, once what is before has been given.
  """
  lines = read(piece)
  while True:
    window = list[Line]()
    try:
      for line in itertools.islice(lines, WINDOW):
        window.append(line)
    except Unreadable:
      if window:
        yield window
      raise
    if not window:
      return
    yield window


def _unpacker(path: str) -> Callable[[Any], Any] | None:
  return next((unpack for suffix, unpack in _PACKED.items() if path.lower().endswith(suffix)), None)


def _first_line(file: BinaryIO, piece: Piece) -> int:
  """Where the first line begins that begins in a piece, or some place behind it."""
  if piece.start == 0:
    return 0
  position = piece.start - 1  # if this byte ends a line, the next one is ours
  file.seek(position)
  while position < piece.stop and (chunk := file.read(_CHUNK)):
    if (end := chunk.find(b'\n')) >= 0:
      return position + end + 1
    position += len(chunk)
  return piece.stop


def _lines(read: _Read, offset: int, stop: float = math.inf) -> Iterator[tuple[int, bytes | None]]:
  """The lines that begin at bytes before `stop`; None for one of more than LONGEST bytes, of which no more is held."""
  line, size = bytearray(), 0

  def content() -> bytes | None:
    return bytes(line).removesuffix(b'\r') if size <= LONGEST else None

  while offset < stop:
    try:
      chunk = read(_CHUNK)
    except Exception as e:  # as above
      raise _unreadable(offset, e) from e
    if not chunk:
      break
    *ends, rest = chunk.split(b'\n')
    for part in ends:
      size += len(part)
      if size <= LONGEST:
        line += part
      if offset < stop:
        yield offset, content()
      offset += size + 1
      line.clear()
      size = 0
    size += len(rest)
    if size <= LONGEST:
      line += rest
  if size and offset < stop:
    yield offset, content()


def _unreadable(offset: int, e: Exception) -> Unreadable:
  return Unreadable(offset, f'cannot be read ({" ".join(str(e).split()) or type(e).__name__})')
