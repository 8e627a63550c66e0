"""Options for reading a source."""

import dataclasses

from converters import albert_config as albert_config_lib
from converters import tokenization as tokenization_lib
from converters.io import archive


@dataclasses.dataclass(frozen=True)
class Reading:
  """Options of `source.open_source`.

  Attributes:
    albert_config: path of a file in the authors' format that replaces the source's own config.
    sha256: SHA-256 in hex that an archive must have, also one that a host sends; of a directory, the digest in the
      record of a release that was made from it. None for no check.
    caps: limits for an archive.
    activation: replaces the activation that the config names.
    lower_case, keep_accents: the tokenizer's setting, where the source does not state it; None if not given.
    pooler: whether the model must have a pooler; if not, a pooler that it has is left out.
  """

  albert_config: str | None = None
  sha256: str | None = None
  caps: archive.Caps = archive.Caps()
  activation: albert_config_lib.Activation | None = None
  lower_case: bool | None = None
  keep_accents: bool | None = None
  pooler: bool = True

  def architecture(self, config: albert_config_lib.AlbertConfig) -> albert_config_lib.AlbertConfig:
    """Returns the config of a source, without pooler if none is wanted."""
    return config if self.pooler else dataclasses.replace(config, pooler=False)

  def tokenization(self, stated: dict[str, bool], where: str) -> tokenization_lib.Tokenization:
    """Combines the options with what a source states; see `tokenization.decide`."""
    return tokenization_lib.decide(stated, where, {'lower_case': self.lower_case, 'keep_accents': self.keep_accents})
