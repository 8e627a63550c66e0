"""Renders model cards from assets/cards/: in Markdown, with the metadata lines that a hub host reads."""

from typing import Any

import jinja2

from export import assets_dir
from export.ui import proof_text

# What a user puts before 'tensorflow/albert_en_large/2' to get a handle that tensorflow_hub resolves.
BASE_URL = 'https://tfhub.dev/'


def render(kind: str, **facts: Any) -> str:
  """Fills in a template.

  Args:
    kind: 'encoder', 'preprocessor', 'text' or 'collection'.
    **facts: what the template names; a missing one is an error.

  Raises:
    jinja2.UndefinedError: the template names something that is not in `facts`.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(assets_dir.PATH / 'cards'),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
    autoescape=False,  # Markdown, not HTML
  )
  if kind == 'encoder':
    facts['sentence'] = proof_text.sentence(facts['record']['certificate'])
  return environment.get_template(f'{kind}.md').render(base_url=BASE_URL, **facts).rstrip('\n') + '\n'
