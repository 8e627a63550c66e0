"""Renders Markdown model cards from assets/cards/, with the metadata lines that a hub host reads."""

from typing import Any

from converters import albert_config
from export import record as record_lib
from export.ui import proof_text
from export.ui import templates

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
  if kind != 'collection':
    record, release = facts['record'], facts['release']
    facts['setting'] = record.tokenization.setting
    facts['examples'] = _EXAMPLES.get(release.language, _NEUTRAL)
    config = record_lib.config(record) if not isinstance(record, record_lib.Preprocessor) else None
    facts['activation'] = _ACTIVATIONS[config.activation] if config else None
    facts['pooler'] = config is not None and config.pooler
  if kind == 'encoder':
    facts['sentence'] = proof_text.sentence(facts['record'].certificate)
  return templates.cards().get_template(f'{kind}.md').render(base_url=BASE_URL, **facts).rstrip('\n') + '\n'
