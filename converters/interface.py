"""The signature table: inputs and outputs of ALBERT, in TF1 Hub modules and in TF2 SavedModels.

A TF1 Hub module has a signature for the encoder, `tokens`, and one for each head. A TF2 SavedModel has the same calls:
the root and its subobjects `mlm` and `sop`. The call of a head takes and returns the encoder's tensors too.
"""

import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping

from converters import weight_map


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One input or output.

  Attributes:
    name: its name in TF2.
    tf1: its name in TF1.
    dtype: name of its dtype.
    axes: its shape in TF2, as words of which each has a size, and numbers.
    tf1_rank: its rank in TF1.
    part: the part whose call has it; all calls have those of the encoder.
  """

  name: str
  tf1: str
  dtype: str
  axes: str
  tf1_rank: int
  part: weight_map.Part

  def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Returns its shape in TF2.

    Args:
      sizes: of the words 'batch', 'seq', 'predictions', and of the letters of `AlbertConfig.dimensions`.
    """
    return tuple(int(axis) if axis.isdigit() else sizes[axis] for axis in self.axes.split())


# The order is that of the interface 'list'.
INPUTS = (
  Tensor('input_word_ids', 'input_ids', 'int32', 'batch seq', 2, weight_map.Part.ENCODER),
  Tensor('input_mask', 'input_mask', 'int32', 'batch seq', 2, weight_map.Part.ENCODER),
  Tensor('input_type_ids', 'segment_ids', 'int32', 'batch seq', 2, weight_map.Part.ENCODER),
  Tensor('masked_lm_positions', 'mlm_positions', 'int32', 'batch predictions', 2, weight_map.Part.MLM),
)
OUTPUTS = (
  Tensor('pooled_output', 'pooled_output', 'float32', 'batch H', 2, weight_map.Part.ENCODER),
  Tensor('sequence_output', 'sequence_output', 'float32', 'batch seq H', 3, weight_map.Part.ENCODER),
  # TF1 flattens the first two axes.
  Tensor('mlm_logits', 'mlm_logits', 'float32', 'batch predictions V', 2, weight_map.Part.MLM),
  Tensor('sop_log_probs', 'sop_log_probs', 'float32', 'batch 2', 2, weight_map.Part.SOP),
)


@dataclasses.dataclass(frozen=True)
class Signature:
  """A call of a model.

  Attributes:
    part: the encoder, or the head that is called.
    inputs: its inputs, those of the encoder first.
    outputs: its outputs, those of the encoder first.
  """

  part: weight_map.Part
  inputs: tuple[Tensor, ...]
  outputs: tuple[Tensor, ...]

  @property
  def head_outputs(self) -> tuple[str, ...]:
    """Names of the outputs that the encoder does not have."""
    return tuple(tensor.name for tensor in self.outputs if tensor.part is not weight_map.Part.ENCODER)


def name_of(part: weight_map.Part) -> str:
  """Returns the name of a part's TF1 signature."""
  return 'tokens' if part is weight_map.Part.ENCODER else part.value


def _of(table: Iterable[Tensor], part: weight_map.Part) -> tuple[Tensor, ...]:
  return tuple(tensor for tensor in table if tensor.part in (weight_map.Part.ENCODER, part))


SIGNATURES = {name_of(part): Signature(part, _of(INPUTS, part), _of(OUTPUTS, part)) for part in weight_map.Part}

# Names of the encoder's inputs and outputs, and of all outputs, in TF2.
ENCODER_INPUTS = tuple(tensor.name for tensor in SIGNATURES['tokens'].inputs)
ENCODER_OUTPUTS = tuple(tensor.name for tensor in SIGNATURES['tokens'].outputs)
OUTPUT_NAMES = tuple(tensor.name for tensor in OUTPUTS)
# The encoder's call that computes no padding, which is a subobject in TF2 and has the encoder's inputs and outputs.
PADDING_FREE = 'padding_free'
# The signatures of a TF2 SavedModel, with the calls that they serve.
SERVING = {'serving_default': 'tokens', 'serving_padding_free': PADDING_FREE}


def outputs(call: str, pooler: bool = True) -> tuple[str, ...]:
  """Returns the names of the outputs of 'tokens', 'padding_free', 'mlm' or 'sop', of a model with or without pooler."""
  tensors = SIGNATURES['tokens' if call == PADDING_FREE else call].outputs
  return tuple(tensor.name for tensor in tensors if pooler or tensor.name != 'pooled_output')


def served(pooler: bool = True) -> tuple[str, ...]:
  """Returns the names of the outputs of a signature in `SERVING`; `default` is the pooled output."""
  return (*(['default'] if pooler else []), *outputs('tokens', pooler))


def signatures(parts: Iterable[weight_map.Part]) -> list[str]:
  """Returns the signatures that cover the parts of a model, in a fixed order."""
  wanted = set(parts)
  return [name for name, signature in SIGNATURES.items() if signature.part in wanted]
