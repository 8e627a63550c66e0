"""Results of source graphs, computed once a session for each graph, its weights and its inputs.

A subprocess that runs a source graph takes 1.4 processor seconds, and most tests export the same few modules.
"""

import dataclasses
import fcntl
import hashlib
import pathlib
import pickle
from collections.abc import Sequence

import numpy as np

from converters.reference import inputs as proof_inputs
from export.source import graph as source_graph
from export.source import policy as source_policy
from export.source import process as source_process
from export.ui import trace


@dataclasses.dataclass
class Recorded:
  """Results of a `source_process.Run` that has ended."""

  in_float32: dict[str, np.ndarray]
  in_float64: dict[str, np.ndarray]
  given_gradient: dict[str, np.ndarray]
  in_training: dict[str, np.ndarray]

  def outputs(self):
    return dict(self.in_float32), dict(self.in_float64)

  def gradient(self):
    return self.given_gradient

  def training_outputs(self):
    return self.in_training

  def add_to(self, profile: trace.Profile) -> None:
    """Does nothing, since no subprocess ran."""


class RecordedChild:
  """Replaces a `source_process.Child`, and runs each graph with the same inputs once a session.

  Args:
    directory: directory of results, shared by all workers of pytest-xdist.
    trust: limits of the graph and of its subprocess.
  """

  def __init__(self, directory: pathlib.Path, trust: source_policy.Trust = source_policy.Trust()):
    self._directory = directory
    self._trust = trust

  def run(
    self, module: pathlib.Path, batch: proof_inputs.Batch, signatures: Sequence[str], scalar: proof_inputs.Scalar
  ) -> Recorded:
    """Returns the results of a module's signatures like `source_process.Child.run`, and raises its errors."""
    source_graph.check(module / 'saved_model.pb', self._trust.graph)
    digest = hashlib.sha256(pickle.dumps((batch, list(signatures), scalar, self._trust)))
    for path in sorted(path for path in (module / 'saved_model.pb', *(module / 'variables').iterdir())):
      digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    path = self._directory / digest.hexdigest()
    with open(path.with_suffix('.lock'), 'w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not path.exists():
        with source_process.start(module, batch, signatures, scalar, self._trust) as run:
          recorded = Recorded(*run.outputs(), dict(run.gradient()), run.training_outputs())
          path.with_suffix('.new').write_bytes(pickle.dumps(recorded))
        path.with_suffix('.new').rename(path)
    return pickle.loads(path.read_bytes())
