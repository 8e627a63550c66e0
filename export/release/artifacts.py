"""What a release is made of: its models, one after the other, each of which can be saved and proven. Here the preprocessor.

Encoders are in export/release/encoder_artifacts.py: who makes none needs no tf-models, which takes a second to import.
"""

import pathlib
from typing import Any
from typing import Protocol

from converters import source as source_lib
from export import spec
from export.model import preprocessor as preprocessor_model
from export.model import saved_model
from export.model import serving_warmup
from export.ui import console as console_lib
from export.validation import preprocessor_certificate


class Piece(Protocol):
  """A model that is to be published.

  Attributes:
    release: which.
    live: the object that was saved, for pieces made of it; None before, and after `forget`.
    certificate: what the proof found, once there is one.
  """

  live: Any
  certificate: Any

  @property
  def release(self) -> spec.Release: ...

  def save(self, staged: pathlib.Path) -> dict[str, Any]:
    """Saves it below a staging directory.

    Returns:
      What its record will say, but for files, archive, card and libraries. `certificate` is None.
    """

  def forget(self) -> None:
    """Lets go of everything live: what is compared is what was written."""

  def prove(self, staged: pathlib.Path) -> dict[str, Any]:
    """Compares what was saved with what it should compute.

    Returns:
      The certificate, for its record.

    Raises:
      ParityError: it differs.
    """

  def tell(self) -> None:
    """Prints how it was proven."""


class Preprocessor:
  """A preprocessor."""

  def __init__(self, release: spec.Release, source: source_lib.Source, console: console_lib.Console):
    self.release = release
    self.live: Any = None
    self.certificate: dict[str, Any] = {}
    self._source = source
    self._console = console

  def save(self, staged: pathlib.Path) -> dict[str, Any]:
    """Saves it. Its facts say nothing of an encoder: encoders of four sizes share it."""
    release, source = self.release, self._source
    with self._console.step(f'save {release.path}'):
      self.live, signatures = preprocessor_model.exportable(source.sp_model, release.version)
      saved_model.write(self.live, signatures, staged / release.path)
      serving_warmup.write(staged / release.path, release.name, serving_warmup.OF_SENTENCES)
    return {
      'kind': 'preprocessor',
      'changes': release.changes[release.version],
      'vocab_size': source.config.vocab_size,
      'source': {'sp_model': {'name': source.sp_model_name, 'digest': source.sp_model_digest}},
      'certificate': None,
    }

  def forget(self) -> None:
    self.live = None

  def prove(self, staged: pathlib.Path) -> dict[str, Any]:
    with self._console.step('compare the tokens'):
      tokens = preprocessor_certificate.check(staged / self.release.path, self._source.sp_model, self.release.version)
    self.certificate = {'tokens': {'values': tokens, 'different': 0}}
    return self.certificate

  def tell(self) -> None:
    self._console.line(
      f'\nThe ids of awkward texts: {self.certificate["tokens"]["values"]:,} compared with the rule, none differs'
    )
