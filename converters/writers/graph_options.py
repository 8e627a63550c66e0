"""Options of a graph in another format."""

import dataclasses

from converters import errors
from converters import source as source_lib
from converters import weight_map

_LARGEST = (1 << 31) - (1 << 20)  # bytes of weights: protocol buffers and flat buffers have less than 2 GiB


@dataclasses.dataclass(frozen=True)
class Options:
  """The outputs of a graph, and its form.

  Attributes:
    layers: whether the output of every layer is an output.
    mlm: whether the graph has the masked language model head.
    sop: whether the graph has the sentence order head.
    padding_free: whether dense layers and norms compute only positions that are not padding.
  """

  layers: bool = False
  mlm: bool = False
  sop: bool = False
  padding_free: bool = True

  @property
  def parts(self) -> frozenset[weight_map.Part]:
    """The parts of the model that the graph has."""
    heads = {weight_map.Part.MLM: self.mlm, weight_map.Part.SOP: self.sop}
    return frozenset({weight_map.Part.ENCODER} | {part for part, wanted in heads.items() if wanted})

  def check(self, source: source_lib.Source) -> None:
    """Checks that a source has the heads, and fits into one file.

    Raises:
      SourceError: it lacks the pooler or a head, or is too large.
    """
    if not source.config.pooler:
      raise errors.SourceError(f'{source.handle}: no pooler, whose output the file has; give option to=huggingface')
    for part in weight_map.Part:
      if part in self.parts - source.parts:
        raise errors.SourceError(f'{source.handle}: no {part.title} head; leave option with_{part.value} out')
    size = 4 * weight_map.parameters(source.config, self.parts)
    if size > _LARGEST:
      raise errors.SourceError(
        f'{source.handle}: {size} bytes of weights, but a file has less than 2 GiB; give another option to'
      )

  def left_out(self, source: source_lib.Source) -> list[str]:
    """Returns the heads of a source that the graph lacks, for people."""
    return [f'the {part.title} head' for part in weight_map.Part if part in source.parts - self.parts]
