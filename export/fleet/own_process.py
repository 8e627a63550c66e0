"""One release in a process of its own: nothing of it outlives whoever asked for it.

  python -m export.fleet.own_process --model=... --version=...

is `python -m export` that ends, as if it were interrupted, once its parent is gone.
"""

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

from converters import command_line
from export import __main__ as export_main
from export.proof import isolation

_PATIENCE_SECONDS = 30  # for a process that was asked to end: it takes back what it has begun

_running = set[subprocess.Popen[str]]()
_lock = threading.Lock()
_ended = threading.Event()


class Ended(Exception):
  """The whole job was ended."""


def run(arguments: Sequence[str]) -> tuple[int, str]:
  """Releases, and waits for it.

  Args:
    arguments: of `python -m export`.

  Returns:
    The exit status, and what it has written to standard error.

  Raises:
    Ended: `end_all` was called.
  """
  with _lock:
    if _ended.is_set():
      raise Ended
    # A terminal's interrupt is for whoever asked for the release, who passes it on.
    process = subprocess.Popen([sys.executable, '-m', __name__, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, errors='replace', start_new_session=True)
    _running.add(process)
  try:
    _, said = process.communicate()
  finally:
    with _lock:
      _running.discard(process)
  if _ended.is_set():
    raise Ended
  return process.returncode, said


def end_all() -> None:
  """Ends what runs, and lets nothing begin any more."""
  with _lock:
    _ended.set()
    processes = list(_running)
  for process in processes:
    process.terminate()
  for process in processes:
    try:
      process.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
      process.kill()


if __name__ == '__main__':
  isolation.die_with_parent(signal.SIGTERM)
  command_line.run(export_main.main)
