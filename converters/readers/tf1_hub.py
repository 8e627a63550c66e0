"""A TF1 Hub module of ALBERT: google/albert_{base,large,xlarge,xxlarge}/{1,2,3} and what is built like it.

The graph is parsed, to learn its signatures, and never run.
"""

import pathlib
import re
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import message
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

from converters import albert_config as albert_config_lib
from converters import errors
from converters import weight_map
from converters.io import digest
from converters.io import source_files
from converters.readers import sentencepiece_model
from converters.readers import tf1_variables

# ModuleDef.format == FORMAT_V3, the only one tensorflow_hub ever published.
_TFHUB_MODULE_PB = b'\x08\x03'
# Names and ranks of what the signatures take (int32) and give (float32).
_TOKENS_INPUTS = {'input_ids': 2, 'input_mask': 2, 'segment_ids': 2}
_TOKENS_OUTPUTS = {'sequence_output': 3, 'pooled_output': 2}
_SIGNATURES = {
  'tokens': (_TOKENS_INPUTS, _TOKENS_OUTPUTS),
  'mlm': (_TOKENS_INPUTS | {'mlm_positions': 2}, _TOKENS_OUTPUTS | {'mlm_logits': 2}),
  'sop': (_TOKENS_INPUTS, _TOKENS_OUTPUTS | {'sop_log_probs': 2}),
}
# What stands in a module's directory.
_FILE = re.compile(
  r'saved_model\.pb|tfhub_module\.pb|variables/variables\.(index|data-[0-9]{5}-of-[0-9]{5})|assets/[^/]+'
)
# Sizes in bytes that no such file comes near: the graph of an ALBERT-large (24 layers) has 2.1 MB.
_LARGEST_GRAPH, _LARGEST_FORMAT = 256 << 20, 1 << 10
# Variables that hold no weights.
_IGNORED_VARIABLES = frozenset({'global_step'})


def objection(name: str) -> str | None:
  """What is wrong with a file of that name in the archive of a module; None if nothing is."""
  if _FILE.fullmatch(name):
    return None
  outer, _, inner = name.partition('/')
  if _FILE.fullmatch(inner):
    return f'is one directory too deep: the module is in its directory {outer!r}, pack what is in that'
  return 'is no file of a TF1 Hub module: pack the module alone'


class Module(digest.OfFiles):
  """A `source.Source` in TF1 Hub format; see there for the attributes."""

  format = 'TF1 Hub module'

  def __init__(self, handle: str, path: pathlib.Path, albert_config: str | None = None):
    """Opens a module.

    Args:
      handle: for messages.
      path: its directory.
      albert_config: read instead of assets/albert_config.json when given.

    Raises:
      SourceError: a file is missing or broken, the signatures are not ALBERT's, or the files contradict each other.
    """
    self.handle = handle
    self.path = path
    self.graph: pathlib.Path | None = path / 'saved_model.pb'
    self._check_format()
    self.signatures = _read_signatures(path / 'saved_model.pb')
    self.config = albert_config_lib.read(albert_config or path / 'assets' / 'albert_config.json')
    self.sp_model_name, self.sp_model = sentencepiece_model.read(
      path / 'assets', '*.model', self.config.vocab_size, 'assets/'
    )
    self._variables = tf1_variables.Variables(path / 'variables' / 'variables')
    tensors = self._variables.tensors()
    self.parts = frozenset(weight_map.parts_in(tensors))
    weight_map.check_source(self.config, self.parts, tensors, _IGNORED_VARIABLES, f'{handle}/variables')

  @property
  def provable(self) -> frozenset[weight_map.Part]:
    return frozenset(p for p in weight_map.Part if p is weight_map.Part.ENCODER or p.value in self.signatures)

  def tensor(self, row: weight_map.Row) -> np.ndarray:
    return self._variables.read(row.tf1)

  def _check_format(self) -> None:
    if not (self.path / 'saved_model.pb').exists():
      inner = [p.parent.name for p in self.path.glob('*/saved_model.pb')]
      hint = (
        f'the module is in its directory {inner[0]!r}'
        if inner
        else (
          'give the directory of a TF1 Hub module, of a checkpoint with albert_config.json, or of a model of Hugging Face'
        )
      )
      raise errors.SourceError(f'no saved_model.pb in {self.handle}: {hint}')
    if not (self.path / 'tfhub_module.pb').exists():
      raise errors.SourceError(f'no tfhub_module.pb in {self.handle}: this is a SavedModel, but no TF1 Hub module')
    if source_files.read(self.path / 'tfhub_module.pb', _LARGEST_FORMAT) != _TFHUB_MODULE_PB:
      raise errors.SourceError(f'unknown format in tfhub_module.pb of {self.handle}: only format 3 was ever published')


def _read_signatures(path: pathlib.Path) -> frozenset[str]:
  """Which of an ALBERT's signatures the metagraph without tags has.

  Raises:
    SourceError: the file does not parse, has no `tokens` signature, or one that is not ALBERT's.
  """
  try:
    saved_model = saved_model_pb2.SavedModel.FromString(source_files.read(path, _LARGEST_GRAPH))
  except message.DecodeError as e:
    raise errors.SourceError(f'no SavedModel in {path} ({str(e).strip()}): fetch the module again') from e
  graphs = [m for m in saved_model.meta_graphs if not m.meta_info_def.tags]
  if len(graphs) != 1:
    raise errors.SourceError(f'{len(graphs)} metagraphs without tags in {path}, not 1: this is no TF1 Hub module')
  signatures = graphs[0].signature_def
  if 'tokens' not in signatures:
    there = ', '.join(sorted(signatures)) or 'none'
    raise errors.SourceError(f'no `tokens` signature in {path} (there are: {there}): this is no ALBERT module')
  found = frozenset(_SIGNATURES.keys() & set(signatures))
  for name in sorted(found):
    inputs, outputs = _SIGNATURES[name]
    faults = [f'inputs {sorted(signatures[name].inputs)}'] if set(signatures[name].inputs) != set(inputs) else []
    faults += _misfits(signatures[name].inputs, inputs, tf.int32) + _misfits(
      signatures[name].outputs, outputs, tf.float32
    )
    if faults:
      raise errors.SourceError(f'signature `{name}` has {", ".join(faults)} in {path}: this is no ALBERT module')
  _check_lower_case(graphs[0], path)
  _check_assets(saved_model, path)
  return found


def _check_assets(saved_model: Any, path: pathlib.Path) -> None:
  """Refuses names of assets that lead out of assets/, for the sake of whoever loads the module with TensorFlow."""
  for graph in saved_model.meta_graphs:
    named = list(graph.asset_file_def)
    for packed in (
      graph.collection_def['saved_model_assets'].any_list.value if 'saved_model_assets' in graph.collection_def else ()
    ):
      asset = meta_graph_pb2.AssetFileDef()
      if packed.Unpack(asset):
        named.append(asset)
    for asset in named:
      if asset.filename in ('', '.', '..') or not asset.filename.isprintable() or set('/\\') & set(asset.filename):
        raise errors.SourceError(
          f'asset {asset.filename[:99]!r} in {path} leads out of assets/: this is no TF1 Hub module'
        )


def _misfits(tensors: Any, wanted: dict[str, int], dtype: tf.DType) -> list[str]:
  faults = []
  for name, rank in wanted.items():
    if name not in tensors:
      faults.append(f'no {name}')
      continue
    shape = tensors[name].tensor_shape
    if tensors[name].dtype != dtype.as_datatype_enum:
      known = tensors[name].dtype in types_pb2.DataType.values()
      found = types_pb2.DataType.Name(tensors[name].dtype).removeprefix('DT_').lower() if known else tensors[name].dtype
      faults.append(f'{name} of dtype {found} instead of {dtype.name}')
    if not shape.unknown_rank and len(shape.dim) != rank:
      faults.append(f'{name} of rank {len(shape.dim)} instead of {rank}')
  return faults


def _check_lower_case(graph: Any, path: pathlib.Path) -> None:
  """Refuses a cased module: every published preprocessor folds case, and so would ours."""
  if 'tokenization_info' not in graph.signature_def:
    return
  name = graph.signature_def['tokenization_info'].outputs['do_lower_case'].name.split(':')[0]
  for node in graph.graph_def.node:
    # Looked at, not unpacked: a constant may be larger than any memory.
    value = node.attr['value'].tensor
    right = (
      value.dtype == types_pb2.DT_BOOL
      and (list(value.bool_val) == [True] or value.tensor_content == b'\1')
      and not value.tensor_shape.dim
    )
    if node.name == name and node.op == 'Const' and not right:
      raise errors.SourceError(f'do_lower_case is not true in {path}: preprocessors for cased models are not supported')
