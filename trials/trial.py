"""One trial of the parity proof: a module is written, converted, and accepted or refused."""

import contextlib
import dataclasses
import io
import pathlib
import re
import time
from typing import Any

from converters import errors
from converters import source as source_lib
from converters.io import temp_dirs
from export.demo import tf1_module
from export.demo import vocabulary
from export.release import catalog as catalog_lib
from export.release import encoder_artifacts
from export.source import process as source_process
from export.ui import console as console_lib
from export.validation import encoder_certificate
from trials import wrong_conversions

_NAME = 'albert_en_trial'


@dataclasses.dataclass(frozen=True)
class Trial:
  """One conversion and its proof.

  Attributes:
    regime, seed: weights of the module.
    wrong_conversion: key of `WRONG_CONVERSIONS`; None for a right conversion.
    refused_by: class of the error that refused the conversion; None if it was accepted.
    message: message of that error.
    certificate: the encoder's certificate; None if it was refused.
    seconds: wall time of conversion and proof.
  """

  regime: str
  seed: int
  wrong_conversion: str | None
  refused_by: str | None
  message: str | None
  certificate: dict[str, Any] | None
  seconds: float

  @property
  def distance(self) -> float | None:
    """Largest relative distance in float64 that the refusal names; None without one."""
    found = re.findall(r'is ([0-9.]+e[+-][0-9]+|nan|inf) from [^;]*? in float64', self.message or '')
    return max(map(float, found), default=None)

  @property
  def accepted(self) -> bool:
    """Whether the proof accepted the conversion."""
    return self.refused_by is None

  @property
  def failed(self) -> bool:
    """Whether a right conversion was refused, or a wrong one accepted."""
    return self.accepted != (self.wrong_conversion is None)


class Modules:
  """Writes modules of one size, all with one vocabulary."""

  def __init__(self, size: str):
    self._size: dict[str, Any] = dict(tf1_module.SIZES[size])
    lines = vocabulary.CORPUS.read_text(encoding='utf-8').splitlines()
    self._sp_model = vocabulary.train(lines, self._size['vocab_size'])

  def write(self, path: pathlib.Path, regime: str, seed: int, dropout: float = 0.0) -> None:
    """Writes a module.

    Args:
      path: directory to make.
      regime: key of `weight_values.REGIMES`.
      seed: seed of the weights.
      dropout: both dropout rates.
    """
    spec = tf1_module.Spec(**self._size, seed=seed, values=regime, hidden_dropout=dropout, attention_dropout=dropout)
    tf1_module.write(path, spec, self._sp_model, vocabulary.as_text(self._sp_model))


def run(
  module: pathlib.Path,
  regime: str,
  seed: int,
  wrong_conversion: str | None = None,
  child: source_process.Child | None = None,
) -> Trial:
  """Converts a module in this process, into a temporary directory, and compares the encoder with its source.

  Args:
    module: directory of the module.
    regime: regime of the module's weights.
    seed: seed of the module's weights.
    wrong_conversion: key of `WRONG_CONVERSIONS`; None for a right conversion.
    child: subprocess for the module's graph; None to start one.

  Raises:
    Exception: any other error than an AlbertHubError. Such an error is a bug, and not a refusal.
  """
  release = catalog_lib.Catalog().encoder(_NAME, 2, preprocessor=f'{_NAME}_preprocess/4')
  refusal: errors.AlbertHubError | None = None
  certificate = None
  start = time.monotonic()
  with contextlib.ExitStack() as stack:
    directory = stack.enter_context(temp_dirs.directory('albert_trial_'))
    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
    if wrong_conversion is not None:
      stack.enter_context(wrong_conversions.WRONG_CONVERSIONS[wrong_conversion]())
    try:
      source = stack.enter_context(source_lib.open_source(str(module)))
      examination = stack.enter_context(encoder_certificate.examine(source, source.parts, child=child))
      encoder = encoder_artifacts.Encoder(
        release, str(module), source, source.parts, examination, console_lib.Console()
      )
      encoder.save(directory)
      encoder.forget()
      certificate = encoder.prove(directory)
    except errors.AlbertHubError as e:
      refusal = e
  refused_by, message = (type(refusal).__name__, str(refusal)) if refusal is not None else (None, None)
  return Trial(regime, seed, wrong_conversion, refused_by, message, certificate, round(time.monotonic() - start, 1))
