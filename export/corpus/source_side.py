"""Runs the source's graph on batches, in a sandboxed subprocess with resource limits.

Usage: python -m export.corpus.source_side DIRECTORY LIMITS
"""

import json
import pathlib
import sys
import time
from typing import Any
from typing import IO

from converters import interface
from export.corpus import child
from export.corpus import protocol
from export.source import graph as source_graph
from export.source import sandbox
from export.source import session as source_session


def run(directory: str, limits: str) -> None:
  """Answers batches from standard input until it ends.

  Args:
    directory: directory of the subprocess, with its parameters.
    limits: resource limits as JSON.
  """
  sandbox.die_with_parent()
  sandbox.Limits(**json.loads(limits)).apply()
  output = protocol.own_output()
  job = child.job(directory)
  module = pathlib.Path(job['model'])
  graph = source_graph.reduced(source_graph.check(module / 'saved_model.pb', job['trusted']), job['signatures'])
  with source_session.start(graph, module) as session:
    _answer(_calls(graph, session), job['signatures'], output)


def _answer(calls: dict[str, tuple[list[str], Any]], signatures: list[str], output: IO[bytes]) -> None:
  protocol.write(output, {}, {})
  while (message := protocol.read(sys.stdin.buffer, None)) is not None:
    inputs, figures = message
    signature = signatures[figures['signature']]
    start = time.monotonic()
    names, call = calls[signature]
    values = call(*(inputs[tensor.tf1] for tensor in interface.SIGNATURES[signature].inputs))
    arrays = dict(zip(names, values, strict=True))
    if 'mlm_logits' in arrays:  # the source's graph flattens them
      arrays['mlm_logits'] = arrays['mlm_logits'].reshape(*inputs['mlm_positions'].shape, -1)
    protocol.write(output, arrays, {'microseconds': int(1e6 * (time.monotonic() - start)), 'memory': child.memory()})


def _calls(graph: source_graph.Reduced, session: Any) -> dict[str, tuple[list[str], Any]]:
  """Returns the output names and a function of the inputs in the order of the table, by signature."""
  result = {}
  for signature, inputs in graph.inputs.items():
    outputs = {name: tensor for name, tensor in graph.outputs[signature].items() if not name.startswith('layer_')}
    feeds = [session.graph.get_tensor_by_name(inputs[t.tf1]) for t in interface.SIGNATURES[signature].inputs]
    fetches = [session.graph.get_tensor_by_name(tensor) for tensor in outputs.values()]
    result[signature] = list(outputs), session.make_callable(fetches, feeds)
  return result


if __name__ == '__main__':
  sandbox.main(run)
