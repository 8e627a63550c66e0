"""Opens the templates in assets/. A variable that a template misses is an error."""

from typing import Any

import jinja2

from export import assets_dir


def pages() -> jinja2.Environment:
  """Returns the environment of the HTML pages, which escapes all values."""
  return _environment('pages', autoescape=True, trim_blocks=True, lstrip_blocks=True)


def cards() -> jinja2.Environment:
  """Returns the environment of the Markdown cards, which escapes nothing."""
  return _environment('cards', autoescape=False, keep_trailing_newline=True)


def _environment(folder: str, **options: Any) -> jinja2.Environment:
  loader = jinja2.FileSystemLoader(assets_dir.PATH / folder)
  return jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, **options)
