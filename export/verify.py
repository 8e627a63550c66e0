"""Checks a published release: its files, archive and card against its record, and every weight bit for bit.

  python -m export.verify --release=dist/tensorflow/albert_en_large/2
  python -m export.verify --release=dist/tensorflow/albert_en_large/2 --source=albert_large.tar.gz
  python -m export.verify --release=gs://bucket/models/tensorflow/albert_en_large/2 --public_key=PUBLIC.pem

--public_key also checks the signatures of the files and the record, and that the signed name is that of the directory.
--source also checks that the release was made from the source, that every weight equals the source's, and that the
outputs agree within tolerance. A text model is also compared with its preprocessor and its encoder. Both must be in the
same release tree, and are verified in the same way. Exit status 1 on any difference, with one line that names it.
"""

import contextlib
import dataclasses
import hashlib
import math
import pathlib
from typing import Any

from absl import flags

from converters import cli
from converters import errors
from converters import source as source_lib
from converters import source_flags
from converters import weight_map
from export import record as record_lib
from export.release import integrity
from export.release import signature
from export.source import policy_flags
from export.store import tree
from export.ui import console as console_lib
from export.ui import html_report

for _module in (source_flags, policy_flags):
  flags.adopt_module_key_flags(_module)  # so that --help shows them
_RELEASE = flags.DEFINE_string(
  'release', None, 'Directory of the published version, as dist/tensorflow/albert_en_large/2.'
)
_SOURCE = flags.DEFINE_string(
  'source',
  None,
  'Source of the release: a directory, a .tar.gz, or a hub handle. Default: run only the checks that need no source.',
)
_PUBLIC_KEY = flags.DEFINE_string(
  'public_key', None, 'PEM file of the signer\'s public key. The signatures are checked first.'
)
_REPORT = flags.DEFINE_string('report', None, 'HTML file to write with the parity report of the record.')

_GROUPS = {
  'Most need': ('release', 'source'),
  'Signature and report': ('public_key', 'report'),
  **source_flags.GROUPS,
  **policy_flags.GROUPS,
}


def main() -> dict[str, Any]:
  """Runs the command; see the module.

  Returns:
    For --json: `release` (path in the tree), `files` and `weights` (their numbers), `signed` (whether the signature was
    checked) and `source` (handle of the compared source, or null).
  """
  if not _RELEASE.value:
    raise errors.UsageError('--release: missing or empty; give the directory of a published version')
  report = cli.file_path('--report', _REPORT.value)
  public_key = pathlib.Path(_PUBLIC_KEY.value) if _PUBLIC_KEY.value is not None else None
  if public_key is not None:
    signature.check_public_key(public_key)
  if _SOURCE.value:
    source_lib.check_handle(_SOURCE.value)
  with tree.release_at(_RELEASE.value) as release:
    return _verify(release, public_key, report, console_lib.Console())


def _verify(
  release: pathlib.Path, public_key: pathlib.Path | None, report: pathlib.Path | None, console: console_lib.Console
) -> dict[str, Any]:
  if public_key is not None:
    with console.step('check the signatures'):
      signature.verify(release, public_key)
  record = record_lib.read(release)
  with console.step(f'check {record.release}'):
    weights = integrity.check(release, record)
  console.line(f'{len(record.files)} files, archive, card and {weights} weights are as recorded')
  if public_key is not None:
    # A signature does not cover the directory's name: another model of the same signer would pass.
    if list(release.parts[-2:]) != record.release.split('/')[-2:]:
      raise errors.IntegrityError(
        f'{release}: the signed release is {record.release}; rename the directory, or fetch the right release'
      )
    console.line(f'{record.release} is signed with {public_key}')
  if _SOURCE.value:
    # A preprocessor needs no pooler, and an encoder's record says whether it has one.
    pooler = not isinstance(record, record_lib.Preprocessor) and record_lib.config(record).pooler
    reading = dataclasses.replace(source_flags.reading(), pooler=pooler)
    with source_lib.open_source(_SOURCE.value, reading) as source:
      if isinstance(record, record_lib.Text):
        _check_text(release, record, source, console)
      else:
        _check_part(release, record, source, console)
  if report:
    html_report.write(record, report)
    console.line(f'Report: {report}')
  return {
    'release': record.release,
    'files': len(record.files),
    'weights': weights,
    'signed': public_key is not None,
    'source': _SOURCE.value or None,
  }


def _check_part(
  release: pathlib.Path,
  record: record_lib.Encoder | record_lib.Preprocessor,
  source: source_lib.Source,
  console: console_lib.Console,
) -> None:
  if isinstance(record, record_lib.Encoder):
    _check_encoder(release, record, source, console)
  else:
    _check_preprocessor(release, record, source, console)


def _check_preprocessor(
  release: pathlib.Path, record: record_lib.Preprocessor, source: source_lib.Source, console: console_lib.Console
) -> None:
  from export.validation import preprocessor_certificate

  if record.source.sp_model.digest != source.sp_model_digest:
    raise errors.IntegrityError(
      f'{release}: made from another SentencePiece model than that of {source.handle}; give its source'
    )
  with console.step('compare with the source'):
    tokens = preprocessor_certificate.check(
      release,
      source.sp_model,
      int(release.name),
      record.tokenization.setting,
      record.seq_length,
    )
  console.line(f'{tokens} tokens are the same')


def _check_text(
  release: pathlib.Path, record: record_lib.Text, source: source_lib.Source, console: console_lib.Console
) -> None:
  from export.validation import text_certificate

  _compare_weights(release, record, source, console)
  parts = []
  with contextlib.ExitStack() as stack:
    for kind, path in ((record_lib.Preprocessor, record.preprocessor), (record_lib.Encoder, record.encoder)):
      try:
        part = stack.enter_context(tree.release_at(tree.beside(str(_RELEASE.value), path)))
        of_part = record_lib.read(part)
      except (errors.IntegrityError, errors.PublishError) as e:
        raise errors.IntegrityError(
          f'{release}: its {kind.kind} {path} is not in the same tree ({e}); put it there, or leave --source out'
        ) from e
      with console.step(f'check {path}'):
        integrity.check(part, of_part)
        if of_part.release != path or not isinstance(of_part, kind):
          raise errors.IntegrityError(
            f'{part}: its record is of {of_part.release}, kind {of_part.kind} (expected {path}, kind '
            f'{kind.kind}); fetch the release again'
          )
      if isinstance(of_part, record_lib.Encoder) and of_part.preprocessor != record.preprocessor:
        raise errors.IntegrityError(
          f'{release}: its preprocessor is {record.preprocessor}, but its encoder {path} belongs to '
          f'{of_part.preprocessor}; publish a text model of that preprocessor'
        )
      _check_part(part, of_part, source, console)
      parts.append(part)
    with console.step('compare text to vectors'):
      certificate = text_certificate.check(release, parts[0], parts[1], int(parts[0].name), source.config)
  fresh, recorded = certificate.as_json()['outputs'], record.certificate['outputs']
  if fresh.keys() != recorded.keys() or not all(
    _alike(check[figure]['rms'], recorded[name][figure]['rms'])
    for name, check in fresh.items()
    for figure in ('control', 'allowed')
  ):
    raise errors.IntegrityError(
      f'{release}: outputs of the recorded certificate differ from the recomputed ones; fetch the release again'
    )
  console.text_certificate(certificate)


def _check_encoder(
  release: pathlib.Path, record: record_lib.Encoder, source: source_lib.Source, console: console_lib.Console
) -> None:
  from export.validation import encoder_certificate

  parts = _compare_weights(release, record, source, console)
  with encoder_certificate.examine(source, parts, policy_flags.trust()) as examination:
    certificate = examination.certify(release, record.interface, console.step, padding_free=record.padding_free)
  fresh, recorded = certificate.as_json(), record.certificate
  for group in ('outputs', 'gradient', 'controls'):
    # Distances in float64 are rounding errors. The scale of a tensor is a property of the model.
    if fresh[group].keys() != recorded[group].keys() or (
      group != 'controls'
      and not all(
        math.isclose(figure['scale'], recorded[group][name]['scale'], rel_tol=_SAME_SCALE)
        for name, figure in fresh[group].items()
      )
    ):
      raise errors.IntegrityError(
        f'{release}: {group} of the recorded certificate differ from the recomputed ones; fetch the release again'
      )
  console.certificate(fresh)


def _compare_weights(
  release: pathlib.Path,
  record: record_lib.Encoder | record_lib.Text,
  source: source_lib.Source,
  console: console_lib.Console,
) -> set[weight_map.Part]:
  """Compares the digest, the config and every weight of a record with a source.

  Returns:
    The parts of the model.

  Raises:
    IntegrityError: the record does not match the source.
  """
  if record.source.digest != source.digest:
    raise errors.IntegrityError(
      f'{release}: made from {record.source.digest}, but {source.handle} is {source.digest}; give its source'
    )
  if record_lib.config(record) != source.config:
    raise errors.IntegrityError(
      f'{release}: the recorded config differs from that of {source.handle}; fetch the release again'
    )
  parts = record_lib.parts(record)
  digests = {weight.source: weight.sha256 for weight in record.weights}
  rows = weight_map.rows(source.config, parts)
  with console.step('compare the weights with the source', total=len(rows)) as advance:
    different = []
    for row in rows:
      if digests.get(row.name) != hashlib.sha256(source.tensor(row).data).hexdigest():
        different.append(row.tf1)
      advance(1)
    if different or len(digests) != len(rows):
      raise errors.IntegrityError(
        f'{release}: {", ".join(different) or "the list of weights"} in the record differs from {source.handle}; '
        'fetch the release again'
      )
  return parts


_SAME_SCALE = 0.1  # of figures that are recorded with two digits


def _alike(one: float, other: float) -> bool:
  """Returns whether two errors agree up to the rounding order of processors: within a factor of 4."""
  return one / 4 <= other <= one * 4


if __name__ == '__main__':
  cli.run(main, _GROUPS, result=True)
