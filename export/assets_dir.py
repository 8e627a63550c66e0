"""Where the catalog and the card templates are: beside the packages in a checkout, inside `export` when installed."""

import pathlib

_HERE = pathlib.Path(__file__).resolve().parent
PATH = next(p for p in (_HERE / 'assets', _HERE.parent / 'assets') if p.is_dir())
