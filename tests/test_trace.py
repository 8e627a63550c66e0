"""A profile has the time, process and cost of each step, including steps of other processes."""

import json
import os
import subprocess
import sys
import threading

import pytest

from export.ui import trace as trace_lib


def _spans(profile):
  return [event for event in profile.events() if event['ph'] == 'X']


def test_what_is_inside_is_noted_even_if_it_fails():
  profile = trace_lib.Profile()
  with pytest.raises(ValueError), profile.span('outer'):
    with profile.span('inner'):
      sum(range(200_000))
    raise ValueError
  outer, inner = _spans(profile)
  assert (outer['name'], inner['name']) == ('outer', 'inner')
  assert outer['ts'] == 0 and outer['dur'] >= inner['dur']
  assert inner['args']['thread_seconds'] <= inner['args']['process_seconds'] + 0.001
  assert outer['args']['peak_bytes'] > 1 << 20


def test_threads_have_tracks_of_their_own():
  profile = trace_lib.Profile()

  def work():
    with profile.span('beside'):
      pass

  with profile.span('main'):
    thread = threading.Thread(target=work, name='packer')
    thread.start()
    thread.join()
  tracks = {event['args']['name']: event['tid'] for event in profile.events() if event['name'] == 'thread_name'}
  assert {event['name']: event['tid'] for event in _spans(profile)} == {
    'main': tracks['MainThread'],
    'beside': tracks['packer'],
  }


def test_another_process_is_on_the_same_clock(tmp_path):
  profile = trace_lib.Profile()
  with profile.span('before'):
    pass
  code = (
    'import pathlib, sys; from export.ui import trace\n'
    'p = trace.Profile()\n'
    'with p.span("child"): pass\n'
    'p.save(pathlib.Path(sys.argv[1]))'
  )
  subprocess.run([sys.executable, '-c', code, str(tmp_path / 'child.json')], check=True)
  profile.load(tmp_path / 'child.json')
  profile.load(tmp_path / 'never_written.json')
  with profile.span('after'):
    pass
  profile.write(tmp_path / 'trace.json')
  trace = json.loads((tmp_path / 'trace.json').read_text())['traceEvents']
  spans = [event for event in trace if event['ph'] == 'X']
  assert [span['name'] for span in spans] == ['before', 'child', 'after']
  assert spans[0]['pid'] == spans[2]['pid'] == os.getpid() != spans[1]['pid']


@pytest.mark.parametrize(
  'text',
  [
    '[' * 100_000,
    'no json',
    '{}',
    '[1]',
    '[{"name": "x"}]',
    *(
      json.dumps(
        [
          dict(
            name='x',
            process=1,
            thread='t',
            start=0.0,
            seconds=0.0,
            thread_seconds=0.0,
            process_seconds=0.0,
            peak_bytes=0,
          )
          | wrong
        ]
      )
      for wrong in (dict(start='a'), dict(seconds=float('nan')), dict(process=True), dict(peak_bytes=1.5), dict(more=1))
    ),
  ],
)
def test_what_another_process_saved_is_not_trusted(tmp_path, text):
  profile = trace_lib.Profile()
  (tmp_path / 'child.json').write_text(text)
  profile.load(tmp_path / 'child.json')
  os.mkfifo(tmp_path / 'pipe')
  profile.load(tmp_path / 'pipe')
  assert profile.spans == [] and profile.events() == []
