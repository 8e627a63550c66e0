"""A source without a graph: the reference in float32 stands for it, and a wrong conversion is noticed all the same."""

import numpy as np
import pytest
from test_tf1_checkpoint import write_checkpoint

from converters import errors
from converters import source as source_lib
from converters import tf1_checkpoint
from converters import weight_map
from export.proof import certificate
from export.proof import expected as expected_lib
from export.proof import graphless


@pytest.fixture(scope='module')
def checkpoint(module, tmp_path_factory):
  return write_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'albert_tiny', module)


@pytest.fixture
def run(source):
  batch, scalar, signatures = certificate.given(source, source.parts)
  rounded = expected_lib.Expected(source, source.parts, batch, scalar, dtype=np.float32)
  return graphless.Run(lambda: rounded, signatures, source.config, source.parts)


def test_gives_what_a_graph_gives_in_float32(run, ran):
  ours, theirs = run.outputs(), ran.outputs()
  assert ours.keys() == theirs.keys()
  for name, value in ours.items():
    assert value.dtype == np.float32, name
    if not name.endswith(('sequence_output',)) and '/layer_' not in name:
      assert np.allclose(value.ravel(), theirs[name].ravel(), atol=2e-5), name
  ours, theirs = run.gradient(), ran.gradient()
  assert set(ours) == set(theirs)
  for name, value in ours.items():
    if name.endswith('key/bias'):  # zero, but for rounding
      continue
    assert value.dtype == np.float32 and np.allclose(value.ravel(), theirs[name].ravel(), rtol=1e-3, atol=1e-3 * np.abs(value).max()), name


def test_is_off_by_what_float32_comes_to(run, source):
  batch, scalar, _ = certificate.given(source, source.parts)
  exact = expected_lib.Expected(source, source.parts, batch, scalar)
  error = np.abs(run.outputs()['tokens/pooled_output'] - exact.pooled_output).max()
  assert 1e-9 < error < 1e-5


@pytest.mark.parametrize('one, other', [('attention.query.kernel', 'attention.key.kernel'), ('attention.norm.gamma', 'feed_forward.norm.gamma')])
def test_swapped_weights_are_noticed(checkpoint, refused, monkeypatch, one, other):
  read = tf1_checkpoint.Checkpoint.tensor
  calls = []

  def swapped(self, row):
    calls.append(row.name)
    # What the export is built from; the reference reads the weights too, in a thread of its own.
    import threading
    if threading.current_thread() is threading.main_thread() and row.name in (one, other):
      row = next(r for r in weight_map.rows(self.config, self.parts) if r.name == (other if row.name == one else one))
    return read(self, row)
  monkeypatch.setattr(tf1_checkpoint.Checkpoint, 'tensor', swapped)
  refused(checkpoint, 'no parity', errors.ParityError)
  assert one in calls


def test_source_of_another_digest(checkpoint):
  with source_lib.open_source(str(checkpoint)) as source:
    right = source.digest
  with pytest.raises(errors.DigestError), source_lib.open_source(str(checkpoint), source_lib.Reading(sha256='0' * 64)):
    pass
  with source_lib.open_source(str(checkpoint), source_lib.Reading(sha256=right)) as source:
    assert source.digest == right
