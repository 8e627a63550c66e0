"""Starts this project's commands as users do."""

import os
import pathlib
import subprocess
import sys

ROOT = str(pathlib.Path(__file__).parents[2])
PYTHON = sys.executable  # the real interpreter: conftest.py sets sys.executable to a forking one, see fork_server
BIN = os.path.dirname(PYTHON)  # commands of the environment


def run_export(*flags, cwd=None, **environment) -> subprocess.CompletedProcess:
  """Runs `python -m export` for albert_en_tiny, as a user does."""
  return run(export_command(*flags), cwd=cwd, **environment)


def run(command, cwd=None, **environment) -> subprocess.CompletedProcess:
  """Runs a command that uses this project's modules."""
  return subprocess.run(
    command, cwd=cwd, env=os.environ | {'PYTHONPATH': ROOT} | environment, capture_output=True, text=True, check=False
  )


def export_command(*flags) -> list[str]:
  return [
    sys.executable,
    '-m',
    'export',
    '--model=albert_en_tiny',
    '--preprocessor=albert_en_tiny_preprocess/3',
    *map(str, flags),
  ]


def fails(process: subprocess.CompletedProcess, status: int, *words: str) -> None:
  """Checks that a command ended with an exit status and one line of error with the given words."""
  assert process.returncode == status, process.stderr
  lines = process.stderr.splitlines()
  assert len(lines) == 1 and lines[0].startswith('error: '), process.stderr
  for word in words:
    assert word in lines[0]
