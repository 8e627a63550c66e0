"""How far a source is trusted, when its graph is run."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Trust:
  """How far a source is trusted.

  Attributes:
    graph: whether operations off the allow-list are run too.
    memory_gib: address space of the process that runs it. TensorFlow reserves more than it uses: an ALBERT-xxlarge
      takes 6.
    cpu_seconds: its processor time, over all threads.
  """

  graph: bool = False
  memory_gib: int = 16
  cpu_seconds: int = 3600
