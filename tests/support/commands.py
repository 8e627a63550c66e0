"""Starts this project's commands as users do."""

import os
import pathlib
import subprocess
import sys

ROOT = str(pathlib.Path(__file__).parents[2])
PYTHON = sys.executable  # the interpreter itself: conftest.py sets sys.executable to one that forks, see fork_server
BIN = os.path.dirname(PYTHON)  # the environment's commands


def run_export(*flags, cwd=None, **environment) -> subprocess.CompletedProcess:
  """`python -m export` of albert_en_tiny, as a user runs it."""
  return run(export_command(*flags), cwd=cwd, **environment)


def run(command, cwd=None, **environment) -> subprocess.CompletedProcess:
  """Any command that runs this project's modules."""
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
  """Checks that a command ended with a status and one line of error that has these words."""
  assert process.returncode == status, process.stderr
  lines = process.stderr.splitlines()
  assert len(lines) == 1 and lines[0].startswith('error: '), process.stderr
  for word in words:
    assert word in lines[0]
