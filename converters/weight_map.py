"""The weight map: the one table of tensors, with their names and layouts in every format.

A canonical tensor has the layout of the TF1 checkpoint: kernels are [in, out]. Shapes are written with the letters of
`AlbertConfig.dimensions`. The TF1 names are those of google/albert_*/{1,2,3}, in Hub modules and in the authors'
checkpoints; the tf-models names are the variable names of AlbertEncoder, MaskedLM and ClassificationHead when their
Keras layers are named as `build_encoder.build` names them; the Hugging Face names are the parameters of Transformers'
AlbertForPreTraining.
"""

import dataclasses
import enum
import functools
import itertools
import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import numpy as np

from converters import albert_config
from converters import errors


class Part(enum.Enum):
  """The part of a model that a tensor belongs to."""

  ENCODER = 'encoder'
  MLM = 'mlm'
  SOP = 'sop'

  @property
  def title(self) -> str:
    """Full name of a head."""
    return {'mlm': 'masked language model', 'sop': 'sentence order'}.get(self.value, self.value)


class Transform(enum.Enum):
  """Layout of a canonical tensor in another format."""

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
  TF_MODELS = 'tf-models'


@dataclasses.dataclass(frozen=True)
class Row:
  """One tensor.

  Attributes:
    part: the part of the model that needs it.
    name: its canonical name.
    tf1: the variable in a TF1 Hub module or checkpoint, which has the canonical layout.
    shape: its canonical shape, as letters and numbers.
    tf_models: the variable of the TF2 model.
    transform: from canonical to TF2.
    tf_models_shape: the TF2 variable's shape.
    hugging_face: the parameter of AlbertForPreTraining.
    hugging_face_transform: from canonical to Hugging Face.
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
    """Returns the tensor's name in a format."""
    return {Format.TF1: self.tf1, Format.HUGGING_FACE: self.hugging_face, Format.TF_MODELS: self.tf_models}[stored]

  def stored_shape(self, stored: Format, config: albert_config.AlbertConfig) -> tuple[int, ...]:
    """Returns the tensor's shape in a format."""
    if stored is Format.TF_MODELS:
      return shape(self.tf_models_shape, config)
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
  """Makes a row. PyTorch's Linear stores its kernel as [out, in]."""
  linear = Transform.TRANSPOSE if name.endswith('.kernel') else Transform.SAME
  return Row(part, name, tf1, shape, tf_models, transform, tf_models_shape, hugging_face, linear)


_E, _M, _S = Part.ENCODER, Part.MLM, Part.SOP

# Two lines a tensor: its names in the formats and its shapes.
# fmt: off
_EMBEDDINGS: tuple[Row, ...] = (
  _same(_E, 'embeddings.word', 'bert/embeddings/word_embeddings', 'V E',
        'word_embeddings/embeddings', 'albert.embeddings.word_embeddings.weight'),
  _same(_E, 'embeddings.position', 'bert/embeddings/position_embeddings', 'P E',
        'position_embedding/embeddings', 'albert.embeddings.position_embeddings.weight'),
  _same(_E, 'embeddings.token_type', 'bert/embeddings/token_type_embeddings', 'T E',
        'type_embeddings/embeddings', 'albert.embeddings.token_type_embeddings.weight'),
  _same(_E, 'embeddings.norm.gamma', 'bert/embeddings/LayerNorm/gamma', 'E',
        'embeddings/layer_norm/gamma', 'albert.embeddings.LayerNorm.weight'),
  _same(_E, 'embeddings.norm.beta', 'bert/embeddings/LayerNorm/beta', 'E',
        'embeddings/layer_norm/beta', 'albert.embeddings.LayerNorm.bias'),
  _same(_E, 'embeddings.projection.kernel', 'bert/encoder/embedding_hidden_mapping_in/kernel', 'E H',
        'embedding_projection/kernel', 'albert.encoder.embedding_hidden_mapping_in.weight'),
  _same(_E, 'embeddings.projection.bias', 'bert/encoder/embedding_hidden_mapping_in/bias', 'H',
        'embedding_projection/bias', 'albert.encoder.embedding_hidden_mapping_in.bias'),
)


def _block(group: int, layer: int) -> tuple[Row, ...]:
  """Returns the rows of one transformer block: all layers share it, unless a model has several groups."""
  tf1 = f'bert/encoder/transformer/group_{group}/inner_group_{layer}'
  hf = f'albert.encoder.albert_layer_groups.{group}.albert_layers.{layer}'
  name = '' if group == layer == 0 else f'group_{group}.layer_{layer}.'
  block = block_name(group, layer)
  return (
    _heads(f'{name}attention.query.kernel', f'{tf1}/attention_1/self/query/kernel', 'H H',
           f'{block}/self_attention/query/kernel', 'H N D', f'{hf}.attention.query.weight'),
    _heads(f'{name}attention.query.bias', f'{tf1}/attention_1/self/query/bias', 'H',
           f'{block}/self_attention/query/bias', 'N D', f'{hf}.attention.query.bias'),
    _heads(f'{name}attention.key.kernel', f'{tf1}/attention_1/self/key/kernel', 'H H',
           f'{block}/self_attention/key/kernel', 'H N D', f'{hf}.attention.key.weight'),
    _heads(f'{name}attention.key.bias', f'{tf1}/attention_1/self/key/bias', 'H',
           f'{block}/self_attention/key/bias', 'N D', f'{hf}.attention.key.bias'),
    _heads(f'{name}attention.value.kernel', f'{tf1}/attention_1/self/value/kernel', 'H H',
           f'{block}/self_attention/value/kernel', 'H N D', f'{hf}.attention.value.weight'),
    _heads(f'{name}attention.value.bias', f'{tf1}/attention_1/self/value/bias', 'H',
           f'{block}/self_attention/value/bias', 'N D', f'{hf}.attention.value.bias'),
    _heads(f'{name}attention.output.kernel', f'{tf1}/attention_1/output/dense/kernel', 'H H',
           f'{block}/self_attention/attention_output/kernel', 'N D H', f'{hf}.attention.dense.weight'),
    _same(_E, f'{name}attention.output.bias', f'{tf1}/attention_1/output/dense/bias', 'H',
          f'{block}/self_attention/attention_output/bias', f'{hf}.attention.dense.bias'),
    _same(_E, f'{name}attention.norm.gamma', f'{tf1}/LayerNorm/gamma', 'H',
          f'{block}/self_attention_layer_norm/gamma', f'{hf}.attention.LayerNorm.weight'),
    _same(_E, f'{name}attention.norm.beta', f'{tf1}/LayerNorm/beta', 'H',
          f'{block}/self_attention_layer_norm/beta', f'{hf}.attention.LayerNorm.bias'),
    _same(_E, f'{name}feed_forward.intermediate.kernel', f'{tf1}/ffn_1/intermediate/dense/kernel', 'H I',
          f'{block}/intermediate/kernel', f'{hf}.ffn.weight'),
    _same(_E, f'{name}feed_forward.intermediate.bias', f'{tf1}/ffn_1/intermediate/dense/bias', 'I',
          f'{block}/intermediate/bias', f'{hf}.ffn.bias'),
    _same(_E, f'{name}feed_forward.output.kernel', f'{tf1}/ffn_1/intermediate/output/dense/kernel', 'I H',
          f'{block}/output/kernel', f'{hf}.ffn_output.weight'),
    _same(_E, f'{name}feed_forward.output.bias', f'{tf1}/ffn_1/intermediate/output/dense/bias', 'H',
          f'{block}/output/bias', f'{hf}.ffn_output.bias'),
    _same(_E, f'{name}feed_forward.norm.gamma', f'{tf1}/LayerNorm_1/gamma', 'H',
          f'{block}/output_layer_norm/gamma', f'{hf}.full_layer_layer_norm.weight'),
    _same(_E, f'{name}feed_forward.norm.beta', f'{tf1}/LayerNorm_1/beta', 'H',
          f'{block}/output_layer_norm/beta', f'{hf}.full_layer_layer_norm.bias'),
  )


def block_name(group: int, layer: int) -> str:
  """Returns the name of a block's Keras layer, which begins the names of its variables."""
  return 'transformer' if group == layer == 0 else f'transformer_{group}_{layer}'


_POOLER_AND_HEADS: tuple[Row, ...] = (
  _same(_E, 'pooler.kernel', 'bert/pooler/dense/kernel', 'H H',
        'pooler_transform/kernel', 'albert.pooler.weight'),
  _same(_E, 'pooler.bias', 'bert/pooler/dense/bias', 'H',
        'pooler_transform/bias', 'albert.pooler.bias'),
  _same(_M, 'mlm.transform.kernel', 'cls/predictions/transform/dense/kernel', 'H E',
        'cls/predictions/transform/dense/kernel', 'predictions.dense.weight'),
  _same(_M, 'mlm.transform.bias', 'cls/predictions/transform/dense/bias', 'E',
        'cls/predictions/transform/dense/bias', 'predictions.dense.bias'),
  _same(_M, 'mlm.norm.gamma', 'cls/predictions/transform/LayerNorm/gamma', 'E',
        'cls/predictions/transform/LayerNorm/gamma', 'predictions.LayerNorm.weight'),
  _same(_M, 'mlm.norm.beta', 'cls/predictions/transform/LayerNorm/beta', 'E',
        'cls/predictions/transform/LayerNorm/beta', 'predictions.LayerNorm.bias'),
  _same(_M, 'mlm.output_bias', 'cls/predictions/output_bias', 'V',
        'cls/predictions/output_bias/bias', 'predictions.bias'),
  Row(_S, 'sop.kernel', 'cls/seq_relationship/output_weights', '2 H',
      'cls/seq_relationship/logits/kernel', Transform.TRANSPOSE, 'H 2',
      'sop_classifier.classifier.weight', Transform.SAME),
  _same(_S, 'sop.bias', 'cls/seq_relationship/output_bias', '2',
        'cls/seq_relationship/logits/bias', 'sop_classifier.classifier.bias'),
)
# fmt: on


@functools.cache
def _all_rows(groups: int, layers: int) -> tuple[Row, ...]:
  blocks = (_block(group, layer) for group in range(groups) for layer in range(layers))
  return (*_EMBEDDINGS, *itertools.chain.from_iterable(blocks), *_POOLER_AND_HEADS)


def rows(config: albert_config.AlbertConfig, parts: Iterable[Part]) -> tuple[Row, ...]:
  """Returns the rows of a model of `parts`, in the order of the table.

  An embedding as wide as the hidden size is not projected, in any format. Without pooler, there is no sentence order
  head either, which reads the pooled output.
  """
  wanted = set(parts)
  projected = config.embedding_size != config.hidden_size
  return tuple(
    row
    for row in _all_rows(config.num_hidden_groups, config.inner_group_num)
    if row.part in wanted
    and (projected or not row.name.startswith('embeddings.projection.'))
    and (config.pooler or not _is_pooled(row))
  )


def _is_pooled(row: Row) -> bool:
  """Returns whether a tensor belongs to the pooler or to the head on it."""
  return row.name.startswith('pooler.') or row.part is Part.SOP


def pooled(names: Iterable[str], stored: Format = Format.TF1) -> list[str]:
  """Returns the names of the pooler and its head in `names`, the tensor names of a format, sorted."""
  return sorted({row.stored_name(stored) for row in _POOLER_AND_HEADS if _is_pooled(row)}.intersection(names))


WORD_EMBEDDING = _EMBEDDINGS[0]


def parameters(config: albert_config.AlbertConfig, parts: Iterable[Part]) -> int:
  """Returns the number of parameters in parts of a model."""
  return sum(math.prod(shape(row.shape, config)) for row in rows(config, parts))


def shape(symbols: str, config: albert_config.AlbertConfig) -> tuple[int, ...]:
  """Returns a shape in numbers: 'H N D' gives (1024, 16, 64) for ALBERT-large."""
  return tuple(int(s) if s.isdigit() else config.dimensions[s] for s in symbols.split())


def parts_in(config: albert_config.AlbertConfig, names: Iterable[str], stored: Format = Format.TF1) -> set[Part]:
  """Returns the encoder and all heads of a model with a tensor in `names`, the tensor names of a format."""
  there = set(names)
  return {Part.ENCODER} | {row.part for row in rows(config, Part) if row.stored_name(stored) in there}


# Types whose values float32 holds exactly, by NumPy's name.
_WIDENED = ('float16', 'bfloat16')


def check_source(
  config: albert_config.AlbertConfig,
  parts: Iterable[Part],
  tensors: Mapping[str, tuple[tuple[int, ...], Any]],
  ignored: Callable[[str], bool] = lambda name: False,
  where: str = 'the checkpoint',
  stored: Format = Format.TF1,
  advice: str = 'give a complete module with its own albert_config.json',
  widen: bool = True,
) -> list[str]:
  """Checks that a source has every tensor of the table, in its shape, and no unexpected one.

  Args:
    config: gives the shapes.
    parts: the parts that the source has.
    tensors: shape and dtype (of NumPy, or the format's name for another) of every tensor, by its name in the format.
    ignored: whether a tensor outside of the table is accepted, by its name.
    where: name of the source in the message.
    stored: the format.
    widen: whether smaller floats are accepted; a graph of the source would not take them.
    advice: the action that the message proposes.

  Returns:
    The dtypes of tensors that are widened to float32 when they are read: 'float16', 'bfloat16'.

  Raises:
    MappingError: listing every fault.
  """
  wanted = {row.stored_name(stored): row for row in rows(config, parts)}
  missing = [name for name in wanted if name not in tensors]
  if [wanted[name].name for name in missing] == ['pooler.kernel', 'pooler.bias']:
    raise errors.MappingError(f'{where}: no pooler, so no pooled output; {WITHOUT_POOLER}')
  without = set() if config.pooler else {*pooled(tensors, stored)}
  faults = [f'missing {name}' for name in missing]
  faults += [
    f'unexpected {name}' for name in tensors if name not in wanted and name not in without and not ignored(name)
  ]
  widened = set()
  for name, row in wanted.items():
    if name in tensors:
      actual, dtype = tensors[name]
      expected = row.stored_shape(stored, config)
      if tuple(actual) != expected:
        faults.append(f'{name} has shape {list(actual)}, not {list(expected)}')
      dtype_name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
      if widen and dtype_name in _WIDENED:
        widened.add(dtype_name)
      elif dtype != np.float32:
        faults.append(f'{name} is {dtype_name}, not float32')
  _raise(faults, where, advice)
  return sorted(widened)


def widen(value: np.ndarray) -> np.ndarray:
  """Returns a tensor as float32; exact for the types that `check_source` lets pass."""
  return value.astype(np.float32, copy=False)


def check_model(
  config: albert_config.AlbertConfig,
  parts: Iterable[Part],
  created: Iterable[tuple[str, tuple[int, ...]]],
) -> None:
  """Checks that the model's variables are those of the table: each made once, in its shape, and no other.

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


# The action for a source without pooler.
WITHOUT_POOLER = 'give option pooler=False for an encoder without pooled output'
# An ALBERT has 32 tensors, and 96 with an optimizer's slots; a message that names more is unreadable.
_MOST_NAMED = 40


def _raise(faults: list[str], where: str, advice: str) -> None:
  if faults:
    named = '; '.join(fault[:400] for fault in faults[:_MOST_NAMED]) + (
      '; and more' if len(faults) > _MOST_NAMED else ''
    )
    count = '1 weight does' if len(faults) == 1 else f'{len(faults)} weights do'
    raise errors.MappingError(f'{where}: {count} not fit ({named}); {advice}')
