"""Whether what was found is what may be: the record of a release says how far source and export may be apart."""

import math
from collections.abc import Mapping
from typing import Any

# Lines of text are less alike than the random rows of the certificate: in one of them, everything may be so much
# larger.
_LINES = 4


def allowed(record: Mapping[str, Any], output: str, values: int) -> dict[str, float]:
  """How far source and export may be apart in an output.

  Both sides run in float32, and each may be as far from float64 as the certificate allows the artifact to be. The
  largest of all
  differences is of so many more values here: of normally distributed values, it grows with the root of the logarithm of
  their number.

  Args:
    record: of the release.
    output: its name.
    values: how many differences there are.

  Returns:
    `rms` and `largest`.
  """
  check = record['certificate']['outputs'][output]
  rms, largest = (
    2 * float(check['scale']) * float(check['float32']['allowed'][figure]) for figure in ('rms', 'largest')
  )
  before = max(2, int(check['values']))
  return {'rms': rms, 'largest': _LINES * largest * math.sqrt(math.log(max(values, before)) / math.log(before))}


def faults(results: Mapping[str, Any]) -> list[str]:
  """What is wrong, for people; nothing if all is right.

  Args:
    results: as `run` makes them: a summary, and `allowed` by output.
  """
  found = []
  if results['faults']:
    first = results['faults'][0]
    found.append(
      f'{results["not_compared"]} places not compared, the first at byte {first["offset"]} of {first["path"]}, which {first["why"]}'
    )
  elif not results['lines']:
    found.append('no line was compared')
  if results['different']:
    first = results['unlike'][0]
    found.append(
      f'{results["different"]} of {results["lines"]} lines have other ids than they should, the first at byte {first["offset"]} of {first["path"]}'
    )
  for name, output in results['outputs'].items():
    most = results['allowed'][name]
    if output['not_finite']:
      found.append(f'{output["not_finite"]} values of {name} are no numbers')
    if not (output['rms'] <= most['rms'] and output['largest'] <= most['largest']):
      worst = output['worst'][0]
      found.append(
        f'{name} is {output["rms"]:.2g} (at most {output["largest"]:.2g}) from the source\'s, more than {most["rms"]:.2g} '
        f'(at most {most["largest"]:.2g}), worst at byte {worst["offset"]} of {worst["path"]}'
      )
  return found
