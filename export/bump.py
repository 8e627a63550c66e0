"""Adds the next version of an encoder to the catalog.

  python -m export.bump --model=albert_en_large --change="Retrained on more text."
  python -m export.bump --model=albert_en_large --change="..." --change="..." --preprocessor=albert_en_preprocess/3
  --dry_run

Values that no flag gives are those of the newest version. Only new lines are written: the rest of the file, comments
included, does not change.
"""

import difflib
import pathlib

from absl import flags

from converters import cli
from converters import errors
from export import assets_dir
from export.release import catalog as catalog_lib
from export.ui import console as console_lib

_MODEL = flags.DEFINE_string('model', None, 'Name of the encoder that gets a new version, as albert_en_large.')
_CHANGE = flags.DEFINE_multi_string(
  'change', None, 'A change in this version, for the card. Repeat the flag for each change.'
)
_IO = flags.DEFINE_enum(
  'io', None, ['dict', 'list'], 'Input of the encoder: a dict or a list of tensors. Default: as in the newest version.'
)
_PREPROCESSOR = flags.DEFINE_string(
  'preprocessor', None, 'NAME/VERSION of the encoder\'s preprocessor. Default: as in the newest version.'
)
_BREAKING = flags.DEFINE_bool(
  'breaking', False, 'Mark the version as incompatible with the version before. Default: true if --io changes.'
)
_CATALOG = flags.DEFINE_string('catalog', str(catalog_lib.PATH), 'YAML file of the catalog to change.')
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Print the new lines, and write nothing.')

_GROUPS = {
  'Most need': ('model', 'change', 'catalog'),
  'The new version': ('io', 'preprocessor', 'breaking'),
  'Plan': ('dry_run',),
}


def main() -> None:
  """Runs the command; see the module."""
  path = pathlib.Path(_CATALOG.value)
  if assets_dir.INSTALLED and path.resolve().is_relative_to(assets_dir.PATH):
    raise errors.UsageError(
      f'--catalog={path}: belongs to the installed package, and is not changed; copy it, and give the copy'
    )
  catalog = catalog_lib.Catalog(path)
  name = _MODEL.value or ''
  newest = catalog.newest_version(name)
  if newest is None or name not in catalog.encoders:
    raise errors.UsageError(
      f'--model={name}: not an encoder in {path} ({", ".join(catalog.encoders)}); give one of these, or write the '
      'first version of a new one into the catalog'
    )
  changes = [' '.join(change.split()) for change in _CHANGE.value or []]
  if not changes or not all(changes):
    raise errors.UsageError('--change: missing or empty; describe a change in this version')
  before = catalog.entry(name, newest)
  entry = {'interface': _IO.value or before['interface'], 'preprocessor': _PREPROCESSOR.value or before['preprocessor']}
  cli.check_preprocessor(_PREPROCESSOR.value)
  if _BREAKING.value or entry['interface'] != before['interface']:
    entry['breaking'] = True
  entry['changes'] = changes
  if entry['preprocessor'] not in catalog.preprocessors:
    raise errors.UsageError(
      f'--preprocessor={entry["preprocessor"]}: not in {path} ({", ".join(catalog.preprocessors)}); give one of these'
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
  cli.run(main, _GROUPS)
