"""Facts of a run: the machine, the library versions, and a digest of this project's code."""

import hashlib
import os
import pathlib
import platform
from typing import Any

from benchmarks import measure

LIBRARIES = (
  'tensorflow',
  'tensorflow-cpu',
  'tensorflow-text',
  'tensorflow-hub',
  'tf-keras',
  'tf-models-official',
  'torch',
  'transformers',
  'numpy',
)

_CODE = ('converters/**/*.py', 'export/**/*.py', 'benchmarks/*.py', 'assets/**/*', 'requirements/runtime.txt')

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
  """Returns the processor, the number of usable cores, the memory in bytes and the operating system.

  All machines of one type have the same facts. Results of several such machines may be mixed, since both figures of a
  ratio come from one round on one machine.
  """
  try:
    system = platform.freedesktop_os_release()['PRETTY_NAME']
  except (OSError, KeyError):
    system = platform.system()
  return {
    'cpu': _field('/proc/cpuinfo', 'model name') or platform.processor() or platform.machine(),
    'cpu_id': ', '.join(_field('/proc/cpuinfo', name) for name in ('cpu family', 'model', 'stepping')),
    'cores': len(os.sched_getaffinity(0)),
    'memory_bytes': int((_field('/proc/meminfo', 'MemTotal') or '0').split()[0]) * 1024,
    'system': f'{system}, Linux {platform.release().split("-")[0]}',
  }


def code() -> str:
  """Returns the SHA-256 digest of the code and data that make releases and measure them."""
  digest = hashlib.sha256()
  for path in sorted(path for pattern in _CODE for path in measure.ROOT.glob(pattern) if path.is_file()):
    digest.update(f'{path.relative_to(measure.ROOT)}\0{path.stat().st_size}\0'.encode() + path.read_bytes())
  return digest.hexdigest()


def versions(python: str, log: pathlib.Path, timeout: float) -> dict[str, str]:
  """Returns the version of each library of `LIBRARIES` in an environment, and of Python.

  Args:
    python: interpreter of the environment.
    log: path for the output, as in `measure.run`.
    timeout: timeout in seconds.

  Raises:
    CommandError: the interpreter cannot be started, or fails.
  """
  return measure.ask([python, '-c', _VERSIONS % (LIBRARIES,)], log, timeout)[0]


def describe(found: dict[str, Any]) -> str:
  """Formats `facts` as one line."""
  return (
    f'{found["cores"]} cores of {found["cpu"]}, {found["memory_bytes"] / 2**30:.0f} GiB of memory, {found["system"]}'
  )


def _field(path: str, name: str) -> str:
  """Returns the value of the first line `name: value` of a file in /proc; empty without one."""
  try:
    lines = pathlib.Path(path).read_text(encoding='utf-8').splitlines()
  except OSError:
    return ''
  return next((value.strip() for key, _, value in (line.partition(':') for line in lines) if key.strip() == name), '')
