"""Defines the models of a release, each of which is saved and then proven: the interface, and the preprocessor.

Encoders are in export/release/encoder_artifacts.py, because they import tf-models, which takes a second.
"""

import pathlib
from typing import Any
from typing import Protocol

from converters import source as source_lib
from export import record
from export import spec
from export.model import preprocessor as preprocessor_model
from export.model import saved_model
from export.model import serving_warmup
from export.release import preprocessor_check
from export.ui import console as console_lib
from export.validation import preprocessor_certificate


class Piece(Protocol):
  """A model of a release.

  Attributes:
    live: the saved object, for models that contain it; None before `save` and after `forget`.
    certificate: the certificate; unset before `prove`.
  """

  live: Any
  certificate: Any

  @property
  def release(self) -> spec.Release:
    """The release of the model."""

  def save(self, staged: pathlib.Path) -> record.Record:
    """Saves the model.

    Args:
      staged: staging directory; the model goes to its release path below it.

    Returns:
      Its record, with the fields of `record.PENDING` still empty.
    """

  def forget(self) -> None:
    """Drops the live object, so that only the saved files are compared."""

  def prove(self, staged: pathlib.Path) -> dict[str, Any]:
    """Compares the outputs of the saved model with the expected ones.

    Args:
      staged: staging directory.

    Returns:
      The certificate, for the record.

    Raises:
      ParityError: the outputs differ.
    """

  def tell(self) -> None:
    """Prints a summary of the certificate."""


class Preprocessor:
  """The preprocessor of a release."""

  def __init__(self, release: spec.Release, source: source_lib.Source, console: console_lib.Console):
    self.release = release
    self.live: Any = None
    self.certificate: dict[str, Any] = {}
    self._source = source
    self._console = console
    self.seq_length = preprocessor_check.seq_length(source.config)

  def save(self, staged: pathlib.Path) -> record.Preprocessor:
    """Saves the preprocessor; its record names no encoder, because encoders of four sizes share it."""
    release, source = self.release, self._source
    with self._console.step(f'save {release.path}'):
      self.live, signatures = preprocessor_model.exportable(
        source.sp_model, release.version, source.tokenization, self.seq_length
      )
      saved_model.write(self.live, signatures, staged / release.path)
      serving_warmup.write(staged / release.path, release.name, serving_warmup.OF_SENTENCES)
    return record.Preprocessor(
      release=release.path,
      changes=release.changes[release.version],
      vocab_size=source.config.vocab_size,
      seq_length=self.seq_length,
      tokenization=record.Tokenization(**source.tokenization.as_json()),
      source=record.PreprocessorSource(record.SpModel(source.sp_model_name, source.sp_model_digest)),
      **record.PENDING,
    )

  def forget(self) -> None:
    """Drops the live object."""
    self.live = None

  def prove(self, staged: pathlib.Path) -> dict[str, Any]:
    """Compares the token ids with the rule of the version."""
    with self._console.step('compare the tokens'):
      tokens = preprocessor_certificate.check(
        staged / self.release.path,
        self._source.sp_model,
        self.release.version,
        self._source.tokenization,
        self.seq_length,
      )
    self.certificate = {'tokens': {'values': tokens, 'different': 0}}
    return self.certificate

  def tell(self) -> None:
    """Prints the number of compared token ids."""
    self._console.line(
      f'\nToken ids of edge-case texts: {self.certificate["tokens"]["values"]:,} compared with the rule, 0 differ'
    )
