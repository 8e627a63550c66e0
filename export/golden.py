"""Records golden files, compares published releases with them, and compares source and release on a corpus.

  python -m export.golden --record --source=build/demo/albert_en_demo --golden=tests/golden/albert_en_demo.json
  python -m export.golden --record --source=build/demo/albert_en_demo --preprocessor=4
      --golden=tests/golden/preprocessor_4.json
  python -m export.golden --check --release=dist/tensorflow/albert_en_demo/2 --golden=tests/golden/albert_en_demo.json
  python -m export.golden --corpus='texts/*.txt.gz' --source=albert_large.tar.gz
      --release=dist/tensorflow/albert_en_large/4 --output=results

A golden file has outputs of a source and its digest. A release fails if it was made from another source, or if its
outputs differ by more than the tolerance. Recording over a file prints the changes.

With --corpus, every line is tokenized by the reference and by the exported preprocessor. Then the source's graph and
the exported encoder compute its outputs. This runs on Apache Beam: flags that --help does not list go to Beam. Exit
status 1 if ids or outputs differ by more than the tolerance; the results are written in both cases.
"""

import pathlib
import sys

from absl import flags

from converters import cli
from converters import errors
from converters import source as source_lib
from converters import source_flags
from export import record as record_lib
from export import spec
from export.corpus import corpus_flags
from export.source import policy_flags
from export.store import tree
from export.ui import console as console_lib

for _module in (source_flags, policy_flags, corpus_flags):
  flags.adopt_module_key_flags(_module)  # so that --help shows them
_RECORD = flags.DEFINE_bool('record', False, 'Write --golden from --source.')
_CHECK = flags.DEFINE_bool('check', False, 'Compare --release with --golden.')
_GOLDEN = flags.DEFINE_string('golden', None, 'The golden file, as tests/golden/albert_en_demo.json.')
_SOURCE = flags.DEFINE_string('source', None, 'For --record and --corpus: a directory, a .tar.gz, or a hub handle.')
_PREPROCESSOR = flags.DEFINE_integer(
  'preprocessor',
  None,
  'For --record: record the ids of this version of the preprocessor\'s contract instead of the encoder\'s outputs.',
)
_RELEASE = flags.DEFINE_string('release', None, 'For --check and --corpus: directory of the published version.')

_GROUPS = {
  'One of three actions': ('record', 'check', 'corpus'),
  'What is compared': ('golden', 'source', 'release', 'preprocessor'),
  'With --corpus': corpus_flags.GROUP,
  **source_flags.GROUPS,
  **policy_flags.GROUPS,
}


def main() -> None:
  """Runs the command; see the module."""
  if sum([_RECORD.value, _CHECK.value, corpus_flags.CORPUS.value is not None]) != 1:
    raise errors.UsageError('--record, --check, --corpus: none or several given; give exactly one')
  if (corpus := corpus_flags.CORPUS.value) is not None:
    _compare(corpus, console_lib.Console())
    return
  path = pathlib.Path(_given('--golden', _GOLDEN.value))
  if _RECORD.value:
    _record(_given('--source', _SOURCE.value), path, console_lib.Console())
  else:
    with tree.release_at(_given('--release', _RELEASE.value)) as release:
      _check(release, path, console_lib.Console())


def _given(flag: str, value: str | None) -> str:
  if not value:
    raise errors.UsageError(f'{flag}: missing or empty; give a value')
  return value


def _record(handle: str, path: pathlib.Path, console: console_lib.Console) -> None:
  version = _PREPROCESSOR.value
  if version is not None and version not in spec.PREPROCESSOR_VERSIONS:
    raise errors.UsageError(
      f'--preprocessor={version}: unknown version; give one of {", ".join(map(str, spec.PREPROCESSOR_VERSIONS))}'
    )
  cli.check_not_published('--golden', path)
  source_lib.check_handle(handle)
  from export.validation import golden_file

  with source_lib.open_source(handle, source_flags.reading()) as source, console.step(f'record {path}'):
    if version is None:
      golden = golden_file.of_source(source, policy_flags.trust())
    else:
      golden = golden_file.of_sp_model(source.sp_model, source.sp_model_digest, version, source.tokenization)
  try:
    moved = golden_file.moved(golden_file.read(path), golden) if path.exists() else None
  except (errors.GoldenError, KeyError, TypeError, ValueError, AttributeError):  # an invalid file is replaced too
    moved = None
  try:
    golden_file.write(golden, path)
  except OSError as e:
    raise errors.GoldenError(f'{path}: cannot be written ({e.strerror}); give another --golden') from e
  if moved is None:
    console.line(f'{path} is new')
  elif moved:
    console.table(f'Changed in {path}', ['value', 'difference'], moved)
  else:
    console.line(f'no changes in {path}')


def _check(release: pathlib.Path, path: pathlib.Path, console: console_lib.Console) -> None:
  record = record_lib.read(release)
  from export.validation import golden_file

  golden = golden_file.read(path)
  with console.step(f'compare {record.release} with {path}'):
    result = golden_file.check(release, record, golden)
  if isinstance(result, int):
    console.line(f'{result} ids are the same')
  else:
    if left_out := golden['outputs'].keys() - result.keys():
      console.line(f'not in the release, therefore not compared: {", ".join(sorted(left_out))}')
    console.table(
      'In float64: relative distance to the golden values',
      ['output', 'distance', 'bound'],
      [[name, f'{distance:.1e}', f'{golden_file.BOUND:.0e}'] for name, distance in result.items()],
    )


def _compare(corpus: list[str], console: console_lib.Console) -> None:
  if (output := corpus_flags.OUTPUT.value) and '://' not in output:
    cli.check_not_published('--output', output)
  from export.beam import runner as beam_runner
  from export.corpus import run

  request = run.Request(
    corpus=tuple(corpus),
    source=_given('--source', _SOURCE.value),
    reading=source_flags.reading(),
    trust=policy_flags.trust(),
    release=_given('--release', _RELEASE.value),
    preprocessor_release=corpus_flags.PREPROCESSOR_RELEASE.value,
    output=_given('--output', corpus_flags.OUTPUT.value),
    seq_length=corpus_flags.SEQ_LENGTH.value,
    batch_tokens=corpus_flags.BATCH_TOKENS.value,
    worst=corpus_flags.WORST.value,
    threads=corpus_flags.THREADS.value,
  )
  with beam_runner.own_temporary_files():
    run.run(request, console)


if __name__ == '__main__':
  # Only --corpus uses Apache Beam, whose flags are not defined here.
  cli.run(
    main,
    _GROUPS,
    others=any(word.lstrip('-').partition('=')[0] == 'corpus' for word in sys.argv[1:] if word.startswith('-')),
  )
