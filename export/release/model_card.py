"""Renders Markdown model cards from assets/cards/, with the metadata lines that a hub host reads."""

from typing import Any

import jinja2

from converters import albert_config
from converters import tokenization
from export import assets_dir
from export.ui import proof_text

# Prefix of 'tensorflow/albert_en_large/2' in a handle that tensorflow_hub resolves.
BASE_URL = 'https://tfhub.dev/'
# Two texts for the examples, by language; digits and signs for all other languages.
_EXAMPLES = {'en': ('The ferry was late.', 'Nobody minded.')}
_NEUTRAL = ('1 + 1 = 2', '2 + 2 = 4')
_ACTIVATIONS = {
  albert_config.Activation.GELU_TANH: 'GELU (approximation with tanh)',
  albert_config.Activation.GELU_EXACT: 'GELU (exact, with the error function)',
  albert_config.Activation.RELU: 'ReLU',
  albert_config.Activation.SILU: 'SiLU (swish)',
  albert_config.Activation.TANH: 'tanh',
}


def render(kind: str, **facts: Any) -> str:
  """Renders a template.

  Args:
    kind: 'encoder', 'preprocessor', 'text' or 'collection'.
    **facts: values of the template's variables.

  Raises:
    jinja2.UndefinedError: a variable of the template is missing in `facts`.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(assets_dir.PATH / 'cards'),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
    autoescape=False,  # Markdown, not HTML
  )
  if kind != 'collection':
    record, release = facts['record'], facts['release']
    facts['setting'] = tokenization.of_record(record)
    facts['examples'] = _EXAMPLES.get(release.language, _NEUTRAL)
    facts['activation'] = _ACTIVATIONS[albert_config.parse(record['config']).activation] if 'config' in record else None
  if kind == 'encoder':
    facts['sentence'] = proof_text.sentence(facts['record']['certificate'])
  return environment.get_template(f'{kind}.md').render(base_url=BASE_URL, **facts).rstrip('\n') + '\n'
