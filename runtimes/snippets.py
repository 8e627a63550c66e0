"""Finds the Python programs and the install line in published pages."""

import re
from collections.abc import Iterable

import markdown_it

from converters import errors

_PYTHON = ('python', 'python3', 'py')
# A block that imports TensorFlow starts a program. The blocks after it continue the program.
_START = re.compile(r'^import tensorflow as tf$', re.M)
_INSTALL = re.compile(r'pip install(?= )[^`#\n]* tensorflow [^`#\n]*')


class SnippetError(errors.AlbertHubError):
  """Published pages have no install line, or several, or a Python block without a program."""


def programs(text: str, page: str) -> list[str]:
  """Returns the Python programs of a page, each with all of its blocks in order.

  Args:
    text: Markdown of the page.
    page: name of the page in messages.

  Raises:
    SnippetError: a block is before the first block that imports TensorFlow.
  """
  found: list[str] = []
  for token in markdown_it.MarkdownIt().parse(text):
    if token.type != 'fence' or token.info.strip().lower() not in _PYTHON:
      continue
    if _START.search(token.content):
      found.append(token.content)
    elif found:
      found[-1] += '\n' + token.content
    else:
      raise SnippetError(f'{page}: the first Python block does not import tensorflow as tf; add the import')
  return found


def install_line(texts: Iterable[str]) -> str:
  """Returns the command that the pages publish for the environment of a model's user.

  Args:
    texts: Markdown of the pages.

  Raises:
    SnippetError: the pages have no such command, or several different ones.
  """
  lines = sorted({line.strip() for text in texts for line in _INSTALL.findall(text)})
  if len(lines) != 1:
    raise SnippetError(f'README and cards: {len(lines)} install lines instead of 1 ({lines}); publish the same line')
  return lines[0]
