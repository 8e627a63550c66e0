"""Writes the tables of flags into docs/export.md, from the text of --help.

python -m docs.flags [PAGE]
"""

import pathlib
import re
import subprocess
import sys

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r'(?<=<!-- Made by `make docs`. -->\n).*?(?=<!-- End of the flags. -->)', re.S)


def tables(text: str) -> str:
  """Returns one table for each group of flags in the text of --help, under the title of the group."""
  parts = []
  for group in text.split('\n\n'):
    title, *lines = group.splitlines()
    if lines and lines[0].startswith('  --'):
      flags = re.findall(r'^  (--\S+)\n((?: {6}.*\n?)+)', '\n'.join(lines), re.M)
      rows = [f'| {" | ".join(_cells(flag, " ".join(words.split())))} |' for flag, words in flags]
      parts.append('\n'.join([f'**{title}**\n', '| flag | default | meaning |', '|---|---|---|', *rows, '']))
  return '\n'.join(parts)


def _cells(flag: str, text: str) -> tuple[str, str, str]:
  meaning, _, default = text.replace(f'{_ROOT}/', '').partition(' Default: ')
  default = default.removesuffix('.') or ('false' if flag.startswith('--[no]') else '-')
  name, _, value = flag.partition('=')
  choices = f' One of {", ".join(value.split("|"))}.' if '|' in value else ''
  return f'`{name}`', default, meaning + choices


def main() -> None:
  """Rewrites the block of a page between the two comments."""
  page = pathlib.Path(sys.argv[1]) if sys.argv[1:] else _ROOT / 'docs/export.md'
  command = [sys.executable, '-m', 'export', '--help']
  text = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True).stdout
  page.write_text(_BLOCK.sub(lambda _: f'\n{tables(text)}\n', page.read_text(encoding='utf-8')), encoding='utf-8')


if __name__ == '__main__':
  main()
