"""The terminal shows sizes in human-readable units."""

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
