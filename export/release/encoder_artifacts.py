"""The models of a release that hold weights: the encoder, and the one from text to vectors."""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

from converters import albert_config
from converters import build_encoder
from converters import source as source_lib
from converters import weight_map
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
  """An encoder with its heads.

  Attributes:
    parameters: how many numbers it and its heads hold.
    weights: what became of each source tensor, once it is saved.
    certificate: once it is proven.
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
    """`handle` is what the user called the source."""
    self.release = release
    self.live: Any = None
    self.weights: list[build_encoder.Weight] = []
    self.certificate: encoder_certificate.Certificate | None = None
    self._handle, self._source, self._parts = handle, source, parts
    self._examination, self._console = examination, console

  @property
  def config(self) -> albert_config.AlbertConfig:
    return self._source.config

  @property
  def parameters(self) -> int:
    return self.count(self._parts)

  def count(self, parts: Iterable[weight_map.Part]) -> int:
    """Number of parameters in some parts of it."""
    return weight_map.parameters(self._source.config, parts)

  def save(self, staged: pathlib.Path) -> dict[str, Any]:
    release, source = self.release, self._source
    path = staged / release.path
    with self._console.step('load the weights', total=len(weight_map.rows(source.config, self._parts))) as advance:
      albert = build_encoder.build(source, self._parts, progress=lambda name: advance(1))
    with self._console.step(f'save {release.path}'):
      # An asset keeps its name, and nothing else of where it came from.
      sp_model_file = staged / source.sp_model_name
      sp_model_file.write_bytes(source.sp_model)
      self.live, signatures = encoder_lib.exportable(albert, str(sp_model_file), release.interface)
      saved_model.write(self.live, signatures, path)
      serving_warmup.write(path, release.name, serving_warmup.of_encoder(source.config))
    self.weights = albert.weights
    return {
      'kind': 'encoder',
      'interface': release.interface,
      'heads': [p.value for p in weight_map.Part if p in self._parts and p is not weight_map.Part.ENCODER],
      'preprocessor': release.preprocessor.path,
      **self.facts(release, path, self._parts),
    }

  def facts(self, release: spec.Release, path: pathlib.Path, parts: frozenset[weight_map.Part]) -> dict[str, Any]:
    """What the record of a model says that was saved with some parts of this one."""
    source = self._source
    keys = checkpoint_keys.read(path)
    held = {row.name for row in weight_map.rows(source.config, parts)}
    return {
      'changes': release.changes[release.version],
      'config': dataclasses.asdict(source.config),
      'parameters': self.count([weight_map.Part.ENCODER]),
      # A path on this machine would tell nobody anything.
      'source': {
        'handle': self._handle if '://' in self._handle else None,
        'digest': source.digest,
        'format': source.format,
        'lacks': source_lib.lacks(source),
      },
      'certificate': None,
      'weights': [
        dataclasses.asdict(weight) | {'checkpoint_key': keys[weight.target]}
        for weight in self.weights
        if weight.source in held
      ],
    }

  def forget(self) -> None:
    self.live = None

  def prove(self, staged: pathlib.Path) -> dict[str, Any]:
    self.certificate = self._examination.certify(staged / self.release.path, self.release.interface, self._console.step)
    return self.certificate.as_json()

  def tell(self) -> None:
    assert self.certificate is not None
    heads = self.parameters - self.count([weight_map.Part.ENCODER])
    self._console.line(
      f'\n{self.parameters - heads:,} parameters in the encoder' + (f', {heads:,} in its heads' if heads else '')
    )
    self._console.certificate(self.certificate.as_json())


class Text:
  """From text to vectors: a preprocessor and an encoder that were saved before, in one model.

  Attributes:
    certificate: once it is proven.
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

  def save(self, staged: pathlib.Path) -> dict[str, Any]:
    release = self.release
    path = staged / release.path
    with self._console.step(f'save {release.path}'):
      self.live, signatures = text_encoder.exportable(
        self._preprocessor.live, self._encoder.live, self._encoder.config.has_dropout
      )
      saved_model.write(self.live, signatures, path)
      serving_warmup.write(path, release.name, serving_warmup.OF_SENTENCES)
    return {
      'kind': 'text',
      'heads': [],
      'encoder': self._encoder.release.path,
      'preprocessor': self._preprocessor.release.path,
      **self._encoder.facts(release, path, frozenset([weight_map.Part.ENCODER])),
    }

  def forget(self) -> None:
    self.live = None

  def prove(self, staged: pathlib.Path) -> dict[str, Any]:
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
    assert self.certificate is not None
    self._console.text_certificate(self.certificate)
