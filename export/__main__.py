"""Converts a pretrained ALBERT in TF1 Hub module format to TF2 SavedModels, proves parity, and publishes.

  python -m export --source=https://tfhub.dev/google/albert_large/3 --model=albert_en_large --version=2
  python -m export --source=albert_large.tar.gz --model=albert_en_large --version=3 --export_root=dist

Published below --export_root: PUBLISHER/MODEL/VERSION, a SavedModel; VERSION.tar.gz, .md and .release.json beside it;
and the same four for the preprocessor that goes with it.
"""

import pathlib
import re
import typing

from absl import flags

from converters import errors
from converters import source as source_lib
from export import catalog as catalog_lib
from export import command_line
from export import console as console_lib
from export import integrity
from export import publish
from export import report as report_lib
from export import request as request_lib

if typing.TYPE_CHECKING:
  from export import release as release_lib

_SOURCE = flags.DEFINE_string(
    'source', None, 'The TF1 Hub module: a directory, a .tar.gz, or a hub handle (https://tfhub.dev/google/albert_large/3). '
    'Default: the handle that the catalog has for --model.')
_MODEL = flags.DEFINE_string('model', None, 'Name to publish under, as albert_en_large. The catalog may lack it.')
_VERSION = flags.DEFINE_integer(
    'version', None, 'Version to publish. Default: the newest one in the catalog, or 1 for a model that it lacks.')
_EXPORT_ROOT = flags.DEFINE_string('export_root', 'dist', 'Root of the release tree; made if need be.')
_PUBLISHER = flags.DEFINE_string('publisher', None, 'First part of the published path. Default: the catalog\'s.')
_IO = flags.DEFINE_enum(
    'io', None, ['dict', 'list'], 'How the encoder is called: with a dict of tensors, or with a list of three as in '
    'version 1. Default: what the catalog says, else dict.')
_PREPROCESSOR = flags.DEFINE_string(
    'preprocessor', None, 'NAME/VERSION of the preprocessor that goes with the encoder. Default: the catalog\'s.')
_CHANGE = flags.DEFINE_multi_string(
    'change', None, 'What is new in this version, for the card. Default: the catalog\'s, else "Initial release.". '
    'Give it once for every change.')
_MLM = flags.DEFINE_bool('mlm', None, 'Include the masked language model head. Default: if the source has it.')
_SOP = flags.DEFINE_bool('sop', None, 'Include the sentence order head. Default: if the source has it.')
_ALBERT_CONFIG = flags.DEFINE_string(
    'albert_config', None, 'A file to read instead of the source\'s assets/albert_config.json, which some early modules lack.')

_REPORT = flags.DEFINE_string('report', None, 'An HTML file to write, with the proof as a page for people.')

_NAME = re.compile(r'[a-z0-9][a-z0-9_-]{0,99}')


def main() -> None:
  catalog = catalog_lib.Catalog()
  model = _checked_name('--model', _MODEL.value)
  publisher = _checked_name('--publisher', _PUBLISHER.value) if _PUBLISHER.value is not None else None
  version = _VERSION.value if _VERSION.value is not None else catalog.newest_version(model) or 1
  if version < 1:
    raise errors.UsageError(f'--version={version}: versions are 1, 2, 3 and so on')
  if _PREPROCESSOR.value is not None and not re.fullmatch(_NAME.pattern + '/[1-9][0-9]*', _PREPROCESSOR.value):
    raise errors.UsageError(f'--preprocessor={_PREPROCESSOR.value}: give NAME/VERSION, as albert_en_preprocess/3')
  source = _SOURCE.value or catalog.source(model)
  if not source:
    raise errors.UsageError(f'no --source, and the catalog has none for {model}: give a directory, a .tar.gz or a handle')
  release = catalog.encoder(
      model, version, publisher=publisher, interface=_IO.value, preprocessor=_PREPROCESSOR.value, changes=_CHANGE.value)

  if not _EXPORT_ROOT.value:
    raise errors.UsageError('--export_root= is empty: give a directory')
  request = request_lib.Request(
      release, source, pathlib.Path(_EXPORT_ROOT.value), _ALBERT_CONFIG.value, _MLM.value, _SOP.value)
  report = command_line.report_path(_REPORT.value)
  publish.check_free(request.export_root, release.path)
  source_lib.check_handle(source)
  console = console_lib.Console()
  console.line(f'{release.path} from {source}')
  with console.step('import TensorFlow'):  # takes seconds: only now that the flags are in order
    from export import release as release_lib
  outcome = release_lib.run(request, console)
  command_line.finish()
  _summarize(console, request.export_root, outcome)
  if report:
    report_lib.write(integrity.read_record(request.export_root / release.path), report)
    console.line(f'\nReport: {report}')


def _checked_name(flag: str, value: str | None) -> str:
  if not value or not _NAME.fullmatch(value):
    raise errors.UsageError(f'{flag}={value or ""}: give a name of a-z, 0-9, _ and -, as albert_en_large')
  return value


def _summarize(console: console_lib.Console, export_root: pathlib.Path, outcome: 'release_lib.Outcome') -> None:
  def size(path: pathlib.Path) -> str:
    files = [path] if path.is_file() else [f for f in path.rglob('*') if f.is_file()]
    count = sum(f.stat().st_size for f in files)
    return f'{count / 1e6:,.2f} MB' if count >= 1e5 else f'{count / 1e3:,.1f} kB'

  paths = []
  for published in outcome.published:
    model = export_root / published
    paths += [model, *sorted(p for p in model.parent.glob(f'{model.name}.*'))]
  console.table('Published', ['path', 'size'], [[str(p), size(p)] for p in paths])
  for kept in outcome.kept:
    console.line(f'Kept, with the same bytes: {export_root / kept}')
  console.line(f'\n{outcome.parameters:,} parameters')
  console.certificate(outcome.certificate)


if __name__ == '__main__':
  command_line.run(main)
