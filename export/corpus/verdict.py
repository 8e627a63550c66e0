"""Checks the differences of a comparison against tolerances from the release's record."""

import math
from collections.abc import Mapping
from typing import Any

from export import record as record_lib

# Lines of text vary more than the random rows of the certificate, so the largest difference may be this many times
# larger.
_LINES = 4


def allowed(record: record_lib.Encoder, output: str, values: int) -> dict[str, float]:
  """Returns the tolerances for the differences of an output between source and export.

  Both sides run in float32, and each may differ from float64 by the certificate's tolerance. A corpus has more values
  than the certificate: the maximum of n normally distributed values grows with sqrt(log(n)).

  Args:
    record: record of the release.
    output: name of the output.
    values: number of differences.

  Returns:
    Tolerances by name: `rms` and `largest`.
  """
  check = record.certificate['outputs'][output]
  rms, largest = (
    2 * float(check['scale']) * float(check['float32']['allowed'][figure]) for figure in ('rms', 'largest')
  )
  before = max(2, int(check['values']))
  return {'rms': rms, 'largest': _LINES * largest * math.sqrt(math.log(max(values, before)) / math.log(before))}


def faults(results: Mapping[str, Any]) -> list[str]:
  """Returns the failures of a comparison in words; an empty list means parity.

  Args:
    results: summary as JSON, with the tolerances as `allowed` by output.
  """
  found = []
  if results['faults']:
    first = results['faults'][0]
    found.append(
      f'{results["not_compared"]} places not compared, the first at byte {first["offset"]} of {first["path"]}, which '
      f'{first["why"]}'
    )
  elif not results['lines']:
    found.append('no line was compared')
  if results['different']:
    first = results['unlike'][0]
    found.append(
      f'{results["different"]} of {results["lines"]} lines have wrong token ids or packing, the first at byte '
      f'{first["offset"]} of {first["path"]}'
    )
  for name, output in results['outputs'].items():
    most = results['allowed'][name]
    if output['not_finite']:
      found.append(f'{output["not_finite"]} values of {name} are not finite')
    if not (output['rms'] <= most['rms'] and output['largest'] <= most['largest']):
      worst = output['worst'][0]
      found.append(
        f'{name} differs by rms {output["rms"]:.2g}, largest {output["largest"]:.2g} (tolerances {most["rms"]:.2g} and '
        f'{most["largest"]:.2g}), worst at byte {worst["offset"]} of {worst["path"]}'
      )
  return found
