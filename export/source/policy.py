"""Defines the trust in a source whose graph is run."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Trust:
  """Options for running the graph of a source.

  Attributes:
    graph: whether operations that are not on the allow-list are run.
    memory_gib: largest address space of the subprocess, in GiB. TensorFlow reserves more than it uses: an
      ALBERT-xxlarge takes 6 GiB.
    cpu_seconds: largest processor time of the subprocess, in seconds over all threads.
  """

  graph: bool = False
  memory_gib: int = 16
  cpu_seconds: int = 3600
