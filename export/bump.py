"""Adds the next version of an encoder to the catalog.

  python -m export.bump --model=albert_en_large --change="Retrained on more text."
  python -m export.bump --model=albert_en_large --change="..." --change="..." --preprocessor=albert_en_preprocess/3
  --dry_run

What is not said is as in the newest version there is. Only the new lines are written: comments and all else stay as
they are.
"""

import difflib
import pathlib

from absl import flags

from converters import cli
from converters import errors
from export.release import catalog as catalog_lib
from export.ui import console as console_lib

_MODEL = flags.DEFINE_string('model', None, 'The encoder to add a version of, as albert_en_large.')
_CHANGE = flags.DEFINE_multi_string('change', None, 'What is new in this version. Give it once for every change.')
_IO = flags.DEFINE_enum('io', None, ['dict', 'list'], 'How the encoder is called. Default: as in the newest version.')
_PREPROCESSOR = flags.DEFINE_string(
  'preprocessor', None, 'NAME/VERSION of the preprocessor that goes with it. Default: as in the newest version.'
)
_BREAKING = flags.DEFINE_bool(
  'breaking', False, 'Code written for the version before may not work with this one. Always so when --io changes.'
)
_CATALOG = flags.DEFINE_string('catalog', str(catalog_lib.PATH), 'The catalog to change.')
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Say what would be written, and write nothing.')


def main() -> None:
  path = pathlib.Path(_CATALOG.value)
  catalog = catalog_lib.Catalog(path)
  name = _MODEL.value or ''
  newest = catalog.newest_version(name)
  if newest is None or name not in catalog.encoders:
    raise errors.UsageError(
      f'--model={name}: {path} has {", ".join(catalog.encoders)}: give one of them, or write the first '
      'version of a new one into the catalog'
    )
  changes = [' '.join(change.split()) for change in _CHANGE.value or []]
  if not changes or not all(changes):
    raise errors.UsageError('--change= is empty: say what is new in this version')
  before = catalog.entry(name, newest)
  entry = {'interface': _IO.value or before['interface'], 'preprocessor': _PREPROCESSOR.value or before['preprocessor']}
  cli.check_preprocessor(_PREPROCESSOR.value)
  if _BREAKING.value or entry['interface'] != before['interface']:
    entry['breaking'] = True
  entry['changes'] = changes
  if entry['preprocessor'] not in catalog.preprocessors:
    raise errors.UsageError(
      f'--preprocessor={entry["preprocessor"]}: {path} has {", ".join(catalog.preprocessors)}: give one of them'
    )

  version, text = catalog.with_version(name, entry)
  old = path.read_text(encoding='utf-8')
  if not _DRY_RUN.value:
    catalog.write(text)
  console = console_lib.Console()
  console.line(f'{name}/{version} {"would be" if _DRY_RUN.value else "is"} in {path}, after {name}/{newest}:\n')
  for line in difflib.unified_diff(old.splitlines(), text.splitlines(), n=2, lineterm=''):
    if not line.startswith(('---', '+++')):
      console.line(f'  {line}')
  console.line(
    f'\nNext: make export MODEL={name} VERSION={version}' + (' FLAGS=--breaking' if entry.get('breaking') else '')
  )


if __name__ == '__main__':
  cli.run(main)
