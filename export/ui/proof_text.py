"""States the result of a certificate in one sentence, for the terminal, the card and the report page."""

from collections.abc import Mapping
from typing import Any


def worst(certificate: Mapping[str, Any], group: str, side: str) -> float:
  """Returns the largest relative distance in float64.

  Args:
    certificate: certificate of an encoder, as in a release record.
    group: 'outputs' or 'gradient'.
    side: 'source' or 'reference'.
  """
  return max(check[side] for check in certificate[group].values() if check[side] is not None)


def sentence(certificate: Mapping[str, Any]) -> str:
  """Returns the result of an encoder's certificate as a sentence."""
  side, other = (
    ('source', 'the source')
    if certificate['against'] == 'graph'
    else ('reference', 'an independent evaluation of the source\'s weights')
  )
  return (
    f'Computed in float64, the published model and {other} agree to {worst(certificate, "outputs", side):.1e} in all '
    f'outputs and {worst(certificate, "gradient", side):.1e} in all gradients.'
  )
