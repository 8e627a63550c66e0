"""Opens pretrained ALBERTs in the formats of `converters.readers`, behind one interface."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any
from typing import Protocol

import numpy as np

from converters import albert_config as albert_config_lib
from converters import errors
from converters import reading as reading_lib
from converters import tokenization as tokenization_lib
from converters import weight_map
from converters.io import archive
from converters.io import digest
from converters.io import source_files
from converters.io import temp_dirs

Reading = reading_lib.Reading
_AS_IT_IS = Reading()


class Source(Protocol):
  """A pretrained ALBERT.

  Attributes:
    handle: the source as the user wrote it.
    path: the local directory it is read from.
    config: its architecture.
    format: name of its format, for people.
    graph: the SavedModel file of its own graph, which can be run to compare with; None without one.
    parts: the parts of a model that it has weights for.
    notes: sentences on weights that are left out or converted, for people and the record.
    tokenization: how its tokenizer treats case and accents.
    sp_model_name: file name of its SentencePiece model.
    sp_model: content of the SentencePiece model.
    sp_model_digest: 'sha256:...' of the SentencePiece model.
    provable: the parts whose outputs its graph can compute for comparison; all parts without a graph.
    digest: 'sha256:...' over the names and contents of its files; the same for a directory and its archive.
  """

  handle: str
  path: pathlib.Path
  config: albert_config_lib.AlbertConfig
  format: str
  graph: pathlib.Path | None
  parts: frozenset[weight_map.Part]
  notes: list[str]
  tokenization: tokenization_lib.Tokenization
  sp_model_name: str
  sp_model: bytes

  @property
  def provable(self) -> frozenset[weight_map.Part]:
    """See the class."""

  @property
  def digest(self) -> str:
    """See the class."""

  @property
  def sp_model_digest(self) -> str:
    """See the class."""

  def tensor(self, row: weight_map.Row) -> np.ndarray:
    """Reads one tensor: float32, in its canonical layout. May be called by several threads.

    Raises:
      SourceError: it cannot be read, or is not finite.
    """


_HUB_NAME = re.compile(r'[\w.-]{1,96}/[\w.-]{1,96}')
_HUGGING_FACE_PREFIXES = ('hf://', 'https://huggingface.co/', 'https://hf.co/', 'huggingface.co/')


def check_handle(handle: str) -> None:
  """Checks that a source exists or is a hub handle, without reading it.

  Raises:
    SourceError: the path does not exist, or the host is not supported.
  """
  for prefix in _HUGGING_FACE_PREFIXES:
    if handle.startswith(prefix):
      raise _of_hugging_face(handle, handle.removeprefix(prefix))
  if 'kaggle.com/' in handle:
    raise errors.SourceError(
      f'{handle}: Kaggle sends models to signed-in users only; download the .tar.gz there, and give its path'
    )
  if '://' in handle or os.path.exists(handle) or _checkpoint_name(handle):
    return
  if _HUB_NAME.fullmatch(handle) and not os.path.isdir(handle.partition('/')[0]):
    raise _of_hugging_face(handle, handle)
  raise errors.SourceError(
    f'{handle}: no such file or directory; give the directory or archive of a model, a checkpoint or a hub handle'
  )


def _of_hugging_face(handle: str, name: str) -> errors.SourceError:
  name = '/'.join(name.split('/')[:2])
  return errors.SourceError(
    f'{handle}: no such file or directory, but it may be a model of Hugging Face; '
    f'run `hf download {name} --local-dir {name.rpartition("/")[2]}`, and give that directory'
  )


def _checkpoint_name(handle: str) -> tuple[pathlib.Path, str] | None:
  """Splits the path of one checkpoint, 'dir/model.ckpt-100' with or without '.index'; None for another path."""
  path = pathlib.Path(handle.removesuffix('.index'))
  return (path.parent, path.name) if path.name and os.path.isfile(f'{path}.index') else None


def missing_heads(source: Source) -> list[str]:
  """Returns the heads that a source has no weights for, for people: 'no sentence order head' and so on."""
  return [f'no {part.title} head' for part in weight_map.Part if part not in source.parts]


def lacks(source: Source) -> list[str]:
  """Returns the heads and the graph that a source lacks, for people."""
  return missing_heads(source) + (
    ['no graph of its own: outputs can be compared with the float64 reference alone'] if source.graph is None else []
  )


def notes(source: Source) -> list[str]:
  """Returns notes on data that is left out, ignored or converted at reading, for people and the record."""
  ignored = source.config.ignored
  return source.notes + ([f'config keys ignored: {", ".join(ignored[:40])}'] if ignored else [])


@contextlib.contextmanager
def open_source(handle: str, reading: Reading = _AS_IT_IS) -> Iterator[Source]:
  """Opens a source and checks everything about it that can be checked without reading its weights.

  Args:
    handle: a directory or a .tar.gz with a TF1 Hub module, a TensorFlow checkpoint, a release of this toolchain or a
      model of Hugging Face Transformers; the path of one checkpoint (dir/model.ckpt-100); or a hub handle with a scheme
      (https://tfhub.dev/google/albert_large/3), which tensorflow_hub resolves and caches.
    reading: options.

  Yields:
    The source. A directory that it was unpacked to is removed afterwards.

  Raises:
    SourceError: a file is missing or invalid; the message names the file and an action.
  """
  from converters.io import hub_download  # imports TensorFlow, as the next ones do

  check_handle(handle)
  name, fresh = None, True
  with contextlib.ExitStack() as stack:
    if '://' in handle:
      path, fresh = hub_download.resolve(handle, reading.caps, _belongs, reading.sha256)
    elif os.path.isdir(handle):
      path = pathlib.Path(handle)
    elif (checkpoint := _checkpoint_name(handle)) is not None:
      path, name = checkpoint
    else:
      if not os.path.isfile(handle):
        raise errors.SourceError(f'{handle}: not a regular file or a directory; give one of the two')
      if reading.sha256 is not None:
        digest.check(handle, digest.of_file(handle), reading.sha256)
      path = stack.enter_context(temp_dirs.directory('albert_source_'))
      archive.unpack(handle, path, reading.caps, _belongs)
    try:
      source = _opened(handle, path, reading, name)
    except errors.SourceError:
      if fresh:
        raise
      # A cached directory can be incomplete: it is downloaded once more.
      path, _ = hub_download.resolve(handle, reading.caps, _belongs, reading.sha256, again=True)
      source = _opened(handle, path, reading, name)
    if reading.sha256 is not None and (os.path.isdir(handle) or name is not None):
      digest.check(handle, digest.bare(source.digest), reading.sha256)
    unreachable = tokenization_lib.check_vocabulary(source.sp_model, source.tokenization, source.sp_model_name)
    source.notes = source.notes + unreachable
    yield source


def _readers() -> tuple[Any, ...]:
  """Returns the modules that read a format, each with the verb `belongs`."""
  from converters.readers import hugging_face
  from converters.readers import saved_model
  from converters.readers import tf1_checkpoint
  from converters.readers import tf1_hub

  return tf1_hub, saved_model, tf1_checkpoint, hugging_face


def _belongs(name: str) -> bool:
  """Returns whether a file of that name in an archive belongs to any format; others are not unpacked."""
  return not digest.hidden(name) and any(reader.belongs(name) for reader in _readers())


def _opened(handle: str, path: pathlib.Path, reading: Reading, name: str | None) -> Source:
  """Opens the source in a directory, or in the only directory in it."""
  from converters.readers import hugging_face
  from converters.readers import saved_model
  from converters.readers import tf1_checkpoint
  from converters.readers import tf1_hub

  for place in (path, *source_files.only_directory(path)):
    if name is not None:
      return tf1_checkpoint.Checkpoint(handle, place, reading, name)
    if tf1_hub.is_in(place):
      return tf1_hub.Module(handle, place, reading)
    if saved_model.is_in(place):
      return saved_model.Encoder(handle, place, reading)
    is_checkpoint, is_model = tf1_checkpoint.is_in(place), hugging_face.is_in(place)
    if is_checkpoint and is_model:
      raise errors.SourceError(
        f'{handle}: both a TensorFlow checkpoint and a model of Hugging Face; give one of the two in its own directory'
      )
    if is_checkpoint:
      return tf1_checkpoint.Checkpoint(handle, place, reading)
    if is_model:
      if reading.albert_config is not None:
        raise errors.SourceError(f'{handle}: it has a config.json of Hugging Face; leave --albert_config out')
      return hugging_face.Model(handle, place, reading)
  there = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
  raise errors.SourceError(
    f'{handle}: no TF1 Hub module, checkpoint, release or model of Hugging Face (there are '
    f'{", ".join(map(repr, there[:5])) or "no files"}); give the directory of one'
  )
