"""Saves and proves the models of a release that have weights: the encoder, and the text model."""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

from converters import albert_config
from converters import build_encoder
from converters import source as source_lib
from converters import weight_map
from converters.readers import saved_model as saved_model_reader
from export import record
from export import spec
from export.graphs import checkpoint_keys
from export.model import encoder as encoder_lib
from export.model import saved_model
from export.model import serving_warmup
from export.model import text_encoder
from export.release import artifacts
from export.ui import console as console_lib
from export.validation import encoder_certificate
from export.validation import text_certificate


class Encoder:
  """The encoder of a release, with its heads.

  Attributes:
    weights: target and digest of each source tensor; empty before `save`.
    certificate: the certificate; None before `prove`.
  """

  def __init__(
    self,
    release: spec.EncoderRelease,
    handle: str,
    source: source_lib.Source,
    parts: frozenset[weight_map.Part],
    examination: encoder_certificate.Examination,
    console: console_lib.Console,
  ):
    """Creates the encoder; `handle` is the source as the user named it."""
    self.release = release
    self.live: Any = None
    self.weights: list[build_encoder.Weight] = []
    self.certificate: encoder_certificate.Certificate | None = None
    self._handle, self._source, self._parts = handle, source, parts
    self._examination, self._console = examination, console

  @property
  def config(self) -> albert_config.AlbertConfig:
    """The config of the source."""
    return self._source.config

  @property
  def parameters(self) -> int:
    """Number of parameters, heads included."""
    return self.count(self._parts)

  def count(self, parts: Iterable[weight_map.Part]) -> int:
    """Returns the number of parameters in `parts`."""
    return weight_map.parameters(self._source.config, parts)

  def save(self, staged: pathlib.Path) -> record.Encoder:
    """Builds the encoder from the source's weights and saves it."""
    release, source = self.release, self._source
    path = staged / release.path
    with self._console.step('load the weights', total=len(weight_map.rows(source.config, self._parts))) as advance:
      albert = build_encoder.build(source, self._parts, progress=lambda name: advance(1))
    with self._console.step(f'save {release.path}'):
      # The SavedModel keeps the file name of an asset only, so a copy in `staged` serves.
      sp_model_file = staged / source.sp_model_name
      sp_model_file.write_bytes(source.sp_model)
      config_file = staged / saved_model_reader.CONFIG
      setting = source.tokenization
      config_text = albert_config.authors_text(source.config, setting.lower_case, setting.keep_accents)
      config_file.write_text(config_text, encoding='utf-8')
      self.live, signatures = encoder_lib.exportable(albert, str(sp_model_file), release.interface, str(config_file))
      saved_model.write(self.live, signatures, path)
      serving_warmup.write(path, release.name, serving_warmup.of_encoder(source.config, release.interface == 'dict'))
    self.weights = albert.weights
    return record.Encoder(
      interface=release.interface,
      padding_free=release.interface == 'dict',
      heads=[p.value for p in weight_map.Part if p in self._parts and p is not weight_map.Part.ENCODER],
      preprocessor=release.preprocessor.path,
      **self.fields(release, path, self._parts),
    )

  def fields(self, release: spec.Release, path: pathlib.Path, parts: frozenset[weight_map.Part]) -> dict[str, Any]:
    """Returns fields of the record of a saved model that has some parts of this encoder.

    Args:
      release: the release of the saved model.
      path: directory of the SavedModel.
      parts: the parts in it.
    """
    source = self._source
    keys = checkpoint_keys.read(path)
    held = {row.name for row in weight_map.rows(source.config, parts)}
    return {
      'release': release.path,
      'changes': release.changes[release.version],
      'config': source.config.as_json(),
      'parameters': self.count([weight_map.Part.ENCODER]),
      'source': record.Source(
        handle=self._handle if '://' in self._handle else None,
        digest=source.digest,
        format=source.format,
        lacks=source_lib.lacks(source),
        notes=source_lib.notes(source),
      ),
      'tokenization': record.Tokenization(**source.tokenization.as_json()),
      'weights': [
        record.Weight(**dataclasses.asdict(weight), checkpoint_key=keys[weight.target])
        for weight in self.weights
        if weight.source in held
      ],
      **record.PENDING,
    }

  def forget(self) -> None:
    """Drops the live object."""
    self.live = None

  def prove(self, staged: pathlib.Path) -> dict[str, Any]:
    """Compares the saved encoder with its source."""
    preprocessor = staged / self.release.preprocessor.path
    self.certificate = self._examination.certify(
      staged / self.release.path,
      self.release.interface,
      self._console.step,
      preprocessor if preprocessor.exists() else None,
    )
    return self.certificate.as_json()

  def tell(self) -> None:
    """Prints the number of parameters and the certificate."""
    assert self.certificate is not None
    heads = self.parameters - self.count([weight_map.Part.ENCODER])
    self._console.line(
      f'\n{self.parameters - heads:,} parameters in the encoder' + (f', {heads:,} in its heads' if heads else '')
    )
    self._console.certificate(self.certificate.as_json())


class Text:
  """The text model of a release: its saved preprocessor and encoder in one model.

  Attributes:
    certificate: the certificate; None before `prove`.
  """

  def __init__(
    self,
    release: spec.TextRelease,
    preprocessor: artifacts.Preprocessor,
    encoder: Encoder,
    console: console_lib.Console,
  ):
    self.release = release
    self.live: Any = None
    self.certificate: text_certificate.Certificate | None = None
    self._preprocessor, self._encoder, self._console = preprocessor, encoder, console

  def save(self, staged: pathlib.Path) -> record.Text:
    """Saves the preprocessor and the encoder as one model."""
    release = self.release
    path = staged / release.path
    with self._console.step(f'save {release.path}'):
      self.live, signatures = text_encoder.exportable(
        self._preprocessor.live, self._encoder.live, self._encoder.config.has_dropout
      )
      saved_model.write(self.live, signatures, path)
      serving_warmup.write(path, release.name, serving_warmup.OF_SENTENCES)
    return record.Text(
      heads=[],
      encoder=self._encoder.release.path,
      preprocessor=self._preprocessor.release.path,
      seq_length=self._preprocessor.seq_length,
      **self._encoder.fields(release, path, frozenset([weight_map.Part.ENCODER])),
    )

  def forget(self) -> None:
    """Drops the live object."""
    self.live = None

  def prove(self, staged: pathlib.Path) -> dict[str, Any]:
    """Compares the saved model with its preprocessor and encoder."""
    with self._console.step('compare text to vectors'):
      self.certificate = text_certificate.check(
        staged / self.release.path,
        staged / self._preprocessor.release.path,
        staged / self._encoder.release.path,
        self._preprocessor.release.version,
        self._encoder.config,
      )
    return self.certificate.as_json()

  def tell(self) -> None:
    """Prints the certificate."""
    assert self.certificate is not None
    self._console.text_certificate(self.certificate)
