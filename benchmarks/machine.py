"""What machine, and which libraries, a run was on."""

import os
import pathlib
import platform
from typing import Any

from benchmarks import measure

LIBRARIES = ('tensorflow', 'tensorflow-cpu', 'tensorflow-text', 'tensorflow-hub', 'tf-keras', 'tf-models-official', 'torch', 'transformers', 'numpy')

_VERSIONS = '''
import importlib.metadata, json, platform
found = {'python': platform.python_version()}
for name in %r:
  try:
    found[name] = importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    pass
print(json.dumps(found))
'''


def facts() -> dict[str, Any]:
  """Processor, cores that this process may use, bytes of memory, operating system."""
  try:
    system = platform.freedesktop_os_release()['PRETTY_NAME']
  except (OSError, KeyError):
    system = platform.system()
  return {
      'cpu': _field('/proc/cpuinfo', 'model name') or platform.processor() or platform.machine(),
      'cores': len(os.sched_getaffinity(0)),
      'memory_bytes': int((_field('/proc/meminfo', 'MemTotal') or '0').split()[0]) * 1024,
      'system': f'{system}, Linux {platform.release().split("-")[0]}',
  }


def versions(python: str, log: pathlib.Path, timeout: float) -> dict[str, str]:
  """The libraries in an environment, by name.

  Raises:
    CommandError: there is no such environment.
  """
  return measure.ask([python, '-c', _VERSIONS % (LIBRARIES,)], log, timeout)[0]


def describe(found: dict[str, Any]) -> str:
  """One line for people."""
  return (f'{found["cores"]} cores of {found["cpu"]}, {found["memory_bytes"] / 2**30:.0f} GiB of memory, {found["system"]}')


def _field(path: str, name: str) -> str:
  """The value of the first line `name: value` of a file below /proc; empty if there is none."""
  try:
    lines = pathlib.Path(path).read_text(encoding='utf-8').splitlines()
  except OSError:
    return ''
  return next((value.strip() for key, _, value in (line.partition(':') for line in lines) if key.strip() == name), '')
