"""Stands in for the run of a source's graph where the source has none: the reference once more, in float32.

It tells what rounding in float32 comes to with these weights, which is what the export is allowed twice of. It cannot tell what the
source's own code would compute: a source without a graph does not say.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from converters import config as config_lib
from converters import weight_map
from export import profile as profile_lib
from export.proof import expected as expected_lib
from export.proof import reference


class Run:
  """Has the verbs of `source_run.Run`."""

  def __init__(self, rounded: Callable[[], expected_lib.Expected], signatures: Sequence[str], config: config_lib.AlbertConfig,
               parts: frozenset[weight_map.Part]):
    """Args:
      rounded: waits for the reference in float32.
      signatures: those that a graph would have.
      config, parts: the model.
    """
    self._rounded = rounded
    self._signatures = signatures
    self._rows = {row.tf1: row for row in weight_map.rows(config, parts)}
    self._config = config

  def outputs(self) -> dict[str, np.ndarray]:
    """'tokens/pooled_output' and so on, and the layers as 'tokens/layer_0'."""
    return self._rounded().outputs(self._signatures)

  def gradient(self) -> Mapping[str, np.ndarray]:
    """The derivatives of the scalar by TF1 variable name, each worked out when it is asked for."""
    return _Derivatives(self._rounded().gradient, self._rows, self._config)

  def add_to(self, profile: profile_lib.Profile) -> None:
    """There was no other process."""


class _Derivatives(Mapping[str, np.ndarray]):

  def __init__(self, gradient: reference.Gradient, rows: Mapping[str, weight_map.Row], config: config_lib.AlbertConfig):
    self._gradient = gradient
    self._rows = rows
    self._config = config

  def __getitem__(self, name: str) -> np.ndarray:
    row = self._rows[name]
    pieces = self._gradient.pieces(row.name, weight_map.shape(row.shape, self._config))
    return np.concatenate([piece.astype(np.float32) for piece in pieces])

  def __iter__(self) -> Iterator[str]:
    return iter(self._rows)

  def __len__(self) -> int:
    return len(self._rows)
