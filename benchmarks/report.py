"""Writes the table and the plots from results.json alone.

python -m benchmarks.report --output=benchmarks/results
"""

import pathlib

from absl import flags

from benchmarks import page
from benchmarks import results as results_lib
from converters import cli

_OUTPUT = flags.DEFINE_string(
  'output', 'benchmarks/results', 'Directory of results.json, and for the table and the plots.'
)


def main() -> None:
  """Writes the page and the plots.

  Raises:
    ResultsError: results.json is missing or invalid, or matplotlib is missing.
  """
  output = pathlib.Path(_OUTPUT.value)
  page.write(results_lib.Results.read(output / results_lib.NAME), output)
  print(f'wrote {output / page.NAME}')


if __name__ == '__main__':
  cli.run(main)
