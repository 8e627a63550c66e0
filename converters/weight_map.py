"""THE table: which tensor of a format becomes which variable of tf-models' AlbertEncoder and its heads, and which of another format.

A canonical tensor has the layout of the TF1 checkpoint: kernels are [in, out]. Shapes are written with the letters of
`AlbertConfig.dimensions`. The TF1 names are those of google/albert_*/{1,2,3}, in Hub modules and in the authors'
checkpoints; the tf-models names are the variable names of AlbertEncoder, MaskedLM and ClassificationHead when their
Keras layers are named as `build_encoder.build` names them; the Hugging Face names are the parameters of Transformers'
AlbertForPreTraining.
"""

import dataclasses
import enum
import math
from collections.abc import Container
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import numpy as np

from converters import albert_config
from converters import errors


class Part(enum.Enum):
  """The piece of a model a tensor belongs to."""

  ENCODER = 'encoder'
  MLM = 'mlm'
  SOP = 'sop'

  @property
  def title(self) -> str:
    """What a head is called in full."""
    return {'mlm': 'masked language model', 'sop': 'sentence order'}.get(self.value, self.value)


class Transform(enum.Enum):
  """How a canonical tensor is laid out in another format."""

  SAME = 'same'
  SPLIT_HEADS = 'split heads'  # the same elements in the same order: only the shape says [heads, depth]
  TRANSPOSE = 'transpose'

  def apply(self, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns `value` as an array of `shape`; a view where the layout allows it."""
    return value.T if self is Transform.TRANSPOSE else value.reshape(shape)

  def invert(self, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Undoes `apply`: `value` back in the canonical `shape`."""
    return self.apply(value, shape)  # each of the three is its own inverse, given the shape to return to


class Format(enum.Enum):
  """A format that weights are stored in."""

  TF1 = 'TF1'
  HUGGING_FACE = 'Hugging Face'


@dataclasses.dataclass(frozen=True)
class Row:
  """One tensor.

  Attributes:
    part: the piece of the model that cannot do without it.
    name: its canonical name.
    tf1: the variable in a TF1 Hub module or checkpoint, which has the canonical layout.
    shape: its canonical shape, as letters and numbers.
    tf_models: the variable of the TF2 model.
    transform: from canonical to TF2.
    tf_models_shape: the TF2 variable's shape.
    hugging_face: the parameter of AlbertForPreTraining.
    hugging_face_transform: from canonical to that.
  """

  part: Part
  name: str
  tf1: str
  shape: str
  tf_models: str
  transform: Transform
  tf_models_shape: str
  hugging_face: str
  hugging_face_transform: Transform

  def stored_name(self, stored: Format) -> str:
    """What the tensor is called in a format."""
    return self.tf1 if stored is Format.TF1 else self.hugging_face

  def stored_shape(self, stored: Format, config: albert_config.AlbertConfig) -> tuple[int, ...]:
    """The tensor's shape in a format."""
    canonical = shape(self.shape, config)
    transposed = stored is Format.HUGGING_FACE and self.hugging_face_transform is Transform.TRANSPOSE
    return canonical[::-1] if transposed else canonical


def _same(part: Part, name: str, tf1: str, shape: str, tf_models: str, hugging_face: str) -> Row:
  return _row(part, name, tf1, shape, tf_models, Transform.SAME, shape, hugging_face)


def _heads(name: str, tf1: str, shape: str, tf_models: str, split: str, hugging_face: str) -> Row:
  return _row(Part.ENCODER, name, tf1, shape, tf_models, Transform.SPLIT_HEADS, split, hugging_face)


def _row(
  part: Part,
  name: str,
  tf1: str,
  shape: str,
  tf_models: str,
  transform: Transform,
  tf_models_shape: str,
  hugging_face: str,
) -> Row:
  """PyTorch's Linear keeps its kernel as [out, in]."""
  linear = Transform.TRANSPOSE if name.endswith('.kernel') else Transform.SAME
  return Row(part, name, tf1, shape, tf_models, transform, tf_models_shape, hugging_face, linear)


_BLOCK = 'bert/encoder/transformer/group_0/inner_group_0'
_LAYER = 'albert.encoder.albert_layer_groups.0.albert_layers.0'
_E, _M, _S = Part.ENCODER, Part.MLM, Part.SOP

# fmt: off
_ROWS: tuple[Row, ...] = (
    # Embeddings, their layer norm, and the projection to the hidden size.
    _same(_E, 'embeddings.word',       'bert/embeddings/word_embeddings',       'V E', 'word_embeddings/embeddings',
          'albert.embeddings.word_embeddings.weight'),
    _same(_E, 'embeddings.position',   'bert/embeddings/position_embeddings',   'P E', 'position_embedding/embeddings',
          'albert.embeddings.position_embeddings.weight'),
    _same(_E, 'embeddings.token_type', 'bert/embeddings/token_type_embeddings', 'T E', 'type_embeddings/embeddings',
          'albert.embeddings.token_type_embeddings.weight'),
    _same(_E, 'embeddings.norm.gamma', 'bert/embeddings/LayerNorm/gamma',       'E',   'embeddings/layer_norm/gamma',
          'albert.embeddings.LayerNorm.weight'),
    _same(_E, 'embeddings.norm.beta',  'bert/embeddings/LayerNorm/beta',        'E',   'embeddings/layer_norm/beta',
          'albert.embeddings.LayerNorm.bias'),
    _same(_E, 'embeddings.projection.kernel', 'bert/encoder/embedding_hidden_mapping_in/kernel', 'E H', 'embedding_projection/kernel',
          'albert.encoder.embedding_hidden_mapping_in.weight'),
    _same(_E, 'embeddings.projection.bias',   'bert/encoder/embedding_hidden_mapping_in/bias',   'H',   'embedding_projection/bias',
          'albert.encoder.embedding_hidden_mapping_in.bias'),
    # The transformer block that all layers share: attention.
    _heads('attention.query.kernel',  f'{_BLOCK}/attention_1/self/query/kernel',   'H H', 'transformer/self_attention/query/kernel', 'H N D',
          f'{_LAYER}.attention.query.weight'),
    _heads('attention.query.bias',    f'{_BLOCK}/attention_1/self/query/bias',     'H',   'transformer/self_attention/query/bias',   'N D',
          f'{_LAYER}.attention.query.bias'),
    _heads('attention.key.kernel',    f'{_BLOCK}/attention_1/self/key/kernel',     'H H', 'transformer/self_attention/key/kernel',   'H N D',
          f'{_LAYER}.attention.key.weight'),
    _heads('attention.key.bias',      f'{_BLOCK}/attention_1/self/key/bias',       'H',   'transformer/self_attention/key/bias',     'N D',
          f'{_LAYER}.attention.key.bias'),
    _heads('attention.value.kernel',  f'{_BLOCK}/attention_1/self/value/kernel',   'H H', 'transformer/self_attention/value/kernel', 'H N D',
          f'{_LAYER}.attention.value.weight'),
    _heads('attention.value.bias',    f'{_BLOCK}/attention_1/self/value/bias',     'H',   'transformer/self_attention/value/bias',   'N D',
          f'{_LAYER}.attention.value.bias'),
    _heads('attention.output.kernel', f'{_BLOCK}/attention_1/output/dense/kernel', 'H H', 'transformer/self_attention/attention_output/kernel', 'N D H',
          f'{_LAYER}.attention.dense.weight'),
    _same(_E, 'attention.output.bias', f'{_BLOCK}/attention_1/output/dense/bias', 'H', 'transformer/self_attention/attention_output/bias',
          f'{_LAYER}.attention.dense.bias'),
    _same(_E, 'attention.norm.gamma',  f'{_BLOCK}/LayerNorm/gamma',               'H', 'transformer/self_attention_layer_norm/gamma',
          f'{_LAYER}.attention.LayerNorm.weight'),
    _same(_E, 'attention.norm.beta',   f'{_BLOCK}/LayerNorm/beta',                'H', 'transformer/self_attention_layer_norm/beta',
          f'{_LAYER}.attention.LayerNorm.bias'),
    # ... and feed-forward.
    _same(_E, 'feed_forward.intermediate.kernel', f'{_BLOCK}/ffn_1/intermediate/dense/kernel',        'H I', 'transformer/intermediate/kernel',
          f'{_LAYER}.ffn.weight'),
    _same(_E, 'feed_forward.intermediate.bias',   f'{_BLOCK}/ffn_1/intermediate/dense/bias',          'I',   'transformer/intermediate/bias',
          f'{_LAYER}.ffn.bias'),
    _same(_E, 'feed_forward.output.kernel',       f'{_BLOCK}/ffn_1/intermediate/output/dense/kernel', 'I H', 'transformer/output/kernel',
          f'{_LAYER}.ffn_output.weight'),
    _same(_E, 'feed_forward.output.bias',         f'{_BLOCK}/ffn_1/intermediate/output/dense/bias',   'H',   'transformer/output/bias',
          f'{_LAYER}.ffn_output.bias'),
    _same(_E, 'feed_forward.norm.gamma',          f'{_BLOCK}/LayerNorm_1/gamma',                      'H',   'transformer/output_layer_norm/gamma',
          f'{_LAYER}.full_layer_layer_norm.weight'),
    _same(_E, 'feed_forward.norm.beta',           f'{_BLOCK}/LayerNorm_1/beta',                       'H',   'transformer/output_layer_norm/beta',
          f'{_LAYER}.full_layer_layer_norm.bias'),
    # Pooler.
    _same(_E, 'pooler.kernel', 'bert/pooler/dense/kernel', 'H H', 'pooler_transform/kernel',
          'albert.pooler.weight'),
    _same(_E, 'pooler.bias',   'bert/pooler/dense/bias',   'H',   'pooler_transform/bias',
          'albert.pooler.bias'),
    # Masked language model head.
    _same(_M, 'mlm.transform.kernel', 'cls/predictions/transform/dense/kernel',    'H E', 'cls/predictions/transform/dense/kernel',
          'predictions.dense.weight'),
    _same(_M, 'mlm.transform.bias',   'cls/predictions/transform/dense/bias',      'E',   'cls/predictions/transform/dense/bias',
          'predictions.dense.bias'),
    _same(_M, 'mlm.norm.gamma',       'cls/predictions/transform/LayerNorm/gamma', 'E',   'cls/predictions/transform/LayerNorm/gamma',
          'predictions.LayerNorm.weight'),
    _same(_M, 'mlm.norm.beta',        'cls/predictions/transform/LayerNorm/beta',  'E',   'cls/predictions/transform/LayerNorm/beta',
          'predictions.LayerNorm.bias'),
    _same(_M, 'mlm.output_bias',      'cls/predictions/output_bias',               'V',   'cls/predictions/output_bias/bias',
          'predictions.bias'),
    # Sentence order head.
    Row(_S, 'sop.kernel', 'cls/seq_relationship/output_weights', '2 H', 'cls/seq_relationship/logits/kernel', Transform.TRANSPOSE, 'H 2',
          'sop_classifier.classifier.weight', Transform.SAME),
    _same(_S, 'sop.bias', 'cls/seq_relationship/output_bias',    '2',   'cls/seq_relationship/logits/bias',
          'sop_classifier.classifier.bias'),
)
# fmt: on


def rows(config: albert_config.AlbertConfig, parts: Iterable[Part]) -> tuple[Row, ...]:
  """The rows of a model of `parts`. An embedding as wide as the hidden size is not projected, in either format."""
  wanted = set(parts)
  projected = config.embedding_size != config.hidden_size
  return tuple(r for r in _ROWS if r.part in wanted and (projected or not r.name.startswith('embeddings.projection.')))


def parameters(config: albert_config.AlbertConfig, parts: Iterable[Part]) -> int:
  """Number of parameters in the parts of a model."""
  return sum(math.prod(shape(row.shape, config)) for row in rows(config, parts))


def shape(symbols: str, config: albert_config.AlbertConfig) -> tuple[int, ...]:
  """'H N D' -> (1024, 16, 64) for ALBERT-large."""
  return tuple(int(s) if s.isdigit() else config.dimensions[s] for s in symbols.split())


def parts_in(names: Iterable[str], stored: Format = Format.TF1) -> set[Part]:
  """The parts of which at least one tensor is there, by the names of a format; the encoder always counts as there."""
  there = set(names)
  return {Part.ENCODER} | {row.part for row in _ROWS if row.stored_name(stored) in there}


def check_source(
  config: albert_config.AlbertConfig,
  parts: Iterable[Part],
  tensors: Mapping[str, tuple[tuple[int, ...], Any]],
  ignored: Container[str] = frozenset(),
  where: str = 'the checkpoint',
  stored: Format = Format.TF1,
  advice: str = 'the module is incomplete, or its albert_config.json belongs to another',
) -> None:
  """Checks that the tensors of a source are those of the table: none missing, none left over, none misshapen.

  Args:
    config: gives the shapes.
    parts: what the source claims to hold.
    tensors: shape and NumPy dtype (or what the format calls it) of every tensor, by its name in the format.
    ignored: names that need no target.
    where, advice: for the message.
    stored: the format.

  Raises:
    MappingError: listing every fault.
  """
  wanted = {row.stored_name(stored): row for row in rows(config, parts)}
  faults = [f'missing {name}' for name in wanted if name not in tensors]
  faults += [f'unexpected {name}' for name in tensors if name not in wanted and name not in ignored]
  for name, row in wanted.items():
    if name in tensors:
      actual, dtype = tensors[name]
      expected = row.stored_shape(stored, config)
      if tuple(actual) != expected:
        faults.append(f'{name} has shape {list(actual)}, not {list(expected)}')
      if dtype != np.float32:
        faults.append(f'{name} is {dtype if isinstance(dtype, str) else np.dtype(dtype).name}, not float32')
  _raise(faults, where, advice)


def check_model(
  config: albert_config.AlbertConfig,
  parts: Iterable[Part],
  created: Iterable[tuple[str, tuple[int, ...]]],
) -> None:
  """Checks that the model's variables are the table's targets: each made once, in its shape, and no other.

  Args:
    config: gives the shapes.
    parts: the parts that were built.
    created: name and shape of each variable, in the order of creation.

  Raises:
    MappingError: listing every fault.
  """
  wanted = {row.tf_models: row for row in rows(config, parts)}
  seen: set[str] = set()
  faults = []
  for name, actual in created:
    if name not in wanted:
      faults.append(f'variable {name} has no source tensor')
    elif name in seen:
      faults.append(f'variable {name} exists twice')
    elif tuple(actual) != shape(wanted[name].tf_models_shape, config):
      faults.append(f'{name} has shape {list(actual)}, not {list(shape(wanted[name].tf_models_shape, config))}')
    seen.add(name)
  faults += [f'no variable {name} for {row.name}' for name, row in wanted.items() if name not in seen]
  _raise(faults, 'tf-models\' AlbertEncoder', 'use the locked tf-models-official version')


# An ALBERT has 32 tensors, and an optimizer two more for each; what has thousands needs no full list.
_MOST_NAMED = 200


def _raise(faults: list[str], where: str, advice: str) -> None:
  if faults:
    named = '; '.join(fault[:400] for fault in faults[:_MOST_NAMED]) + (
      ' and so on' if len(faults) > _MOST_NAMED else ''
    )
    raise errors.MappingError(f'{len(faults)} of the weights do not fit in {where} ({named}): {advice}')
