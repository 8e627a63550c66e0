"""Defines a release request: options and catalog entries together, checked before any work is done."""

import dataclasses
import os
import pathlib

from converters import errors
from converters import source as source_lib
from converters import weight_map
from export import spec
from export.source import policy as source_policy


@dataclasses.dataclass(frozen=True)
class Request:
  """A request for one release.

  Attributes:
    release: the requested version of an encoder, or of a preprocessor on its own.
    source: directory, .tar.gz or hub handle, in one of the formats of `converters.source`.
    export_root: root of the release tree.
    reading: options for reading the source.
    trust: options for running the source's graph.
    mlm, sop: whether to include a head; None includes it if the source has it.
    breaking: whether breaking changes are allowed.
    report: HTML file to write; None for no report.
    sign_key: file with the private key; None for no signature.
    collection: the collection of the publisher's models.
    text: the text model to publish with the encoder; None for no text model.
    keep_existing: whether a version that exists with the same bytes is kept, instead of refused.

  Raises:
    UsageError: the attributes contradict each other.
  """

  release: spec.Release
  source: str
  export_root: str | os.PathLike[str]
  reading: source_lib.Reading = source_lib.Reading()
  trust: source_policy.Trust = source_policy.Trust()
  mlm: bool | None = None
  sop: bool | None = None
  breaking: bool = False
  report: pathlib.Path | None = None
  sign_key: pathlib.Path | None = None
  collection: spec.Collection | None = None
  text: spec.TextRelease | None = None
  keep_existing: bool = False

  def __post_init__(self) -> None:
    companion = self.preprocessor
    if companion.version not in spec.PREPROCESSOR_VERSIONS:
      raise errors.UsageError(
        f'option preprocessor={companion.name}/{companion.version}: unknown version {companion.version}; give one of '
        f'{", ".join(map(str, spec.PREPROCESSOR_VERSIONS))}'
      )
    if self.encoder is None:
      return
    if companion.name == self.encoder.name:
      raise errors.UsageError(
        f'option model and option preprocessor: both are {companion.name}; give them different names'
      )
    if self.encoder.interface == 'list' and (self.mlm or self.sop):
      raise errors.UsageError(
        'option mlm or option sop: not available with the list interface; give option io=dict, which has heads'
      )
    if not self.reading.pooler and self.sop:
      raise errors.UsageError(
        'option pooler=False and option sop: the head reads the pooled output; leave one of the two out'
      )
    if not self.reading.pooler and self.encoder.interface == 'list':
      raise errors.UsageError('option pooler=False: not available with the list interface; give option io=dict')
    if self.text is not None and self.encoder.interface == 'list':
      raise errors.UsageError(
        'option with_text: not available with the list interface; give option io=dict, which takes the '
        'preprocessor\'s outputs'
      )
    if self.text is not None and companion.name == self.text.name:
      raise errors.UsageError(
        f'option preprocessor: {companion.name} is the name of the model of option with_text; give another name'
      )

  @property
  def encoder(self) -> spec.EncoderRelease | None:
    """The requested encoder; None for a preprocessor on its own."""
    return self.release if isinstance(self.release, spec.EncoderRelease) else None

  @property
  def preprocessor(self) -> spec.Release:
    """The encoder's companion, or the requested preprocessor."""
    return self.release if self.encoder is None else self.encoder.preprocessor

  @property
  def releases(self) -> list[spec.Release]:
    """All releases to publish, in the order in which they are made."""
    return [release for release in (self.preprocessor, self.encoder, self.text) if release is not None]


_FEWEST_POSITIONS = 3


def parts(request: Request, source: source_lib.Source) -> frozenset[weight_map.Part]:
  """Returns the parts of an encoder to export: those of the source, without those that the options leave out.

  Raises:
    SourceError: it lacks a requested part, has no signature to compare a part with, or has too few positions for text.
  """
  assert request.encoder is not None
  if source.config.max_position_embeddings < _FEWEST_POSITIONS:
    raise errors.SourceError(
      f'{source.handle}: {source.config.max_position_embeddings} positions, but a text needs {_FEWEST_POSITIONS} '
      '([CLS], a piece and [SEP]); give a model with more positions'
    )
  if request.encoder.interface == 'list' and not source.config.pooler:
    raise errors.SourceError(f'{source.handle}: no pooled output, which the list interface has; give option io=dict')
  wanted = {weight_map.Part.ENCODER}
  for part, asked in ((weight_map.Part.MLM, request.mlm), (weight_map.Part.SOP, request.sop)):
    if asked and part not in source.parts:
      raise errors.SourceError(
        f'{source.handle}: no {part.value} weights, which option {part.value} requires; leave the flag out'
      )
    if asked is not False and part in source.parts and request.encoder.interface == 'dict':
      if part not in source.provable:
        raise errors.SourceError(
          f'{source.handle}: no signature to compare the {part.value} weights with; leave the head out with '
          f'option {part.value}=False'
        )
      wanted.add(part)
  return frozenset(wanted)
