"""The base class of sources that have weights and no graph to run."""

import pathlib

from converters import weight_map
from converters.io import digest


class Files(digest.OfFiles):
  """A `source.Source` without a graph, whose export is compared with the float64 reference alone."""

  graph: pathlib.Path | None = None
  parts: frozenset[weight_map.Part]

  @property
  def provable(self) -> frozenset[weight_map.Part]:
    """All parts: the reference computes each."""
    return self.parts
