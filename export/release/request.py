"""What to release: the flags and the catalog's answers together, checked before any work is done."""

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
  """What to release.

  Attributes:
    release: the version that is asked for: of an encoder, or of a preprocessor on its own.
    source: a directory, a .tar.gz or a hub handle, in one of the formats of `converters.source`.
    export_root: the root of the release tree.
    reading: how the source is read.
    trust: how far it is trusted.
    mlm, sop: whether to include a head; None for what the source has.
    breaking: whether it may break what users of the version before rely on.
    report: the HTML file to write; None for none.
    sign_key: a file with the key to sign with; None for no signature.
    collection: what the models of the publisher are published together as.
    text: the model from text to vectors to publish with the encoder; None for none.

  Raises:
    UsageError: the parts contradict each other.
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

  def __post_init__(self) -> None:
    companion = self.preprocessor
    if companion.version not in spec.PREPROCESSOR_VERSIONS:
      raise errors.UsageError(
        f'preprocessor version {companion.version} in --preprocessor={companion.name}/{companion.version}: there are '
        f'versions {", ".join(map(str, spec.PREPROCESSOR_VERSIONS))}'
      )
    if self.encoder is None:
      return
    if companion.name == self.encoder.name:
      raise errors.UsageError(f'--model and --preprocessor are both {companion.name}: give them two names')
    if self.encoder.interface == 'list' and (self.mlm or self.sop):
      raise errors.UsageError('--mlm or --sop with the list interface: only --io=dict has heads')
    if self.text is not None and self.encoder.interface == 'list':
      raise errors.UsageError('--with_text with the list interface: only --io=dict takes what the preprocessor gives')
    if self.text is not None and companion.name == self.text.name:
      raise errors.UsageError(
        f'--preprocessor is {companion.name}, which is what --with_text publishes: give it another name'
      )

  @property
  def encoder(self) -> spec.EncoderRelease | None:
    """The encoder that is asked for; None for a preprocessor on its own."""
    return self.release if isinstance(self.release, spec.EncoderRelease) else None

  @property
  def preprocessor(self) -> spec.Release:
    """The encoder's companion, or what is asked for."""
    return self.release if self.encoder is None else self.encoder.preprocessor

  @property
  def releases(self) -> list[spec.Release]:
    """All that is to be published, in the order in which it is made."""
    return [release for release in (self.preprocessor, self.encoder, self.text) if release is not None]


def parts(request: Request, source: source_lib.Source) -> frozenset[weight_map.Part]:
  """Which pieces of an encoder to export: what the source has, less what the flags leave out.

  Raises:
    SourceError: it lacks one that is asked for, or has nothing to compare one with; or its longest sequence is shorter
      than what a
      model from text to vectors gives it.
  """
  assert request.encoder is not None
  positions = source.config.max_position_embeddings
  if request.text is not None and positions < spec.SEQ_LENGTH:
    raise errors.SourceError(
      f'max_position_embeddings={positions} in the config of {source.handle}, and its preprocessor gives sequences of '
      f'{spec.SEQ_LENGTH}: leave --with_text out'
    )
  wanted = {weight_map.Part.ENCODER}
  for part, flag in ((weight_map.Part.MLM, request.mlm), (weight_map.Part.SOP, request.sop)):
    if flag and part not in source.parts:
      raise errors.SourceError(
        f'no {part.value} weights in {source.handle}, but --{part.value} asks for them: leave it out'
      )
    if flag is not False and part in source.parts and request.encoder.interface == 'dict':
      if part not in source.provable:
        raise errors.SourceError(
          f'{part.value} weights, but no signature to compare them with, in {source.handle}: leave the head out with '
          f'--no{part.value}'
        )
      wanted.add(part)
  return frozenset(wanted)
