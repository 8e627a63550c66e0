"""README and docs are short, and their links are valid. tests/test_users.py runs their Python."""

import pathlib
import re
import subprocess
import sys

import pytest
from support import commands

ROOT = pathlib.Path(commands.ROOT)
PAGES = [ROOT / 'README.md', ROOT / 'BUILD_NOTES.md', ROOT / 'CHANGELOG.md', *sorted((ROOT / 'docs').rglob('*.md'))]


def _anchors(page: pathlib.Path) -> set[str]:
  """Returns the anchors of a page's headings on GitHub."""
  headings = re.findall(r'^#+ (.+)$', re.sub(r'```.*?```', '', page.read_text(), flags=re.S), re.M)
  return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def broken_links(page: pathlib.Path) -> list[str]:
  """Returns the relative links of a page whose file or heading is missing."""
  found = []
  for target in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
    if '://' not in target:
      name, _, anchor = target.partition('#')
      path = page.parent / name if name else page
      if not path.exists() or (anchor and anchor not in _anchors(path)):
        found.append(target)
  return found


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
  assert broken_links(page) == []


def test_broken_links_are_found(tmp_path):
  page = tmp_path / 'page.md'
  page.write_text('# One: two\n[a](page.md#one-two) [b](#one-two) [c](https://x.y/z) [d](gone.md) [e](#gone)\n')
  assert broken_links(page) == ['gone.md', '#gone']


def test_every_page_of_docs_is_linked_from_the_readme():
  linked = set(re.findall(r'\]\((docs/[^)#]+)', (ROOT / 'README.md').read_text()))
  assert linked == {f'docs/{page.name}' for page in (ROOT / 'docs').glob('*.md')}


def test_the_readme_is_read_in_five_minutes():
  text = (ROOT / 'README.md').read_text()
  assert len(text.splitlines()) <= 120 and len(text.split()) <= 900


def test_the_tables_of_flags_are_those_of_help(tmp_path):
  page = ROOT / 'docs/export.md'
  made = tmp_path / 'export.md'
  made.write_text(re.sub(r'^\| `--.*\n', '', page.read_text(), flags=re.M))
  subprocess.run([sys.executable, '-m', 'docs.flags', str(made)], cwd=ROOT, check=True)
  assert made.read_text() == page.read_text(), 'run make docs'
  assert len(re.findall(r'^\| `--', page.read_text(), re.M)) > 25
