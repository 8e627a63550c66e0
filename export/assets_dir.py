"""Directory of the catalog and the card templates: next to `export` in a checkout, inside of it when installed."""

import pathlib

_HERE = pathlib.Path(__file__).resolve().parent
PATH = next(p for p in (_HERE / 'assets', _HERE.parent / 'assets') if p.is_dir())
INSTALLED = PATH.parent == _HERE  # in a checkout, the directory is the user's own
