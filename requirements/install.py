"""Installs a lock into a virtual environment, says what it does, and shows the progress on a terminal.

  python requirements/install.py .venv 'about 80 packages, 2 GB, one to two minutes' requirements/runtime.txt --clear

--clear makes the environment first, with the Python that runs this file.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

OLDEST, NEWEST = (3, 11), (3, 13)  # of the locks in this directory; `python_requires` in setup.cfg says the same
_SECONDS = 0.2  # between updates of the progress


def main(venv, size, lock, *clear):
  """Installs a lock; see the module.

  Args:
    venv: path of the virtual environment.
    size: what is installed and how long it takes, for people.
    lock: path of the lock.
    *clear: '--clear', or nothing.
  """
  check(sys.version_info[:3])
  if clear and os.path.isdir(venv) and os.listdir(venv) and not os.path.exists(f'{venv}/pyvenv.cfg'):
    sys.exit(f'error: {venv}: not a virtual environment, and is not overwritten; run make with another VENV')
  start = time.monotonic()
  print(f'Installing {lock} into {venv} with Python {sys.version.split()[0]}: {size} ...', flush=True)
  if clear:
    _run([sys.executable, '-m', 'venv', '--clear', venv], lambda: 'making the environment')
  site = pathlib.Path(venv, 'lib', f'python{sys.version_info[0]}.{sys.version_info[1]}', 'site-packages')
  pip = [f'{venv}/bin/python', '-m', 'pip', 'install', '--disable-pip-version-check', '--no-deps', '--require-hashes']
  _run([*pip, '-r', lock], lambda: f'{len(list(site.glob("*.dist-info")))} packages installed')
  print(f'Installed in {time.monotonic() - start:.0f} s.')


def check(version):
  """Exits if the locks are not for a Python, given as (major, minor, micro)."""
  if not OLDEST <= version[:2] <= NEWEST:
    sys.exit(
      'error: Python {}.{}.{}: not supported; run make with PYTHON=/path/to/python3.11, 3.12 or 3.13'.format(*version)
    )


def _run(command, progress):
  """Runs a command, and shows its last line and `progress()` on a terminal; on failure, its errors."""
  with tempfile.TemporaryFile('w+') as errors:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    last = ['']
    reader = threading.Thread(target=lambda: [last.__setitem__(0, line) for line in process.stdout], daemon=True)
    reader.start()
    start = time.monotonic()
    while process.poll() is None:
      if sys.stdout.isatty():
        step = ' '.join(last[0].split()[:2])
        text = f'  {time.monotonic() - start:4.0f} s  {progress()}  {step}'
        print(f'\r{text[: os.get_terminal_size().columns - 1]}\033[K', end='', flush=True)
      time.sleep(_SECONDS)
    if sys.stdout.isatty():
      print('\r\033[K', end='')
    if process.returncode:
      errors.seek(0)
      sys.stderr.write(errors.read())
      sys.exit(process.returncode)


if __name__ == '__main__':
  main(*sys.argv[1:])
