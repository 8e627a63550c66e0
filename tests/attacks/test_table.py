"""Each entry of the table has a test, and each test has a row in the table."""

import pathlib
import re

HERE = pathlib.Path(__file__).parent


def test_every_entry_has_a_test_and_a_row():
  tests = {
    int(number)
    for path in HERE.glob('test_*.py')
    for number in re.findall(r'^def test_(\d\d)_', path.read_text(), re.M)
  }
  rows = [int(number) for number in re.findall(r'^\| (\d+) \|', (HERE / 'README.md').read_text(), re.M)]
  assert tests == set(range(1, 47)) and rows == list(range(1, 47))
