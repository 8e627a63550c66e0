"""Measures processor seconds of every test and every fixture, as a pytest plugin.

  python -m pytest -p support.costs --costs=costs.json

Each figure counts this process and the subprocesses that it waited for. Fixtures are counted apart from the tests that
use them first. Under pytest-xdist every worker writes a separate file: costs.gw0.json and so on. Processes that the
fork server starts are not counted.

  python tests/support/costs.py before.gw*.json -- after.gw*.json   # a table in Markdown
"""

import json
import os
import pathlib
import resource
import sys

import pytest


def _processor_seconds() -> float:
  return sum(
    usage.ru_utime + usage.ru_stime
    for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
  )


def pytest_addoption(parser):
  parser.addoption('--costs', help='JSON file to write: processor seconds of tests and fixtures')


def pytest_configure(config):
  if config.getoption('--costs'):
    config.pluginmanager.register(Costs(config), 'costs-of-tests')


class Costs:
  """Collects the figures of one process.

  Attributes:
    tests: processor seconds by node ID, without fixtures.
    fixtures: processor seconds of set-up by 'name (file)', summed over all set-ups.
  """

  def __init__(self, config: pytest.Config):
    worker = os.environ.get('PYTEST_XDIST_WORKER')
    path = pathlib.Path(config.getoption('--costs')).absolute()
    self._path = path.with_suffix(f'.{worker}{path.suffix}') if worker else path
    self._start = _processor_seconds()
    self._nested = [0.0]
    self.tests: dict[str, float] = {}
    self.fixtures: dict[str, float] = {}

  @pytest.hookimpl(wrapper=True)
  def pytest_runtest_protocol(self, item):
    start = _processor_seconds()
    self._nested = [0.0]
    try:
      return (yield)
    finally:
      self.tests[item.nodeid] = _processor_seconds() - start - self._nested[0]

  @pytest.hookimpl(wrapper=True)
  def pytest_fixture_setup(self, fixturedef):
    start = _processor_seconds()
    self._nested.append(0.0)
    try:
      return (yield)
    finally:
      spent = _processor_seconds() - start
      own = spent - self._nested.pop()
      self._nested[-1] += spent
      name = f'{fixturedef.argname} ({fixturedef.baseid or "pytest"})'
      self.fixtures[name] = self.fixtures.get(name, 0.0) + own

  def pytest_sessionfinish(self):
    content = {'all': _processor_seconds(), 'tests': self.tests, 'fixtures': self.fixtures}
    self._path.write_text(json.dumps(content, indent=1))


def table(*sessions: list[str]) -> str:
  """Formats processor seconds of sessions by test file, with the costliest tests and fixtures of the last one.

  Args:
    sessions: for each session, the paths of its workers' files.

  Returns:
    Markdown.
  """
  files: list[dict[str, float]] = []
  for paths in sessions:
    totals: dict[str, float] = {}
    for path in paths:
      content = json.loads(pathlib.Path(path).read_text())
      for name, seconds in (content['tests'] | content['fixtures']).items():
        key = (
          name.partition('::')[0] if name in content['tests'] else 'fixtures of ' + name.partition('(')[2].rstrip(')')
        )
        totals[key] = totals.get(key, 0.0) + seconds
    files.append(totals)
  lines = ['| file |' + ' s |' * len(files), '| --- |' + ' ---: |' * len(files)]
  for name in sorted(set().union(*files), key=lambda name: -files[0].get(name, 0.0)):
    if max(totals.get(name, 0.0) for totals in files) >= 1:
      lines.append(f'| {name} | ' + ' | '.join(f'{totals.get(name, 0.0):.1f}' for totals in files) + ' |')
  lines.append('| **all** | ' + ' | '.join(f'{sum(totals.values()):.0f}' for totals in files) + ' |')
  lines += ['', '| test or fixture | s |', '| --- | ---: |']
  dearest: dict[str, float] = {}
  for path in sessions[-1]:
    content = json.loads(pathlib.Path(path).read_text())
    for name, seconds in (content['tests'] | content['fixtures']).items():
      dearest[name] = dearest.get(name, 0.0) + seconds
  lines += [f'| {name} | {seconds:.1f} |' for name, seconds in sorted(dearest.items(), key=lambda item: -item[1])[:40]]
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  before, _, after = ' '.join(sys.argv[1:]).partition(' -- ')
  print(table(*(paths.split() for paths in (before, after) if paths)), end='')
