"""Libraries name options in their messages; the command line names its flags instead."""

import ast
import pathlib
import re

import pytest
from absl import flags
from support import commands

from converters import options
from export.ui import console

_ROOT = pathlib.Path(commands.ROOT)

# The only modules of the product that may name flags, each with the reason.
_ALLOWED = {
  'converters/__main__.py': 'a command',
  'converters/cli.py': 'parses flags',
  'converters/options.py': 'makes flags of options',
  'converters/source_flags.py': 'defines flags',
  'export/__main__.py': 'a command',
  'export/beam/runner.py': 'parses the flags of Apache Beam',
  'export/bump.py': 'a command',
  'export/command_line.py': 'a command',
  'export/corpus/corpus_flags.py': 'defines flags',
  'export/demo/__main__.py': 'a command',
  'export/fleet/__main__.py': 'a command',
  'export/fleet/own_process.py': 'makes arguments of `python -m export`',
  'export/fleet/pipeline.py': 'makes arguments of `python -m export`',
  'export/fleet/plan.py': 'makes arguments of `python -m export`',
  'export/golden.py': 'a command',
  'export/serve.py': 'a command',
  'export/source/sandbox.py': 'makes arguments of bubblewrap and unshare',
  'export/verify.py': 'a command',
}
# A command for the reader to run is quoted with its flags.
_COMMAND = re.compile(r'`[a-z][^`]*`|python -m [\w.]+( --?[\w=]+)*')
_MODULES = sorted(path.relative_to(_ROOT) for room in ('converters', 'export') for path in (_ROOT / room).rglob('*.py'))


def _with_flags(code: str) -> list[str]:
  """Returns the strings of a module, docstrings apart, that name a flag. Values of an f-string are shown as {}."""
  tree = ast.parse(code)
  nodes = list(ast.walk(tree))
  docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
  parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
  texts = []
  for node in nodes:
    if isinstance(node, ast.JoinedStr):
      texts.append(''.join(part.value if isinstance(part, ast.Constant) else '{}' for part in node.values))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | parts:
      texts.append(node.value)
  return [text for text in texts if re.search('--[a-z{]', _COMMAND.sub('', text))]


def test_no_library_names_a_flag():
  found = {str(path): _with_flags((_ROOT / path).read_text(encoding='utf-8')) for path in _MODULES}
  assert {path for path, texts in found.items() if texts} == _ALLOWED.keys(), {
    path: texts for path, texts in found.items() if texts and path not in _ALLOWED
  }


@pytest.mark.parametrize(
  'code, found',
  [
    ("'give --source'", []),  # a docstring
    ("x = 'give --source'", ['give --source']),
    ("x = f'{y}: bad; give --{z}=1'", ['{}: bad; give --{}=1']),
    ("x = f'{y}: bad; ' 'give --source'", ['{}: bad; give --source']),
    (
      "x = f'run `hf download {y} --local-dir {z}`, or give --source'",
      ['run `hf download {} --local-dir {}`, or give --source'],
    ),
    ("x = f'run `hf download {y} --local-dir {z}`, and give that'", []),
    ("x = 'record it again with python -m export.golden --record'", []),
    ("x = 'a -- b, <!-- c -->, option source'", []),
  ],
)
def test_planted_flags_are_found(code, found):
  assert _with_flags(code) == found


@pytest.fixture
def defined(monkeypatch):
  """The flags of a small command, in place of those of all commands."""
  values = flags.FlagValues()
  flags.DEFINE_string('source', None, '', flag_values=values)
  flags.DEFINE_string('source_sha256', None, '', flag_values=values)
  flags.DEFINE_bool('pooler', None, '', flag_values=values)
  monkeypatch.setattr(flags, 'FLAGS', values)


@pytest.mark.parametrize(
  'message, shown',
  [
    ('x: none; give option source', 'x: none; give --source'),
    ('option source=/a b: none; give another option source.', '--source=/a b: none; give another --source.'),
    ('option source_sha256=12: short', '--source_sha256=12: short'),
    ('option source=True or option source=False', '--source=True or --source=False'),
    ('option pooler, option pooler=True, option pooler=False', '--pooler, --pooler, --nopooler'),
    ('option pooler=Falsely', '--pooler=Falsely'),
    ('option model=x or option breaking=True', 'option model=x or option breaking=True'),  # of another command
    ('an option that the source lacks, and no option', 'an option that the source lacks, and no option'),
    ('adoption source, option  source', 'adoption source, option  source'),
  ],
)
def test_options_become_flags(defined, capsys, message, shown):
  assert options.as_flags(message) == shown
  console.Console().line(message)
  assert capsys.readouterr().out == f'{shown}\n'
