"""Runs a command in a subprocess, and measures the time and memory of all its processes."""

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

# The user's environment, copied before cli.run sets variables for this process's TensorFlow.
_ENVIRONMENT = dict(os.environ)
_SAMPLE_SECONDS = 0.1
_PAGE = os.sysconf('SC_PAGE_SIZE')
_LONGEST_REASON = 300  # characters of a command's output in an error message


class CommandError(errors.AlbertHubError):
  """A measured command failed. The message has the command, its exit status and its last line of output."""


@dataclasses.dataclass(frozen=True)
class Usage:
  """Time and memory of a command.

  Attributes:
    wall: wall time, in seconds.
    cpu: user and system time including descendants, in seconds.
    peak: peak memory of the largest process, in bytes.
    together: peak memory of all processes together, in bytes, sampled every 0.1 s: the sum of private memory, and the
      largest shared memory of a process. At least `peak`, since sampling misses short peaks.
    others: share of the machine's processor time that other processes took meanwhile, from 0 to 1.
  """

  wall: float
  cpu: float
  peak: int
  together: int
  others: float

  @classmethod
  def of_sequence(cls, usages: Sequence['Usage']) -> 'Usage':
    """Combines commands that ran one after the other: sums of times, maxima of memory."""
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
    log: path of the log files, without their suffixes .out and .err.
    timeout: seconds after which the command is killed.
    cwd: working directory.
    environment: additional environment variables.

  Raises:
    CommandError: the command cannot be started, fails, or takes longer than `timeout`.
  """
  log.parent.mkdir(parents=True, exist_ok=True)
  out, err = _with_suffix(log, '.out'), _with_suffix(log, '.err')
  os.sync()  # otherwise a command that syncs its files would also wait for the data of earlier commands
  with out.open('wb') as stdout, err.open('wb') as stderr:
    busy, start = _busy(), time.monotonic()
    try:
      # A separate session: all of its processes can be killed at once, and a terminal's interrupt reaches only this
      # process, which then kills them.
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
      raise CommandError(f'{command[0]}: cannot be started ({e.strerror}); see --help') from e
    try:
      together = _watch(process.pid, start + timeout)
      wall = time.monotonic() - start
      busy = _busy() - busy
    except BaseException:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
      raise
    # The kernel adds the times of descendants that were waited for, and takes the maximum of their memory. The memory
    # of this process at the start of the command counts too, so this process imports no large library.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
  if together is None or process.returncode:
    ending = f'timeout of {timeout:.0f} s' if together is None else f'exit status {process.returncode}'
    raise CommandError(
      f'{_name(command)}: {ending} ({_last_line(err) or _last_line(out) or "no output"}); see {err.name}'
    )
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
  """Runs a command, and returns the JSON object in its last line of output, and its usage.

  The arguments are those of `run`.

  Raises:
    CommandError: `run` raises it, or the last line of output is not a JSON object.
  """
  usage = run(command, log, timeout, cwd, environment)
  line = _last_line(_with_suffix(log, '.out'), longest=None)
  try:
    answer = json.loads(line)
  except ValueError as e:
    raise CommandError(
      f'{_name(command)}: last line of output is not JSON ({line[:_LONGEST_REASON]}); correct the command'
    ) from e
  if not isinstance(answer, dict):
    raise CommandError(
      f'{_name(command)}: last line of output is not a JSON object ({line[:_LONGEST_REASON]}); correct the command'
    )
  return answer, usage


def _watch(pid: int, deadline: float) -> int | None:
  """Waits for a process to end; returns its peak memory in bytes, or None if the timeout killed it."""
  most = 0
  # The descriptor becomes readable as soon as the process ends, so waiting adds nothing to the measured time.
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
  """Returns the seconds of processor time that the machine has used so far, time stolen by a hypervisor included."""
  user, nice, system, _, _, interrupts, soft_interrupts, stolen = (
    int(ticks) for ticks in pathlib.Path('/proc/stat').read_text(encoding='utf-8').split(maxsplit=9)[1:9]
  )
  return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf('SC_CLK_TCK')


def _memory(pid: int) -> int:
  """Returns the bytes of memory of a process and its descendants."""
  own, mapped = 0, 0
  for member in _family(pid):
    try:
      resident, shared = (int(number) for number in pathlib.Path(f'/proc/{member}/statm').read_text().split()[1:3])
    except (OSError, ValueError):  # the process ended meanwhile
      continue
    own += resident - shared
    mapped = max(mapped, shared)
  return (own + mapped) * _PAGE


def _family(pid: int) -> Iterator[int]:
  """Yields the ids of a process and of its descendants."""
  yield pid
  try:
    threads = os.listdir(f'/proc/{pid}/task')
  except OSError:  # the process ended meanwhile, as its threads may
    return
  for thread in threads:
    try:
      text = pathlib.Path(f'/proc/{pid}/task/{thread}/children').read_text()
    except OSError:
      continue
    for child in text.split():
      yield from _family(int(child))


def _name(command: Sequence[str]) -> str:
  """Returns a command's name for messages: the module that Python runs, or the program."""
  if '-m' in command[:-1]:
    return command[command.index('-m') + 1]
  return pathlib.Path(command[0]).name


def _last_line(path: pathlib.Path, longest: int | None = _LONGEST_REASON) -> str:
  # Paths of this machine must not appear in published results.
  lines = path.read_text(encoding='utf-8', errors='backslashreplace').replace(f'{ROOT}/', '').split('\n')
  last = next((line.strip() for line in reversed(lines) if line.strip()), '')
  return last[:longest].strip()


def _with_suffix(log: pathlib.Path, suffix: str) -> pathlib.Path:
  return log.with_name(log.name + suffix)
