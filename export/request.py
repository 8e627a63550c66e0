"""What to release: the flags and the catalog's answers together, checked before any work is done."""

import dataclasses
import os
import pathlib

from converters import errors
from converters import source as source_lib
from converters import weight_map
from export import catalog as catalog_lib
from export import trust as trust_lib


@dataclasses.dataclass(frozen=True)
class Request:
  """What to release.

  Attributes:
    release: the version that is asked for.
    source: a directory, a .tar.gz or a hub handle, in one of the formats of `converters.source`.
    export_root: the root of the release tree.
    reading: how the source is read.
    trust: how far it is trusted.
    mlm, sop: whether to include a head; None for what the source has.
    breaking: whether it may break what users of the version before rely on.
    report: the HTML file to write; None for none.
    sign_key: a file with the key to sign with; None for no signature.
    collection: what the models of the publisher are published together as.

  Raises:
    UsageError: the parts contradict each other.
  """
  release: catalog_lib.EncoderRelease
  source: str
  export_root: str | os.PathLike[str]
  reading: source_lib.Reading = source_lib.Reading()
  trust: trust_lib.Trust = trust_lib.Trust()
  mlm: bool | None = None
  sop: bool | None = None
  breaking: bool = False
  report: pathlib.Path | None = None
  sign_key: pathlib.Path | None = None
  collection: catalog_lib.Collection | None = None

  def __post_init__(self) -> None:
    companion = self.release.preprocessor
    if companion.version not in catalog_lib.PREPROCESSOR_VERSIONS:
      raise errors.UsageError(
          f'preprocessor version {companion.version} in --preprocessor={companion.name}/{companion.version}: there are '
          f'versions {", ".join(map(str, catalog_lib.PREPROCESSOR_VERSIONS))}')
    if companion.name == self.release.name:
      raise errors.UsageError(f'--model and --preprocessor are both {companion.name}: give them two names')
    if self.release.interface == 'list' and (self.mlm or self.sop):
      raise errors.UsageError('--mlm or --sop with the list interface: only --io=dict has heads')


def parts(request: Request, source: source_lib.Source) -> frozenset[weight_map.Part]:
  """Which pieces to export: what the source has, less what the flags leave out.

  Raises:
    SourceError: it lacks one that is asked for, or has nothing to compare one with.
  """
  wanted = {weight_map.Part.ENCODER}
  for part, flag in ((weight_map.Part.MLM, request.mlm), (weight_map.Part.SOP, request.sop)):
    if flag and part not in source.parts:
      raise errors.SourceError(f'no {part.value} weights in {source.handle}, but --{part.value} asks for them: leave it out')
    if flag is not False and part in source.parts and request.release.interface == 'dict':
      if part not in source.provable:
        raise errors.SourceError(
            f'{part.value} weights, but no signature to compare them with, in {source.handle}: leave the head out with '
            f'--no{part.value}')
      wanted.add(part)
  return frozenset(wanted)
