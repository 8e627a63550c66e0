"""What every source of weights gives, whatever its format."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from converters import albert_config as albert_config_lib
from converters import errors
from converters import weight_map
from converters.io import archive
from converters.io import digest
from converters.io import source_files
from converters.io import temp_dirs


class Source(Protocol):
  """A pretrained ALBERT.

  Attributes:
    handle: where it came from, as the user wrote it.
    path: the local directory it is read from.
    config: its sizes.
    format: what it is, for people.
    graph: the SavedModel file that has its own graph, which can be run to compare with; None if it has none.
    parts: the pieces of a model that it has weights for.
    sp_model_name: file name of its SentencePiece model.
    sp_model: content of that file.
    sp_model_digest: 'sha256:...' of it.
    provable: the pieces whose outputs its graph can compute, to compare with; all if it has none.
    digest: 'sha256:...' over the names and contents of its files; the same however it was packed.
  """

  handle: str
  path: pathlib.Path
  config: albert_config_lib.AlbertConfig
  format: str
  graph: pathlib.Path | None
  parts: frozenset[weight_map.Part]
  sp_model_name: str
  sp_model: bytes

  @property
  def provable(self) -> frozenset[weight_map.Part]: ...

  @property
  def digest(self) -> str: ...

  @property
  def sp_model_digest(self) -> str: ...

  def tensor(self, row: weight_map.Row) -> np.ndarray:
    """Reads one tensor: float32, in its canonical layout. May be called by several threads.

    Raises:
      SourceError: it cannot be read, or is not finite.
    """


@dataclasses.dataclass(frozen=True)
class Reading:
  """How a source is read.

  Attributes:
    albert_config: a file that says what assets/albert_config.json would, for a module without one.
    sha256: of a .tar.gz, or of what a handle's host sends: its SHA-256 in hex. Of a directory: the digest in the record
      of a release that
      was made from it. Anything else is refused before it is opened.
    caps: how much an archive may unpack to.
  """

  albert_config: str | None = None
  sha256: str | None = None
  caps: archive.Caps = archive.Caps()


def check_handle(handle: str) -> None:
  """Raises SourceError when a handle is a path, and there is nothing. Takes no time."""
  if '://' not in handle and not os.path.exists(handle):
    raise errors.SourceError(
      f'no file or directory {handle}: give a module directory, a .tar.gz or a hub handle with --source'
    )


def missing_heads(source: Source) -> list[str]:
  """The heads that a source has no weights for, for people: 'no sentence order head' and so on."""
  return [f'no {part.title} head' for part in weight_map.Part if part not in source.parts]


def lacks(source: Source) -> list[str]:
  """What a source cannot give to an export, for people."""
  return missing_heads(source) + (
    ['no graph of its own: outputs can be compared with the float64 reference alone'] if source.graph is None else []
  )


@contextlib.contextmanager
def open_source(handle: str, reading: Reading = Reading()) -> Iterator[Source]:
  """Opens a source and checks everything about it that can be checked without reading its weights.

  Args:
    handle: a directory or a .tar.gz with a TF1 Hub module, a checkpoint of the authors, or a model of Hugging Face
      Transformers; or a hub
      handle with a scheme (https://tfhub.dev/google/albert_large/3), which tensorflow_hub resolves and caches.
    reading: how.

  Yields:
    The source. What it was unpacked to is gone afterwards.

  Raises:
    SourceError: naming the file and what to do.
  """
  from converters.io import hub_download  # imports TensorFlow, as the next ones do

  check_handle(handle)
  with contextlib.ExitStack() as stack:
    if '://' in handle:
      path = hub_download.resolve(handle, reading.caps, _objection, reading.sha256)
    elif os.path.isdir(handle):
      path = pathlib.Path(handle)
      if reading.sha256 is not None:
        digest.check(handle, digest.of_tree(_place(path)), reading.sha256)
    else:
      if reading.sha256 is not None:
        digest.check(handle, digest.of_file(handle), reading.sha256)
      path = stack.enter_context(temp_dirs.directory('albert_source_'))
      archive.unpack(handle, path, reading.caps, _objection)
    yield _opened(handle, path, reading.albert_config, packed='://' in handle or not os.path.isdir(handle))


def _place(path: pathlib.Path) -> pathlib.Path:
  """Where a source's files are: in a directory, or in the only one in it, as the authors pack theirs."""
  from converters.readers import hugging_face
  from converters.readers import tf1_checkpoint

  if (path / 'saved_model.pb').exists():
    return path
  return next(
    (
      place
      for place in (path, *source_files.only_directory(path))
      if tf1_checkpoint.is_in(place) or hugging_face.is_in(place)
    ),
    path,
  )


def _opened(handle: str, path: pathlib.Path, albert_config: str | None, packed: bool) -> Source:
  """The source in a directory, of the format that the files there are of. What was packed is there in that format alone."""
  from converters.readers import hugging_face
  from converters.readers import tf1_checkpoint
  from converters.readers import tf1_hub

  def check(objection: Callable[[str], str | None]) -> None:
    for name in sorted(file.relative_to(path).as_posix() for file in path.rglob('*') if packed and file.is_file()):
      if fault := objection(name):
        raise errors.ArchiveError(f'member {name!r} in {handle} {fault}')

  place = _place(path)
  is_checkpoint, is_model = tf1_checkpoint.is_in(place), hugging_face.is_in(place)
  if (path / 'saved_model.pb').exists() or not (is_checkpoint or is_model):
    check(tf1_hub.objection)
    return tf1_hub.Module(handle, path, albert_config)
  if is_checkpoint and is_model:
    raise errors.SourceError(
      f'a checkpoint and a model of Hugging Face in {handle}: give one of the two in a directory of its own'
    )
  if is_checkpoint:
    check(tf1_checkpoint.objection)
    return tf1_checkpoint.Checkpoint(handle, place, albert_config)
  check(hugging_face.objection)
  if albert_config is not None:
    raise errors.SourceError(f'--albert_config for {handle}, which has a config.json of Hugging Face: leave it out')
  return hugging_face.Model(handle, place)


def _objection(name: str) -> str | None:
  """What is wrong with a file of that name in an archive whose format is not known yet; None if nothing is."""
  from converters.readers import hugging_face
  from converters.readers import tf1_checkpoint
  from converters.readers import tf1_hub

  others = (tf1_checkpoint.objection, hugging_face.objection)
  return None if any(objection(name) is None for objection in others) else tf1_hub.objection(name)
