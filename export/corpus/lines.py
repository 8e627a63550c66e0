"""Reads lines of text files in pieces that workers read in parallel, with bounded memory."""

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

WINDOW = 512  # lines in memory, from which batches of similar length are made
LONGEST = 1 << 20  # maximum bytes of a line
_PIECE = 1 << 16  # minimum bytes of a piece
_PIECES = 1000  # maximum pieces of a file, since a worker may hold the list of all pieces
_STRIPES = 16  # maximum number of times that a compressed file is read
_CHUNK = 1 << 16
_Read = Callable[[int], bytes]

# Not decompressed by Beam, which accepts truncated files.
_PACKED: dict[str, Callable[[Any], Any]] = {'.gz': gzip.open, '.bz2': bz2.open, '.xz': lzma.open}


class Unreadable(Exception):
  """A file cannot be read from some offset on.

  Attributes:
    offset: offset in the decompressed file, in bytes.
  """

  def __init__(self, offset: int, why: str):
    super().__init__(why)
    self.offset = offset


@dataclasses.dataclass(frozen=True)
class Piece:
  """Some lines of a file.

  A piece of a plain file has the lines that begin in [start, stop). A compressed file can only be read from its
  beginning: a piece has every `stripes`-th group of WINDOW lines.

  Attributes:
    path: path of the file.
    start: first byte, for a plain file.
    stop: byte after the last one, for a plain file.
    stripe: number of the first group, for a compressed file.
    stripes: number of pieces, for a compressed file.
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
    path: path of the file.
    offset: offset in the decompressed file, in bytes.
    content: bytes without the line ending; None if the line has more than LONGEST bytes with its carriage return.
  """

  path: str
  offset: int
  content: bytes | None

  @property
  def text(self) -> str:
    """The line as text, with replacement characters for invalid UTF-8."""
    assert self.content is not None
    return self.content.decode('utf-8', 'replace')


def pieces(path: str, size: int) -> Iterator[Piece]:
  """Divides a file into pieces that do not depend on the number of workers.

  Args:
    path: path of the file.
    size: size of the file as stored, in bytes.

  Yields:
    The pieces.
  """
  if _unpacker(path):
    # Decompression is cheap compared with running models, so each piece decompresses the whole file.
    stripes = min(_STRIPES, max(1, size * 4 // _PIECE))
    yield from (Piece(path, stripe=stripe, stripes=stripes) for stripe in range(stripes))
  else:
    step = max(_PIECE, math.ceil(size / _PIECES))
    yield from (Piece(path, start, min(start + step, size)) for start in range(0, size, step))


def read(piece: Piece) -> Iterator[Line]:
  """Reads the lines of a piece in order.

  Raises:
    Unreadable: the file cannot be read further. Only one piece of a corrupt compressed file raises it.
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
  except Exception as e:  # file systems raise errors of many types
    raise _unreadable(piece.start, e) from e


def _unpack(file: BinaryIO, unpacked: Any, size: int) -> bytes:
  chunk: bytes = unpacked.read1(size)  # read would lose the data before a truncation
  # gzip accepts an empty file, which a full disk leaves behind.
  if not chunk and not file.tell():
    raise EOFError('empty, which is not a valid compressed file')
  return chunk


def _stripe(read: _Read, piece: Piece) -> Iterator[Line]:
  number = 0  # of the next line

  def is_in_stripe() -> bool:
    return number // WINDOW % piece.stripes == piece.stripe

  try:
    for offset, content in _lines(read, 0):
      if is_in_stripe():
        yield Line(piece.path, offset, content)
      number += 1
  except Unreadable as e:
    if is_in_stripe() or not _is_corruption(e.__cause__):
      raise


def _is_corruption(e: BaseException | None) -> bool:
  """Returns whether an error means corrupt compressed data, in contrast to an error of the file system."""
  # bz2 raises a plain OSError without errno; file systems raise subclasses of OSError.
  return isinstance(e, (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)) or (
    type(e) is OSError and e.errno is None
  )


def windows(piece: Piece) -> Iterator[list[Line]]:
  """Reads the lines of a piece in lists of WINDOW lines.

  Raises:
    Unreadable: the file cannot be read further. The lines before are yielded first.
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
  """Returns the offset of the first line that begins in a piece, or an offset after the piece."""
  if piece.start == 0:
    return 0
  position = piece.start - 1  # a line begins at `start` if this byte ends a line
  file.seek(position)
  while position < piece.stop and (chunk := file.read(_CHUNK)):
    if (end := chunk.find(b'\n')) >= 0:
      return position + end + 1
    position += len(chunk)
  return piece.stop


def _lines(read: _Read, offset: int, stop: float = math.inf) -> Iterator[tuple[int, bytes | None]]:
  """Yields offset and content of the lines that begin before `stop`; None for a line of more than LONGEST bytes."""
  line, size = bytearray(), 0

  def content() -> bytes | None:
    return bytes(line).removesuffix(b'\r') if size <= LONGEST else None

  while offset < stop:
    try:
      chunk = read(_CHUNK)
    except Exception as e:  # file systems and decompressors raise errors of many types
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
