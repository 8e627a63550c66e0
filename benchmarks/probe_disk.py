"""Times the unavoidable disk work of an export, and prints one line of JSON.

python -m benchmarks.probe_disk MODULE RELEASE SCRATCH

Reads the files of MODULE, and writes the bytes of RELEASE to SCRATCH, a directory that is made and removed.
"""

import argparse
import json
import os
import pathlib
import shutil
import time

_CHUNK = 1 << 24  # bytes


def main() -> None:
  """Prints the seconds of reading and of writing."""
  parser = argparse.ArgumentParser()
  for name in ('module', 'release', 'scratch'):
    parser.add_argument(name, type=pathlib.Path)
  arguments = parser.parse_args()
  print(json.dumps({'read': _read(arguments.module), 'write': _write(arguments.release, arguments.scratch)}))


def _read(directory: pathlib.Path) -> float:
  start = time.perf_counter()
  for path in _files(directory):
    with path.open('rb', buffering=0) as file:
      while file.read(_CHUNK):
        pass
  return time.perf_counter() - start


def _write(release: pathlib.Path, scratch: pathlib.Path) -> float:
  """Returns the seconds of writing alone, since an export has the bytes in memory."""
  scratch.mkdir()
  seconds = 0.0
  try:
    for number, path in enumerate(_files(release)):
      with path.open('rb', buffering=0) as source, (scratch / str(number)).open('wb', buffering=0) as file:
        while chunk := source.read(_CHUNK):
          start = time.perf_counter()
          file.write(chunk)
          seconds += time.perf_counter() - start
        start = time.perf_counter()
        os.fsync(file.fileno())
        seconds += time.perf_counter() - start
  finally:
    shutil.rmtree(scratch)
  return seconds


def _files(directory: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in directory.rglob('*') if path.is_file())


if __name__ == '__main__':
  main()
