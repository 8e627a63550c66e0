"""Verifies a published release against its record: every file, the archive, every weight. Imports no TensorFlow."""

import hashlib
import math
import pathlib
import re
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from isal import igzip
from isal import isal_zlib

from converters import cli
from converters import errors
from converters import interface
from converters import weight_map
from converters.readers import checkpoint_index
from export import record as record_lib
from export import spec
from export.release import archive as release_archive
from export.store import digests
from export.validation import parity

_RELEASE = re.compile('/'.join((cli.NAME.pattern, cli.NAME.pattern, cli.VERSION.pattern)))


def check(release: pathlib.Path, record: record_lib.Record) -> int:
  """Verifies a release against its record.

  Args:
    release: directory of the release.
    record: its record.

  Returns:
    Number of weights that were verified bit for bit; 0 for a preprocessor.

  Raises:
    IntegrityError: the release differs; lists every difference.
  """
  return _checked(release, record, [_names, _content, _proof])


def check_content(release: pathlib.Path, record: record_lib.Record) -> None:
  """Verifies files, archive and weights, for which an unfinished record suffices.

  Args:
    release: directory of the release.
    record: its record; card, certificate and libraries may be missing.

  Raises:
    IntegrityError: the release differs; lists every difference.
  """
  _checked(release, record, [_content])


def check_statement(release: pathlib.Path, record: record_lib.Record) -> None:
  """Verifies the parts that `check_content` leaves out: name, card and certificate.

  Args:
    release: directory of the release.
    record: the complete record.

  Raises:
    IntegrityError: the release differs; lists every difference.
  """
  _checked(release, record, [_names, _proof])


def _checked(release: pathlib.Path, record: record_lib.Record, checks: list[Any]) -> int:
  try:
    faults = list[str]()
    for check in checks:
      if not (faults and check is _proof):  # faults of the certificate would follow from those found
        faults += check(release, record)
  except errors.CheckpointError as e:
    raise errors.IntegrityError(str(e)) from e
  except (KeyError, TypeError, AttributeError, ValueError, errors.ConfigError) as e:
    raise errors.IntegrityError(
      f'{release}{spec.RECORD}: not a release record ({type(e).__name__}: {e}); publish the release again'
    ) from e
  if faults:
    raise errors.IntegrityError(f'{release}: differs from its record ({"; ".join(faults)}); fetch it again')
  return 0 if isinstance(record, record_lib.Preprocessor) else len(record.weights)


def _names(release: pathlib.Path, record: record_lib.Record) -> Iterator[str]:
  if release.name != record.release.rpartition('/')[2]:
    yield f'the record names {record.release}'
  yield from _file(release, record.card, spec.CARD)


def _proof(release: pathlib.Path, record: record_lib.Record) -> Iterator[str]:
  if isinstance(record, record_lib.Encoder):
    yield from _certificate(record)
  elif isinstance(record, record_lib.Text):
    yield from _text_certificate(record)


def _content(release: pathlib.Path, record: record_lib.Record) -> Iterator[str]:
  faults = [*_files(release, record), *_archive(release, record)]
  yield from faults
  if faults:  # a changed file implies changed weights; it is reported once
    return
  prefix = release / 'variables' / 'variables'
  index = checkpoint_index.read(prefix.with_suffix('.index'))
  checkpoint_index.check_data_files(index, prefix)
  has_weights = any(entry.dtype == checkpoint_index.FLOAT32 for entry in index.entries.values())
  if has_weights == isinstance(record, record_lib.Preprocessor):
    yield f'the files are not those of kind {record.kind}'
  elif not isinstance(record, record_lib.Preprocessor):
    yield from _weights(release, record, index)


def _file(release: pathlib.Path, digest: record_lib.Digest, suffix: str) -> Iterator[str]:
  """Yields the faults of a file next to the directory."""
  path = release.with_name(release.name + suffix)
  if not path.is_file():
    yield f'{path.name} is missing'
  elif digests.of_file(path) != digest:
    yield f'{path.name} has changed'


def _files(release: pathlib.Path, record: record_lib.Record) -> Iterator[str]:
  actual = digests.of_directory(release)
  yield from (f'{name} is missing' for name in record.files if name not in actual)
  yield from (f'{name} is not in the record' for name in actual if name not in record.files)
  yield from (f'{name} has changed' for name, digest in actual.items() if record.files.get(name, digest) != digest)
  directories = {parent.as_posix() for name in record.files for parent in pathlib.PurePosixPath(name).parents}
  for path in sorted(release.rglob('*')):
    name = path.relative_to(release).as_posix()
    if path.is_symlink() or not (path.is_file() or name in directories):
      yield f'{name} is a link or an unexpected entry'
  yield from _file(release, record_lib.Digest(record.archive.size, record.archive.sha256), spec.ARCHIVE)


def _archive(release: pathlib.Path, record: record_lib.Record) -> Iterator[str]:
  """Yields the differences between the archive and the directory."""
  path = release.with_name(release.name + spec.ARCHIVE)
  if not path.is_file():
    return
  found = dict[str, record_lib.Digest | None]()
  try:
    with igzip.open(path, 'rb') as unpacked:
      tee = release_archive.HashingReader(unpacked)
      # Not 'r|': tarfile's stream buffer takes longer than the decompression.
      with tarfile.open(fileobj=tee, mode='r:') as tar:  # type: ignore[call-overload]
        for member in tar:
          if member.isreg():
            content = tar.extractfile(member)
            assert content is not None
            found[member.name] = record_lib.Digest(member.size, hashlib.file_digest(content, 'sha256').hexdigest())
          elif not member.isdir():
            found[member.name] = None
      while tee.read():
        pass
  except (tarfile.TarError, EOFError, isal_zlib.IsalError, OSError, ValueError) as e:  # type: ignore[misc]
    yield f'{path.name} cannot be unpacked ({e})'
    return
  if found != record.files:
    names = sorted(n for n in found.keys() | record.files.keys() if found.get(n) != record.files.get(n))
    yield f'{path.name} differs from the directory ({", ".join(names)})'
  if tee.sha256.hexdigest() != record.archive.tar_sha256:
    yield f'the tar in {path.name} has changed'


def _certificate(record: record_lib.Encoder) -> Iterator[str]:
  """Yields the faults of an encoder's certificate: missing entries, and figures that exceed their bounds."""
  certificate = record.certificate
  pooler = record_lib.config(record).pooler
  outputs = {name for call in ('tokens', *record.heads) for name in interface.outputs(call, pooler)}
  if record.interface == 'dict':
    outputs |= {f'layer_{number}' for number in range(_layers(record))}
  if 'bounds' not in certificate:
    yield (
      'the certificate has the format of an earlier version of this tool: publish the next version of the model, or '
      'verify it with that version'
    )
    return
  bounds = {'outputs': parity.OUTPUT_BOUND, 'gradient': parity.GRADIENT_BOUND}
  for group, names in (('outputs', outputs), ('gradient', {weight.source for weight in record.weights})):
    if certificate[group].keys() != names:
      yield f'the {group} in the certificate are not those of this model'
    for name, check in certificate[group].items():
      distances = [check['reference'], *([check['source']] if check['source'] is not None else [])]
      if not check['values'] > 0 or not all(0 <= distance <= bounds[group] for distance in distances):
        yield f'{name} did not pass in the certificate'
  if certificate['against'] == 'graph' and any(
    check['source'] is None
    for group in bounds
    for name, check in certificate[group].items()
    if not name.startswith('layer_')
  ):
    yield 'the certificate is against a graph, but distances to the graph are missing'
  for name, check in certificate['outputs'].items():
    export, allowed = check['float32']['export'], check['float32']['allowed']
    if not all(0 <= export[figure] <= allowed[figure] < math.inf for figure in ('rms', 'largest')):
      yield f'{name} in float32 did not pass in the certificate'
  if len(certificate['controls']) < 4 or not all(
    parity.rounded(parity.CONTROL_FACTOR * parity.OUTPUT_BOUND) <= distance < math.inf
    for distance in certificate['controls'].values()
  ):
    yield 'a negative control passed in the certificate, or there are fewer than 4'
  if record.padding_free:
    found = certificate['padding_free']
    bounds_of_masks = {'kept': parity.OUTPUT_BOUND, 'all_masked': parity.ALL_MASKED_BOUND}
    if not all(0 <= found[name] <= bound for name, bound in bounds_of_masks.items()):
      yield 'the padding-free call did not pass in the certificate'


def _text_certificate(record: record_lib.Text) -> Iterator[str]:
  """Yields the faults of a text model's certificate, which compares it with its preprocessor and encoder."""
  parts = {record.encoder, record.preprocessor}
  if len(parts) != 2 or not all(_RELEASE.fullmatch(part) for part in parts):
    yield 'the record does not name an encoder and a preprocessor'
  certificate = record.certificate
  served = {*interface.served(record_lib.config(record).pooler)}
  names = served | {f'serving_default/{name}' for name in served} | {f'layer_{n}' for n in range(_layers(record))}
  if certificate['outputs'].keys() != names or not certificate['texts'] > 1:
    yield 'the outputs in the certificate are not those of this model'
  for name, check in certificate['outputs'].items():
    figures = ('rms', 'largest')
    if not all(0 <= check['apart'][figure] <= check['allowed'][figure] < math.inf for figure in figures):
      yield f'{name} did not pass in the certificate'
    if not any(check['control'][figure] > check['allowed'][figure] for figure in figures):
      yield f'the negative control of {name} passed in the certificate'


def _weights(
  release: pathlib.Path, record: record_lib.Encoder | record_lib.Text, index: checkpoint_index.Index
) -> Iterator[str]:
  """Yields the faults of the weights: every weight is listed once, and its bytes have the recorded digest."""
  weights = record.weights
  rows = weight_map.rows(record_lib.config(record), record_lib.parts(record))
  if [(w.source, w.target) for w in weights] != [(r.name, r.tf_models) for r in rows]:
    yield 'the weights in the record are not those of this model'
    return
  shards = sorted((release / 'variables').glob('variables.data-*-of-*'))
  if sorted(w.checkpoint_key for w in weights) != sorted(
    k for k, entry in index.entries.items() if entry.dtype == checkpoint_index.FLOAT32
  ):
    yield 'the weights in the record are not the tensors of the checkpoint'
    return
  for weight in weights:
    entry = index.entries[weight.checkpoint_key]
    try:
      value = np.memmap(shards[entry.shard], '<f4', 'r', entry.offset, entry.shape)
      canonical = weight_map.Transform(weight.transform).invert(value, tuple(weight.shape))
    except ValueError as e:
      yield f'{weight.target} cannot be read ({e})'
      continue
    if hashlib.sha256(np.ascontiguousarray(canonical).data).hexdigest() != weight.sha256:
      yield f'{weight.target} differs from the source\'s {weight.source}'


def _layers(record: record_lib.Encoder | record_lib.Text) -> int:
  """Returns the number of layer outputs of a model."""
  return len(record_lib.config(record).block_of_layer)
