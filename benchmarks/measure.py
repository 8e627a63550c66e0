"""Runs a command as a process of its own, and measures the whole of it."""

import dataclasses
import json
import os
import pathlib
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from converters import errors

ROOT = pathlib.Path(__file__).resolve().parents[1]

# What users have: taken before this process sets anything for its own TensorFlow, as cli.run does.
_ENVIRONMENT = dict(os.environ)
_SAMPLE_SECONDS = 0.1
_PAGE = os.sysconf('SC_PAGE_SIZE')
_LONGEST_REASON = 300  # characters of what a command says for itself


class CommandError(errors.AlbertHubError):
  """A command that was to be measured failed: the message says which, how it ended, and its last line."""


@dataclasses.dataclass(frozen=True)
class Usage:
  """What a command took.

  Attributes:
    wall: seconds from its start to its end.
    cpu: seconds of processor time, user and system, its descendants' included.
    peak: bytes of memory that its largest process had at most.
    together: bytes of memory that all its processes had at most at the same time, sampled every 0.1 s: what is theirs
      alone, and once
      what is mapped from files; and not less than `peak`, since short peaks are missed.
    others: the share of the machine's processor time that went to anybody else meanwhile, from 0 to 1.
  """

  wall: float
  cpu: float
  peak: int
  together: int
  others: float

  @classmethod
  def of_sequence(cls, usages: Sequence['Usage']) -> 'Usage':
    """Of commands that run one after the other: times add up, memory does not."""
    wall = sum(u.wall for u in usages)
    return cls(
      wall,
      sum(u.cpu for u in usages),
      max(u.peak for u in usages),
      max(u.together for u in usages),
      sum(u.others * u.wall for u in usages) / wall,
    )


def run(
  command: Sequence[str],
  log: pathlib.Path,
  timeout: float,
  cwd: pathlib.Path = ROOT,
  environment: Mapping[str, str] | None = None,
) -> Usage:
  """Runs a command.

  Args:
    command: program and arguments.
    log: what it prints goes to this path with .out and .err added.
    timeout: seconds after which it is killed.
    cwd: where it runs.
    environment: variables beside those that this process was started with.

  Raises:
    CommandError: it cannot be started, fails, or takes longer than `timeout`.
  """
  log.parent.mkdir(parents=True, exist_ok=True)
  out, err = _beside(log, '.out'), _beside(log, '.err')
  os.sync()  # or it would wait for what others wrote, if it waits for what it writes
  with out.open('wb') as stdout, err.open('wb') as stderr:
    busy, start = _busy(), time.monotonic()
    try:
      # In a session of its own, so that all of it can be killed, and so that a terminal's interrupt reaches it through
      # us only.
      process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**_ENVIRONMENT, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
      )
    except OSError as e:
      raise CommandError(f'{command[0]} cannot be started ({e.strerror}): see --help') from e
    try:
      together = _watch(process.pid, start + timeout)
      wall = time.monotonic() - start
      busy = _busy() - busy
    except BaseException:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
      raise
    # The kernel's account of a process has its descendants' in it, as far as they were waited for: time is their sum,
    # memory the largest. What this process had when it started the command counts too, so it imports nothing large.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
  if together is None or process.returncode:
    ending = f'took more than {timeout:.0f} s' if together is None else f'ended with status {process.returncode}'
    raise CommandError(f'{_name(command)} {ending}: {_last_line(err) or _last_line(out) or "it said nothing"}')
  peak = usage.ru_maxrss * 1024
  cpu = usage.ru_utime + usage.ru_stime
  return Usage(wall, cpu, peak, max(together, peak), min(max(busy - cpu, 0) / (wall * (os.cpu_count() or 1)), 1))


def ask(
  command: Sequence[str],
  log: pathlib.Path,
  timeout: float,
  cwd: pathlib.Path = ROOT,
  environment: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], Usage]:
  """Runs a command whose last line of output is a JSON object, and returns that too.

  Raises:
    CommandError: as `run`, or there is no such line.
  """
  usage = run(command, log, timeout, cwd, environment)
  line = _last_line(_beside(log, '.out'), longest=None)
  try:
    answer = json.loads(line)
  except ValueError as e:
    raise CommandError(f'{_name(command)} printed no JSON: {line[:_LONGEST_REASON]}') from e
  if not isinstance(answer, dict):
    raise CommandError(f'{_name(command)} printed no JSON object: {line[:_LONGEST_REASON]}')
  return answer, usage


def _watch(pid: int, deadline: float) -> int | None:
  """Waits for a process to end; returns the most memory that was seen, or None if it had to be killed."""
  most = 0
  # A file descriptor that becomes readable when the process ends: no time is lost between its end and the clock's
  # reading.
  descriptor = os.pidfd_open(pid)
  try:
    while not select.select([descriptor], [], [], _SAMPLE_SECONDS)[0]:
      if time.monotonic() > deadline:
        os.killpg(pid, signal.SIGKILL)
        select.select([descriptor], [], [])
        return None
      most = max(most, _memory(pid))
    return most
  finally:
    os.close(descriptor)


def _busy() -> float:
  """Seconds of processor time that the machine has spent on anything, and that a hypervisor has spent elsewhere."""
  user, nice, system, _, _, interrupts, soft_interrupts, stolen = (
    int(ticks) for ticks in pathlib.Path('/proc/stat').read_text(encoding='utf-8').split(maxsplit=9)[1:9]
  )
  return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf('SC_CLK_TCK')


def _memory(pid: int) -> int:
  own, mapped = 0, 0
  for member in _family(pid):
    try:
      resident, shared = (int(number) for number in pathlib.Path(f'/proc/{member}/statm').read_text().split()[1:3])
    except (OSError, ValueError):  # it ended meanwhile
      continue
    own += resident - shared
    mapped = max(mapped, shared)
  return (own + mapped) * _PAGE


def _family(pid: int) -> Iterator[int]:
  yield pid
  try:
    threads = os.listdir(f'/proc/{pid}/task')
  except OSError:  # it ended meanwhile, as threads do
    return
  for thread in threads:
    try:
      text = pathlib.Path(f'/proc/{pid}/task/{thread}/children').read_text()
    except OSError:
      continue
    for child in text.split():
      yield from _family(int(child))


def _name(command: Sequence[str]) -> str:
  """What to call a command in a message: the module that Python runs, or the program."""
  if '-m' in command[:-1]:
    return command[command.index('-m') + 1]
  return pathlib.Path(command[0]).name


def _last_line(path: pathlib.Path, longest: int | None = _LONGEST_REASON) -> str:
  # The results are for others, who have other paths.
  lines = path.read_text(encoding='utf-8', errors='backslashreplace').replace(f'{ROOT}/', '').split('\n')
  last = next((line.strip() for line in reversed(lines) if line.strip()), '')
  return last[:longest].strip()


def _beside(log: pathlib.Path, suffix: str) -> pathlib.Path:
  return log.with_name(log.name + suffix)
