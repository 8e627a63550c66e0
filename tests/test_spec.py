import ast
import pathlib

from export import spec

EXPORT = pathlib.Path(spec.__file__).parent
APART = {'spec.py', 'release/model_card.py'}  # the second names templates, '.md' too


def test_no_other_module_writes_a_suffix():
  found = [
    f'{path.relative_to(EXPORT)}:{node.lineno}'
    for path in sorted(EXPORT.rglob('*.py'))
    if str(path.relative_to(EXPORT)) not in APART
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Constant) and node.value in spec.COMPANIONS
  ]
  assert not found
