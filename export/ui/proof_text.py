"""Says in one sentence what a certificate proves: the same words on the terminal, the card and the report page."""

from collections.abc import Mapping
from typing import Any


def worst(certificate: Mapping[str, Any], group: str, side: str) -> float:
  """The largest relative distance in float64.

  Args:
    certificate: of an encoder, as recorded.
    group: 'outputs' or 'gradient'.
    side: 'source' or 'reference'.
  """
  return max(check[side] for check in certificate[group].values() if check[side] is not None)


def sentence(certificate: Mapping[str, Any]) -> str:
  """What was proven, in plain English."""
  side, other = (
    ('source', 'the source')
    if certificate['against'] == 'graph'
    else ('reference', 'an independent evaluation of the source\'s weights')
  )
  return (
    f'Computed in float64, the published model and {other} agree to {worst(certificate, "outputs", side):.1e} in all outputs and '
    f'{worst(certificate, "gradient", side):.1e} in all gradients.'
  )
