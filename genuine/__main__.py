"""Exports TF1 Hub modules that tensorflow_hub wrote under TensorFlow 1.15, and compares them with TensorFlow 1.15.

  python -m genuine --python=build/genuine/venv/bin/python                                a tiny module of each kind
  python -m genuine --python=... --size=large --kinds=einsum,matmul                       of a published size
  python -m genuine --python=... --size=base --kinds=einsum --sp_model=30k-clean.model    with another vocabulary
  python -m genuine --python=... --fixtures=tests/genuine                                 the fixtures of the tests

`make genuine` makes the environment first. Exit status 1 if any release differs.
"""

import dataclasses
import gzip
import json
import pathlib
import shutil
import sys
import tarfile
from typing import Any

from absl import flags

from benchmarks import measure
from benchmarks import releases
from converters import cli
from converters import errors
from export.ui import console as console_lib
from genuine import comparison

_PYTHON = flags.DEFINE_string('python', None, 'Python of the environment of requirements/genuine.txt.', required=True)
_SIZE = flags.DEFINE_enum('size', 'tiny', ['tiny', 'base', 'large', 'xlarge', 'xxlarge'], 'Size of the modules.')
_KINDS = flags.DEFINE_list('kinds', None, 'Kinds of modules; default: all.')
_SP_MODEL = flags.DEFINE_string(
  'sp_model', None, 'SentencePiece model of the modules; default: one trained on the demo corpus.'
)
_FIXTURES = flags.DEFINE_string(
  'fixtures', None, 'Directory for the test fixtures: packed tiny modules of two kinds, and their outputs.'
)
_WORK_DIR = flags.DEFINE_string('work_dir', 'build/genuine', 'Directory for modules, releases and logs.')

_WRITER = pathlib.Path(__file__).with_name('write_module.py')
_TIMEOUT = 3600  # timeout of a command in seconds
# The writer must import the packages of its own environment only.
_ENVIRONMENT = {'PYTHONPATH': '', 'TF_CPP_MIN_LOG_LEVEL': '3', 'PYTHONWARNINGS': 'ignore', 'PYTHONIOENCODING': 'utf-8'}


class GenuineError(errors.AlbertHubError):
  """A release computes other outputs or token ids than TensorFlow 1.15 with its module."""


@dataclasses.dataclass(frozen=True)
class Kind:
  """A state in which modules of the family were published, or a form that the exporter can write.

  Attributes:
    heads: names of the signatures other than `tokens`, separated by commas.
    config: whether albert_config.json is among the assets.
    dropout: both dropout probabilities in the config.
    arguments: further arguments of write_module.py.
  """

  heads: str = 'mlm,sop'
  config: bool = True
  dropout: float = 0.0
  arguments: tuple[str, ...] = ()


KINDS = {
  'einsum': Kind(),
  'matmul': Kind(arguments=('--matmul',)),
  'without_sop': Kind(heads='mlm'),
  'without_heads': Kind(heads='', config=False),
  'dropout': Kind(heads='mlm', config=False, dropout=0.1),
  'partitioned': Kind(heads='mlm', config=False, dropout=0.1, arguments=('--matmul', '--partitions=2')),
  'sharded': Kind(arguments=('--shards=2',)),
}
FIXTURES = ('einsum', 'partitioned')


def main() -> None:
  """Writes, exports and compares a module of each kind.

  Raises:
    UsageError: --kinds has an unknown kind, or --fixtures has other flags with it.
    GenuineError: a release differs from TensorFlow 1.15.
    CommandError: writing or exporting a module failed.
  """
  names = list(KINDS) if _KINDS.value is None else _KINDS.value
  if _FIXTURES.value:
    if _SIZE.value != 'tiny' or _KINDS.value is not None or _SP_MODEL.value is not None:
      raise errors.UsageError(
        f'--fixtures={_FIXTURES.value}: size, kinds and vocabulary are fixed (tiny, {", ".join(FIXTURES)}); '
        'leave --size, --kinds and --sp_model out'
      )
    names = list(FIXTURES)
  unknown = [name for name in names if name not in KINDS]
  if unknown or not names:
    raise errors.UsageError(
      f'--kinds={",".join(names)}: unknown kind {unknown[0] if unknown else ""!r}; give some of {", ".join(KINDS)}'
    )
  work = pathlib.Path(_WORK_DIR.value).absolute()
  console = console_lib.Console()
  for name in ('modules', 'dist'):
    releases.clear(work / name)
  sp_model, texts = _prepare(work)
  found = {}
  for number, name in enumerate(names):
    with console.step(f'write {_SIZE.value}, {name}'):
      module = _write(name, number, work, sp_model, texts)
    with console.step(f'export {_SIZE.value}, {name}'):
      measure.run(
        [
          sys.executable,
          '-m',
          'export',
          f'--source={module}',
          f'--model=albert_en_{name}',
          '--version=2',
          f'--preprocessor=albert_en_{name}_preprocess/4',
          f'--export_root={work / "dist"}',
          *([] if KINDS[name].config else [f'--albert_config={module.with_name("albert_config.json")}']),
        ],
        work / f'logs/export_{name}',
        _TIMEOUT,
      )
    with console.step(f'compare {_SIZE.value}, {name}'):
      publisher = work / 'dist/tensorflow'
      found[name] = comparison.compare(
        publisher / f'albert_en_{name}/2',
        publisher / f'albert_en_{name}_preprocess/4',
        module.with_name('expected.npz'),
      )
  outputs = sorted({output for result in found.values() for output in result.outputs})
  console.table(
    'Largest difference from TensorFlow 1.15',
    ['output', *found],
    [
      [output, *(f'{result.outputs[output]:.1e}' if output in result.outputs else '-' for result in found.values())]
      for output in outputs
    ]
    + [['texts with other ids', *(f'{len(result.other_ids)} of {result.texts}' for result in found.values())]],
  )
  faults = [f'{name}: {fault}' for name, result in found.items() for fault in result.faults()]
  if faults:
    raise GenuineError(f'releases: differ from TensorFlow 1.15 ({"; ".join(faults)}); see {work / "logs"}')
  if _FIXTURES.value:
    for name in names:
      _pack(work / 'modules' / name, pathlib.Path(_FIXTURES.value), name)


def _prepare(work: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes the SentencePiece model, under its file name in modules, and the texts to tokenize."""
  from export.demo import tf1_module
  from export.demo import vocabulary
  from export.validation import preprocessor_certificate

  lines = vocabulary.CORPUS.read_text(encoding='utf-8').splitlines()
  inputs = work / 'inputs'
  inputs.mkdir(parents=True, exist_ok=True)
  sp_model, texts = inputs / '30k-clean.model', inputs / 'texts.json'
  if _SP_MODEL.value is None:
    sp_model.write_bytes(vocabulary.train(lines, tf1_module.SIZES[_SIZE.value]['vocab_size']))
  else:
    shutil.copyfile(pathlib.Path(_SP_MODEL.value).expanduser(), sp_model)
  texts.write_text(json.dumps([*preprocessor_certificate.texts(4), *lines[:300]]), encoding='utf-8')
  return sp_model, texts


def _write(name: str, seed: int, work: pathlib.Path, sp_model: pathlib.Path, texts: pathlib.Path) -> pathlib.Path:
  """Writes a module of one kind with TensorFlow 1.15, and returns its directory."""
  from export.demo import tf1_module

  kind, directory = KINDS[name], work / 'modules' / name
  directory.mkdir(parents=True)
  config = directory / 'albert_config.json'
  size: dict[str, Any] = dict(tf1_module.SIZES[_SIZE.value])
  spec = tf1_module.Spec(**size, hidden_dropout=kind.dropout, attention_dropout=kind.dropout)
  config.write_text(json.dumps(spec.config, indent=2) + '\n', encoding='utf-8')
  measure.run(
    [
      _PYTHON.value,
      str(_WRITER),
      f'--output={directory}',
      f'--config={config}',
      f'--sp_model={sp_model}',
      f'--texts={texts}',
      f'--heads={kind.heads}',
      f'--seed={seed}',
      *([] if kind.config else ['--without_config']),
      *kind.arguments,
    ],
    work / f'logs/write_{name}',
    _TIMEOUT,
    environment=_ENVIRONMENT,
  )
  return directory / 'module'


def _pack(directory: pathlib.Path, output: pathlib.Path, name: str) -> None:
  """Packs a module as hub hosts do, and copies its albert_config.json and expected.npz to the same directory."""
  output.mkdir(parents=True, exist_ok=True)
  with (
    open(output / f'{name}.tar.gz', 'wb') as file,
    gzip.GzipFile('', 'wb', 9, file, mtime=0) as packed,
    tarfile.open(fileobj=packed, mode='w') as tar,
  ):
    for path in sorted((directory / 'module').rglob('*')):
      info = tar.gettarinfo(path, str(path.relative_to(directory / 'module')))
      info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, '', ''
      with path.open('rb') if path.is_file() else open('/dev/null', 'rb') as content:
        tar.addfile(info, content if path.is_file() else None)
  for file_name in ('albert_config.json', 'expected.npz'):
    shutil.copyfile(directory / file_name, output / f'{name}.{file_name}')


if __name__ == '__main__':
  cli.run(main)
