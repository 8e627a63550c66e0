"""What to release: the flags and the catalog's answers together, checked before any work is done."""

import dataclasses
import pathlib

from converters import errors
from export import catalog as catalog_lib

# Of the published contract of albert_en_preprocess.
PREPROCESSOR_VERSIONS = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class Request:
  """What to release.

  Attributes:
    release: the version that is asked for.
    source: a directory, a .tar.gz or a hub handle.
    albert_config: a config file for a source without one.
    export_root: the root of the release tree.
    mlm, sop: whether to include a head; None for what the source has.

  Raises:
    UsageError: the parts contradict each other.
  """
  release: catalog_lib.EncoderRelease
  source: str
  export_root: pathlib.Path
  albert_config: str | None = None
  mlm: bool | None = None
  sop: bool | None = None

  def __post_init__(self) -> None:
    companion = self.release.preprocessor
    if companion.version not in PREPROCESSOR_VERSIONS:
      raise errors.UsageError(
          f'preprocessor version {companion.version} in --preprocessor={companion.name}/{companion.version}: there are '
          f'versions {", ".join(map(str, PREPROCESSOR_VERSIONS))}')
    if companion.name == self.release.name:
      raise errors.UsageError(f'--model and --preprocessor are both {companion.name}: give them two names')
    if self.release.interface == 'list' and (self.mlm or self.sop):
      raise errors.UsageError('--mlm or --sop with the list interface: only --io=dict has heads')
