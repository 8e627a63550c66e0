"""The subprocess that runs an untrusted graph has limited access to the machine."""

import pathlib
import signal
import subprocess
import sys
import tempfile

import pytest

from converters import errors
from export.source import policy as source_policy
from export.source import sandbox

pytestmark = pytest.mark.real_processes

LIMITS = sandbox.Limits(memory=1 << 30, cpu_seconds=1, file_bytes=1 << 20)


def _python(code, *, limits=True, writable=None):
  if limits:
    code = f'from export.source import sandbox; sandbox.{LIMITS!r}.apply()\n{code}'
  return subprocess.run(
    sandbox.command([sys.executable, '-c', code], writable) if writable else [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    env=sandbox.environment(writable or pathlib.Path(tempfile.gettempdir())),
  )


@pytest.mark.parametrize(
  'code, fault',
  [
    ('import mmap; mmap.mmap(-1, 2 << 30)', 'Cannot allocate memory'),
    ('open(FILE, "wb").write(bytes(1 << 21))', 'File too large'),
  ],
)
def test_limits(tmp_path, code, fault):
  code = code.replace('FILE', repr(str(tmp_path / 'file')))
  assert _python(code, limits=False).returncode == 0
  process = _python(code)
  assert process.returncode == 1 and fault in process.stderr


def test_processor_time_ends():
  assert _python('while True: pass').returncode in (-signal.SIGXCPU, -signal.SIGKILL)


def test_no_core_is_dumped():
  process = _python('import resource; print(resource.getrlimit(resource.RLIMIT_CORE))')
  assert process.stdout == '(0, 0)\n', process.stderr


@pytest.mark.parametrize(
  'trust', [source_policy.Trust(memory_gib=1), source_policy.Trust(cpu_seconds=1)], ids=['memory', 'time']
)
def test_a_source_that_needs_more_is_refused(module, start_run, trust):
  # TensorFlow alone takes more memory. Out of memory, even parsing the graph may fail.
  with (
    start_run(module, trust=trust) as run,
    pytest.raises(
      errors.SourceError,
      match='running saved_model.pb failed .*raise option max_run_gib or option max_run_seconds'
      + ('|not a SavedModel' if trust.memory_gib == 1 else ''),
    ),
  ):
    run.outputs()
    run.gradient()  # the outputs of a tiny module may take less than a second


def test_credentials_are_not_handed_on(monkeypatch, tmp_path):
  monkeypatch.setenv('AWS_SECRET_ACCESS_KEY', 'x')
  monkeypatch.setenv('TF_NUM_INTEROP_THREADS', '4')
  for apart in (True, False):
    environment = sandbox.environment(tmp_path, apart)
    assert ('AWS_SECRET_ACCESS_KEY' not in environment) == apart
    assert environment['TF_NUM_INTEROP_THREADS'] == '4' and environment['TMPDIR'] == str(tmp_path)


@pytest.mark.parametrize('means', ['bubblewrap', 'namespaces', 'none'])
def test_every_means_runs_what_it_is_given(tmp_path, monkeypatch, means):
  """If the platform has the launcher: no writes outside, no network, and a death by signal is visible."""
  if not sandbox.works(means):
    pytest.skip(f'{means} does not work on this machine')
  monkeypatch.setattr(sandbox, 'means', lambda: means)
  work, outside = tmp_path / 'work', tmp_path / 'outside'
  work.mkdir()
  process = _python(f'open({str(work / "x")!r}, "w").write("y")', writable=work, limits=False)
  assert process.returncode == 0 and (work / 'x').read_text() == 'y', process.stderr
  process = _python(f'open({str(outside)!r}, "w")', writable=work, limits=False)
  assert outside.exists() == (means != 'bubblewrap'), process.stderr
  process = _python('print(open("/proc/self/net/dev").read().count(":"))', writable=work, limits=False)
  assert (process.stdout == '1\n') or means == 'none', process.stdout  # only the loopback interface
  process = _python('import os; os.kill(os.getpid(), 9)', writable=work, limits=False)
  assert process.returncode in (-9, 128 + 9)


def test_what_ended_a_process():
  statuses = {0: 0, 1: 0, sandbox.REFUSED: 0, -9: 9, 128 + 24: 24}
  assert {status: sandbox.signal_of(status) for status in statuses} == statuses
