"""The terminal shows sizes in human-readable units, and steps that take time."""

import time

import pytest

from export.ui import console


@pytest.mark.parametrize(
  'count, shown',
  [
    (0, '0.0 kB'),
    (1_234, '1.2 kB'),
    (99_999, '100.0 kB'),
    (100_000, '0.10 MB'),
    (71_234_567, '71.23 MB'),
    (1.5e9, '1,500.00 MB'),
  ],
)
def test_sizes(count, shown):
  assert console.size(count) == shown


@pytest.mark.parametrize(
  'seconds, note, shown',
  [
    (0.01, '', ''),
    (0.01, 'of 3 pieces', '  open the source                                 0.0 s   of 3 pieces\n'),
    (0.14, '', '  open the source                                 0.1 s\n'),
  ],
)
def test_a_step_without_time_and_note_is_not_listed(capsys, monkeypatch, seconds, note, shown):
  start = time.monotonic()
  monkeypatch.setattr(console.time, 'monotonic', lambda: start)
  with console.Console().step('open the source', detail=lambda: note):
    monkeypatch.setattr(console.time, 'monotonic', lambda: start + seconds)
  assert capsys.readouterr().out == shown
