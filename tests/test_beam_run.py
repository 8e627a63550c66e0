"""Pipelines run on the runner of Beam's flags, and unknown flags are refused."""

import os
import subprocess
import sys
import tempfile
import threading

import pytest

from converters import cli
from converters import errors
from export.beam import runner as beam_runner


@pytest.fixture
def given(monkeypatch):
  def give(*words):
    monkeypatch.setattr(cli, 'others_flags', lambda: list(words))
    return beam_runner.options().get_all_options()

  return give


def test_without_flags_it_runs_here_in_threads(given, monkeypatch):
  monkeypatch.setattr('os.sched_getaffinity', lambda pid: {0, 1, 5})
  for words in ((), ('--runner=DirectRunner',), ('--runner', 'direct')):
    options = given(*words)
    assert (options['runner'], options['direct_running_mode'], options['direct_num_workers']) == (
      'FnApiRunner',
      'multi_threading',
      3,
    )
  options = given('--direct_running_mode', 'in_memory', '--direct_num_workers=2')
  assert (options['runner'], options['direct_running_mode'], options['direct_num_workers']) == (
    'FnApiRunner',
    'in_memory',
    2,
  )


def test_another_runner_gets_its_flags_as_they_are(given):
  options = given('--runner=FlinkRunner', '--flink_master=host:8081', '--only_flink_knows=3', '--parallelism', '4')
  assert (options['runner'], options['flink_master'], options['parallelism']) == ('FlinkRunner', 'host:8081', 4)


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (['--frobnicate=3'], '--frobnicate: unknown flag'),
    (['--frobnicate'], '--frobnicate: unknown flag'),
    (['frobnicate'], "'frobnicate': not a flag"),
    (['--runner=DirectRunner', 'frobnicate'], "'frobnicate': not a flag"),
    (['--direct_running_mode=fast'], "argument --direct_running_mode: invalid choice: 'fast'"),
    (['--direct_running_mode=multi_processing'], '--direct_running_mode=multi_processing: not supported'),
    (
      ['--runner=direct', '--direct_running_mode', 'multi_processing'],
      '--direct_running_mode=multi_processing: not supported',
    ),
    (['--direct_num_workers=many'], 'argument --direct_num_workers: invalid int value'),
  ],
)
def test_what_is_no_flag(given, words, message, capfd):
  with pytest.raises(errors.UsageError, match=message):
    given(*words)
  assert capfd.readouterr().err == ''


def test_without_beam(given, monkeypatch):
  monkeypatch.setitem(sys.modules, 'apache_beam.options', None)
  with pytest.raises(
    errors.UsageError, match=r'Apache Beam: not installed .*; run pip install "albert-hub-export\[beam\]"'
  ):
    given()


def _raise(number, error=ValueError):
  if number == 3:
    raise error('three is too many')
  return number


def test_a_pipeline_that_fails_says_why_in_one_line(given, capfd):
  import apache_beam as beam

  given()
  hook = threading.excepthook
  with pytest.raises(
    errors.RunError, match=r'pipeline: failed \(ValueError: three is too many.*\); see the runner'
  ) as caught:
    beam_runner.run(lambda p: p | beam.Create([1, 2, 3]) | beam.Map(_raise), beam_runner.options())
  with pytest.raises(
    errors.RunError, match=r'pipeline: failed \(SourceError: three is too many'
  ):  # not converters.errors.SourceError
    beam_runner.run(lambda p: p | beam.Create([1, 2, 3]) | beam.Map(_raise, errors.SourceError), beam_runner.options())
  threading.excepthook = hook
  assert '\n' not in str(caught.value) and capfd.readouterr() == ('', '')


def test_a_pipeline_runs_in_as_many_workers_as_asked_for(given, tmp_path):
  import apache_beam as beam

  given('--direct_num_workers=3')
  beam_runner.run(
    lambda p: (
      p
      | beam.Create(range(9))
      | beam.Reshuffle()
      | beam.Map(lambda n: (threading.get_ident(), n))
      | beam.Map(str)
      | beam.io.WriteToText(str(tmp_path / 'lines'))
    ),
    beam_runner.options(),
  )
  lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
  pairs = [tuple(map(int, line.strip('()').split(','))) for line in lines]
  assert sorted(n for _, n in pairs) == list(range(9)) and len({thread for thread, _ in pairs}) == 3


def test_nothing_temporary_stays(tmp_path, monkeypatch):
  """The next run also removes the temporary files of a killed run."""
  monkeypatch.setenv('TMPDIR', str(tmp_path))
  monkeypatch.setattr(tempfile, 'tempdir', None)
  code = (
    'import os, tempfile\nfrom export.beam import runner\n'
    'with runner.own_temporary_files():\n  tempfile.mkdtemp()\n  os.kill(os.getpid(), 9)'
  )
  assert subprocess.run([sys.executable, '-c', code]).returncode == -9
  (left,) = tmp_path.glob('albert_beam_*')
  with beam_runner.own_temporary_files():
    assert not left.exists() and tempfile.gettempdir() == os.environ['TMPDIR'] != str(tmp_path)
    tempfile.mkdtemp()
  assert not list(tmp_path.iterdir()) and tempfile.gettempdir() == os.environ['TMPDIR'] == str(tmp_path)
