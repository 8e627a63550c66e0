"""Opens pretrained ALBERTs in the formats of `converters.readers`, behind one interface."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import socket
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterable
from collections.abc import Iterator
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


_SENTENCE_TRANSFORMERS, _LARGEST_MODULES = 'modules.json', 1 << 20
_HUB_NAME = re.compile(r'[\w.-]{1,96}/[\w.-]{1,96}')
# 'google/albert_base/3', also behind the host's name.
_TFHUB_NAME = re.compile(r'(tfhub\.dev/)?[\w.-]{1,96}/[\w.-]{1,96}/[0-9]{1,9}')
# 'google/albert/tensorFlow2/base', also with a version.
_KAGGLE_NAME = re.compile(r'[\w.-]{1,96}/[\w.-]{1,96}/(tensorflow[12]|tflite|pytorch|keras|jax)/[\w./-]{1,96}', re.I)
_HUGGING_FACE_PREFIXES = ('hf://', 'https://huggingface.co/', 'https://hf.co/', 'huggingface.co/', 'hf.co/')


def check_handle(handle: str) -> None:
  """Checks what can be checked of a source in no time: without TensorFlow, and without reading large files.

  Raises:
    SourceError: the path does not exist or has no model, or the host is unknown or not supported.
  """
  place = _local(handle)
  _check_place(handle, place)
  if os.path.isdir(place):
    _find(handle, pathlib.Path(place))
  elif os.path.isfile(place) and _checkpoint_name(place) is None:
    _check_not_of_a_model(place)
    archive.opener(place, handle)


def _local(handle: str) -> str:
  """Returns the path of 'file:///path'; another handle as it is."""
  return urllib.parse.unquote(urllib.parse.urlsplit(handle).path) if handle.startswith('file://') else handle


def _check_place(handle: str, place: str) -> None:
  """Checks that a path exists, or that the host of a handle does.

  Args:
    handle: the source as the user wrote it.
    place: its path, if it is a local one.
  """
  if not place:
    raise errors.UsageError(
      'option source: empty; give the directory or archive of a model, a checkpoint or a hub handle'
    )
  for prefix in _HUGGING_FACE_PREFIXES:
    if handle.startswith(prefix):
      raise _of_hugging_face(handle, handle.removeprefix(prefix))
  if 'kaggle.com/' in handle or handle.startswith('kaggle://') or _of_kaggle(handle):
    raise errors.SourceError(
      f'{handle}: Kaggle sends models to signed-in users only; download the .tar.gz there, and give its path'
    )
  if '://' in place:
    _check_host(handle)
    return
  if os.path.exists(place) or _checkpoint_name(place) is not None:
    return
  if _TFHUB_NAME.fullmatch(handle) and not os.path.isdir(handle.partition('/')[0]):
    raise errors.SourceError(
      f'{handle}: no such file or directory, but it may be a hub handle; give '
      f'https://tfhub.dev/{handle.removeprefix("tfhub.dev/")}'
    )
  name = handle.partition('@')[0]  # before the revision
  if _HUB_NAME.fullmatch(name) and not os.path.isdir(name.partition('/')[0]):
    raise _of_hugging_face(handle, name)
  raise errors.SourceError(
    f'{handle}: no such file or directory; give the directory or archive of a model, a checkpoint or a hub handle'
  )


def _check_host(handle: str) -> None:
  """Looks up the host of a handle, unless the module may come from the cache or through a proxy.

  Raises:
    SourceError: there is no such host, or no connection; or the address is of no kind that can be read.
  """
  address = urllib.parse.urlsplit(handle)
  if address.scheme not in ('http', 'https'):
    if not handle.endswith(('.tar.gz', '.tgz')):
      raise errors.SourceError(f'{handle}: not the address of a .tar.gz; give one, or copy the module to this machine')
    return
  cache = os.environ.get('TFHUB_CACHE_DIR') or os.path.join(tempfile.gettempdir(), 'tfhub_modules')
  if '://' in cache or (os.path.isdir(cache) and os.listdir(cache)) or urllib.request.getproxies():
    return
  try:
    socket.getaddrinfo(address.hostname, None)
  except OSError as e:
    raise errors.SourceError(
      f'{address.scheme}://{address.hostname}: host not found, or no connection; check the connection, or give a '
      'directory or .tar.gz with option source'
    ) from e


# What a single file is, and the action that helps, by the end of its name.
_FILES = (
  (('.bin', '.pt', '.pth'), 'a file of PyTorch', 'give the directory of save_pretrained(safe_serialization=True)'),
  (('.h5', '.hdf5', '.keras'), 'a file of Keras', 'give a SavedModel, which tf.saved_model.save writes'),
  (('.onnx', '.tflite', '.pb', '.msgpack'), 'a file of another format', 'give the model that it was made from'),
)


def _check_not_of_a_model(handle: str) -> None:
  """Refuses a single file that is a model in a format that cannot be read, or a part of a model."""
  if _belongs(os.path.basename(handle)) or handle.endswith('.safetensors'):
    raise errors.SourceError(
      f'{handle}: a file of a model, not a model; give its directory, {os.path.dirname(handle) or "."}'
    )
  for ends, name, action in _FILES:
    if handle.endswith(ends):
      raise errors.SourceError(f'{handle}: {name}, which cannot be read; {action}')


def _of_kaggle(handle: str) -> bool:
  return bool(_KAGGLE_NAME.fullmatch(handle)) and not os.path.exists(handle)


def _of_hugging_face(handle: str, name: str) -> errors.SourceError:
  name = '/'.join(name.split('/')[:2])
  return errors.SourceError(
    f'{handle}: no such file or directory, and it may be the name of a model of Hugging Face; '
    f'run `hf download {name} --local-dir {name.rpartition("/")[2]}`, and give that directory'
  )


_OF_CHECKPOINT = re.compile(r'\.(index|meta|data-[0-9]{5}-of-[0-9]{5})$')


def _checkpoint_name(handle: str) -> tuple[pathlib.Path, str] | None:
  """Splits the path of one checkpoint, 'dir/model.ckpt-100' or that of one of its files; None for another path."""
  path = pathlib.Path(_OF_CHECKPOINT.sub('', handle))
  return (path.parent, path.name) if path.name and os.path.isfile(f'{path}.index') else None


def missing_heads(source: Source) -> list[str]:
  """Returns the heads that a source has no weights for, for people: 'no sentence order head' and so on."""
  wanted = [part for part in weight_map.Part if source.config.pooler or part is not weight_map.Part.SOP]
  return [f'no {part.title} head' for part in wanted if part not in source.parts]


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
  place = _local(handle)
  _check_place(handle, place)  # the rest follows the check of the digest
  name = None
  with contextlib.ExitStack() as stack:
    if '://' in place:
      source = stack.enter_context(_from_host(handle, reading))
    else:
      if os.path.isdir(place):
        path = pathlib.Path(place)
      elif (checkpoint := _checkpoint_name(place)) is not None:
        path, name = checkpoint
      else:
        if not os.path.isfile(place):
          raise errors.SourceError(f'{handle}: not a regular file or a directory; give one of the two')
        _check_not_of_a_model(place)
        if reading.sha256 is not None:
          digest.check(handle, digest.of_file(place), reading.sha256)
          reading = dataclasses.replace(reading, sha256=None)
        path = stack.enter_context(temp_dirs.directory('albert_source_'))
        archive.unpack(place, path, reading.caps, _belongs, handle, _is_foreign)
        stack.enter_context(_named(handle, path))
      source = _opened(handle, path, reading, name)
    unreachable = tokenization_lib.check_vocabulary(source.sp_model, source.tokenization, source.sp_model_name)
    source.notes = source.notes + unreachable
    yield source


@contextlib.contextmanager
def _from_host(handle: str, reading: Reading) -> Iterator[Source]:
  """Opens a source of a host, through the cache; an incomplete or damaged directory there is downloaded anew."""
  from converters.io import hub_download  # imports TensorFlow

  path, fresh = hub_download.resolve(handle, reading.caps, _belongs, reading.sha256)
  of_files = dataclasses.replace(reading, sha256=None)  # the digest is that of the archive
  try:
    source = _opened(handle, path, of_files, None)
  except errors.SourceError:
    if fresh:
      raise
    hub_download.forget(handle, reading.sha256)
    path, fresh = hub_download.resolve(handle, reading.caps, _belongs, reading.sha256)
    source = _opened(handle, path, of_files, None)
  try:
    yield source
  except errors.CheckpointError as e:
    if fresh:
      raise
    hub_download.forget(handle, reading.sha256)
    problem = str(e).rpartition('; ')[0]
    raise errors.CheckpointError(f'{problem}; run again, which downloads {handle} once more') from e


@contextlib.contextmanager
def _named(handle: str, unpacked: pathlib.Path) -> Iterator[None]:
  """Names the archive in messages about files of the directory that it was unpacked to."""
  try:
    yield
  except errors.SourceError as e:
    if str(unpacked) not in str(e):
      raise
    problem, _, action = str(e).rpartition('; ')
    if str(unpacked) in action:  # such a path cannot be given
      action = 'unpack the archive, and ' + action.replace(f'{unpacked}/', '')
    raise type(e)(f'{problem.replace(str(unpacked), handle)}; {action}') from e


class _Reader(Protocol):
  """A module that reads a format."""

  def belongs(self, name: str) -> bool:
    """Returns whether a file of that name, in the root or in one directory, belongs to the format."""

  def is_in(self, directory: pathlib.Path) -> bool:
    """Returns whether a directory has files of the format."""

  def open_in(self, handle: str, path: pathlib.Path, reading: Reading) -> Source:
    """Opens the source in a directory.

    Raises:
      SourceError: a file is missing or invalid.
    """


def _readers() -> tuple[_Reader, ...]:
  """Returns all readers.

  A TF1 Hub module is a SavedModel too, so it comes first. Beside either, files of the other formats do not count.
  """
  from converters.readers import hugging_face
  from converters.readers import saved_model
  from converters.readers import tf1_checkpoint
  from converters.readers import tf1_hub

  return tf1_hub, saved_model, tf1_checkpoint, hugging_face


def _belongs(name: str) -> bool:
  """Returns whether a file of that name in an archive belongs to any format; others are not unpacked."""
  end = name.rpartition('/')[2]
  return not source_files.hidden(name) and (
    end == _SENTENCE_TRANSFORMERS or any(reader.belongs(name) for reader in _readers())
  )


def _is_foreign(name: str) -> bool:
  """Returns whether a file in an archive is one of another tool, which messages name."""
  end = name.rpartition('/')[2]
  return not source_files.hidden(name) and (
    end in ('tokenizer.json', 'adapter_config.json') or end.endswith(tuple(e for f in _FILES for e in f[0]))
  )


def _opened(handle: str, path: pathlib.Path, reading: Reading, name: str | None) -> Source:
  """Opens the source in a directory, or in the only directory in it."""
  from converters.readers import tf1_checkpoint

  if name is not None:
    return tf1_checkpoint.open_in(handle, path, reading, name)
  reader, place = _find(handle, path)
  return reader.open_in(handle, place, reading)


def _find(handle: str, path: pathlib.Path) -> tuple[_Reader, pathlib.Path]:
  """Returns the reader for the source in a directory or in one directory in it, and that directory.

  Raises:
    SourceError: there is no source, or more than one.
  """
  from converters.readers import tf1_hub

  path = _transformer_of(path)
  if path.name in ('variables', 'assets') and (path.parent / 'saved_model.pb').exists():
    raise errors.SourceError(f'{handle}: a part of a SavedModel; give its directory, {path.parent}')
  places = _readers_in([path]) or _readers_in(source_files.directories(path))
  if len(places) > 1:
    names, last = ', '.join(place.name for place in [*places][:5]), [*places][-1]
    raise errors.SourceError(
      f'{handle}: {len(places)} models ({names}{" and more" if len(places) > 5 else ""}); give one, as {last}'
    )
  if not places:
    raise errors.SourceError(f'{handle}: {_without_source(path)}')
  ((place, found),) = places.items()
  if len(found) > 1 and found[0] not in _readers()[:2] and source_files.any_named(place, '*.safetensors*'):
    raise errors.SourceError(
      f'{handle}: both a TensorFlow checkpoint and a model of Hugging Face; give one of the two in its own directory'
    )
  if found[0] is tf1_hub:
    tf1_hub.check_files(place)
  return found[0], place


def _transformer_of(path: pathlib.Path) -> pathlib.Path:
  """Returns the directory of the transformer in a model of Sentence Transformers; another path as it is."""
  try:
    modules = json.loads(source_files.read(path / _SENTENCE_TRANSFORMERS, _LARGEST_MODULES))
    names = [module['path'] for module in modules if module['type'].endswith('.Transformer')]
    return next(path / name for name in names if re.fullmatch(r'\w*', name) and (path / name).is_dir())
  except (errors.SourceError, ValueError, TypeError, KeyError, AttributeError, RecursionError, StopIteration):
    return path


def _readers_in(directories: Iterable[pathlib.Path]) -> dict[pathlib.Path, list[_Reader]]:
  """Returns the directories that have a source, each with the readers for it, in their order."""
  found = {place: [reader for reader in _readers() if reader.is_in(place)] for place in directories}
  return {place: readers for place, readers in found.items() if readers}


def _without_source(path: pathlib.Path) -> str:
  """Returns the problem and the action for a directory without a source."""
  for below in source_files.directories(path):
    for deeper in _readers_in(source_files.directories(below)):
      return f'a model lies deeper; give its directory, {deeper}'
  there = sorted(entry.name for entry in path.iterdir())
  for ends, name, action in _FILES:
    if files := [file for file in there if file.endswith(ends)]:
      return f'no model that can be read ({files[0]} is {name}); {action}'
  return (
    f'no TF1 Hub module, checkpoint, release or model of Hugging Face (there are '
    f'{", ".join(map(repr, there[:5])) or "no files"}); give the directory of one'
  )
