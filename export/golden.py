"""Records what a source computes in a golden file, and compares published releases with such files, without the source.

  python -m export.golden --record --source=build/demo/albert_en_demo --golden=tests/golden/albert_en_demo.json
  python -m export.golden --record --source=build/demo/albert_en_demo --preprocessor=4 --golden=tests/golden/preprocessor_4.json
  python -m export.golden --check --release=dist/tensorflow/albert_en_demo/2 --golden=tests/golden/albert_en_demo.json

A file names the digest of its source: a release that was made from another fails, as does one whose outputs have moved further
than two right conversions may be apart. Recording over a file says what moved.
"""

import pathlib

from absl import flags

from converters import command_line
from converters import errors
from converters import source as source_lib
from converters import source_flags
from export import catalog
from export import console as console_lib
from export import integrity
from export import tree
from export import trust_flags

for _module in (source_flags, trust_flags):
  flags.adopt_module_key_flags(_module)  # so that --help shows them
_RECORD = flags.DEFINE_bool('record', False, 'Write --golden from --source.')
_CHECK = flags.DEFINE_bool('check', False, 'Compare --release with --golden.')
_GOLDEN = flags.DEFINE_string('golden', None, 'The golden file, as tests/golden/albert_en_demo.json.')
_SOURCE = flags.DEFINE_string('source', None, 'For --record: a directory, a .tar.gz, or a hub handle.')
_PREPROCESSOR = flags.DEFINE_integer(
    'preprocessor', None, 'For --record: the version of the preprocessor\'s contract whose ids to record, instead of the outputs '
    'of the encoder.')
_RELEASE = flags.DEFINE_string('release', None, 'For --check: directory of the published version.')


def main() -> None:
  if _RECORD.value == _CHECK.value:
    raise errors.UsageError('give either --record or --check')
  path = pathlib.Path(_given('--golden', _GOLDEN.value))
  if _RECORD.value:
    _record(_given('--source', _SOURCE.value), path, console_lib.Console())
  else:
    with tree.release_at(_given('--release', _RELEASE.value)) as release:
      _check(release, path, console_lib.Console())


def _given(flag: str, value: str | None) -> str:
  if not value:
    raise errors.UsageError(f'{flag}= is empty: give one')
  return value


def _record(handle: str, path: pathlib.Path, console: console_lib.Console) -> None:
  version = _PREPROCESSOR.value
  if version is not None and version not in catalog.PREPROCESSOR_VERSIONS:
    raise errors.UsageError(f'--preprocessor={version}: there are versions {", ".join(map(str, catalog.PREPROCESSOR_VERSIONS))}')
  source_lib.check_handle(handle)
  from export.proof import golden as golden_lib
  with source_lib.open_source(handle, source_flags.reading()) as source, console.step(f'record {path}'):
    if version is None:
      golden = golden_lib.of_source(source, trust_flags.trust())
    else:
      golden = golden_lib.of_sp_model(source.sp_model, source.sp_model_digest, version)
  try:
    moved = golden_lib.moved(golden_lib.read(path), golden) if path.exists() else None
  except (errors.GoldenError, KeyError, TypeError, ValueError, AttributeError):  # about to be replaced, whatever it was
    moved = None
  try:
    golden_lib.write(golden, path)
  except OSError as e:
    raise errors.GoldenError(f'cannot write {path} ({e.strerror}): give another --golden') from e
  if moved is None:
    console.line(f'{path} is new')
  elif moved:
    console.table(f'Moved in {path}', ['what', 'difference'], moved)
  else:
    console.line(f'nothing moved in {path}')


def _check(release: pathlib.Path, path: pathlib.Path, console: console_lib.Console) -> None:
  record = integrity.read_record(release)
  from export.proof import golden as golden_lib
  golden = golden_lib.read(path)
  with console.step(f'compare {record["release"]} with {path}'):
    result = golden_lib.check(release, record, golden)
  if isinstance(result, int):
    console.line(f'{result} ids are the same')
  else:
    if left_out := golden['outputs'].keys() - result.keys():
      console.line(f'not in the release, and not compared: {", ".join(sorted(left_out))}')
    console.table('Distance to the golden values: root mean square, and at most', ['output', 'distance', 'allowed'], [
        [name, f'{d.rms:.1e}  {d.largest:.1e}', '{allowed_rms:.1e}  {allowed_largest:.1e}'.format_map(golden['outputs'][name])]
        for name, d in result.items()])


if __name__ == '__main__':
  command_line.run(main)
