"""Reads TF1 Hub modules of ALBERT: google/albert_{base,large,xlarge,xxlarge}/{1,2,3} and those with their signatures.

The graph is parsed for its signatures and is not run.
"""

import pathlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from google.protobuf import message

from converters import albert_config as albert_config_lib
from converters import errors
from converters import interface
from converters import notes
from converters import reading as reading_lib
from converters import weight_map
from converters.io import digest
from converters.io import source_files
from converters.readers import sentencepiece_model
from converters.readers import tf1_variables

# ModuleDef.format == FORMAT_V3, the only one tensorflow_hub ever published.
_TFHUB_MODULE_PB = b'\x08\x03'
# Files in a module's directory.
_FILE = re.compile(
  r'saved_model\.pb|tfhub_module\.pb|variables/variables\.(index|data-[0-9]{5}-of-[0-9]{5})|assets/[^/]+'
)
# Size limits in bytes; the graph of an ALBERT-large (24 layers) has 2.1 MB.
_LARGEST_GRAPH, _LARGEST_FORMAT = 256 << 20, 1 << 10
# Variables that hold no weights.
_IGNORED_VARIABLES = frozenset({'global_step'})


def belongs(name: str) -> bool:
  """Returns whether a file of that name, in the root or in one directory, belongs to the format."""
  return source_files.inside(name, _FILE)


def is_in(directory: pathlib.Path) -> bool:
  """Returns whether a directory has the file that only this format has."""
  return (directory / 'tfhub_module.pb').exists()


def open_in(handle: str, path: pathlib.Path, reading: reading_lib.Reading) -> 'Module':
  """Opens the module in a directory; see `Module`."""
  return Module(handle, path, reading)


def check_files(path: pathlib.Path) -> None:
  """Checks that a module has its files, without TensorFlow.

  Raises:
    SourceError: a file is missing or was not downloaded, or the format is unknown.
  """
  digest.check_start(path / 'tfhub_module.pb')
  missing = [name for name in ('saved_model.pb', 'assets', 'variables') if not (path / name).exists()]
  if missing:
    raise errors.SourceError(f'{path}: no {", no ".join(missing)}; fetch the module again')
  if source_files.read(path / 'tfhub_module.pb', _LARGEST_FORMAT) != _TFHUB_MODULE_PB:
    raise errors.SourceError(
      f'{path}: unknown format in tfhub_module.pb (only format 3 was published); fetch the module again'
    )


class Module(digest.OfFiles):
  """A `source.Source` in TF1 Hub format; see there for the attributes."""

  format = 'TF1 Hub module'

  def __init__(self, handle: str, path: pathlib.Path, reading: reading_lib.Reading):
    """Opens the module in a directory.

    Raises:
      SourceError: a file is missing or broken, the signatures are not ALBERT's, or the files contradict each other.
    """
    super().__init__(handle, path, reading.sha256)
    self.graph: pathlib.Path | None = path / 'saved_model.pb'
    check_files(path)
    self.signatures, lower_case = _read_graph(path / 'saved_model.pb')
    self.config = reading.architecture(
      albert_config_lib.read(reading.albert_config or path / 'assets' / 'albert_config.json', reading.activation)
    )
    # The authors' code strips accents whatever the case.
    stated = self.config.tokenizer if lower_case is None else {'lower_case': lower_case, 'keep_accents': False}
    self.tokenization = reading.tokenization(stated, 'tokenization_info of the module')
    self.sp_model_name, self.sp_model = sentencepiece_model.read(
      path / 'assets', '*.model', self.config.vocab_size, 'assets/'
    )
    self._variables = tf1_variables.Variables(path / 'variables' / 'variables')
    tensors = self._variables.tensors()
    self.parts = frozenset(weight_map.parts_in(self.config, tensors))
    weight_map.check_source(
      self.config, self.parts, tensors, _IGNORED_VARIABLES.__contains__, f'{handle}/variables', widen=False
    )
    self.notes: list[str] = [] if self.config.pooler else notes.without_pooler(weight_map.pooled(tensors))

  def belongs(self, name: str) -> bool:
    """Returns whether a file, by its path relative to the module, is part of it."""
    return bool(_FILE.fullmatch(name))

  @property
  def provable(self) -> frozenset[weight_map.Part]:
    """The parts that have a signature to compare with."""
    return frozenset(p for p in weight_map.Part if p is weight_map.Part.ENCODER or p.value in self.signatures)

  def tensor(self, row: weight_map.Row) -> np.ndarray:
    """Reads one tensor; see `source.Source`."""
    return self._variables.read(row.tf1)


def _read_graph(path: pathlib.Path) -> tuple[frozenset[str], bool | None]:
  """Reads the signatures and `do_lower_case` of the metagraph without tags.

  Returns:
    The names of its ALBERT signatures; and `do_lower_case` of `tokenization_info`, None without such a signature.

  Raises:
    SourceError: the file does not parse, has no `tokens` signature, or one that is not ALBERT's.
  """
  from tensorflow.core.protobuf import saved_model_pb2  # imports TensorFlow

  try:
    saved_model = saved_model_pb2.SavedModel.FromString(source_files.read(path, _LARGEST_GRAPH))
  except message.DecodeError as e:
    raise errors.SourceError(f'{path}: not a SavedModel ({str(e).strip()}); fetch the module again') from e
  graphs = [m for m in saved_model.meta_graphs if not m.meta_info_def.tags]
  if len(graphs) != 1:
    raise errors.SourceError(f'{path}: {len(graphs)} metagraphs without tags, not 1; give a TF1 Hub module')
  signatures = graphs[0].signature_def
  if 'tokens' not in signatures:
    names = ', '.join(sorted(signatures)) or 'none'
    raise errors.SourceError(f'{path}: no `tokens` signature (there are: {names}); give a module of ALBERT')
  found = frozenset(interface.SIGNATURES.keys() & set(signatures))
  for name in sorted(found):
    wanted, there = interface.SIGNATURES[name], signatures[name]
    faults = [f'inputs {sorted(there.inputs)}'] if set(there.inputs) != {t.tf1 for t in wanted.inputs} else []
    faults += _misfits(there.inputs, wanted.inputs) + _misfits(there.outputs, wanted.outputs)
    if faults:
      raise errors.SourceError(f'{path}: signature `{name}` has {", ".join(faults)}; give a module of ALBERT')
  _check_assets(saved_model, path)
  return found, _lower_case(graphs[0], path)


def _check_assets(saved_model: Any, path: pathlib.Path) -> None:
  """Refuses names of assets outside of assets/, which TensorFlow would read when it loads the module."""
  from tensorflow.core.protobuf import meta_graph_pb2

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
        raise errors.SourceError(f'{path}: asset {asset.filename[:99]!r} is outside of assets/; fetch the module again')


def _misfits(tensors: Any, wanted: Iterable[interface.Tensor]) -> list[str]:
  from tensorflow.core.framework import types_pb2

  dtypes = {'int32': types_pb2.DT_INT32, 'float32': types_pb2.DT_FLOAT}
  faults = []
  for tensor in wanted:
    name, rank = tensor.tf1, tensor.tf1_rank
    if name not in tensors:
      faults.append(f'no {name}')
      continue
    shape = tensors[name].tensor_shape
    if tensors[name].dtype != dtypes[tensor.dtype]:
      known = tensors[name].dtype in types_pb2.DataType.values()
      found = types_pb2.DataType.Name(tensors[name].dtype).removeprefix('DT_').lower() if known else tensors[name].dtype
      faults.append(f'{name} of dtype {found} instead of {tensor.dtype}')
    if not shape.unknown_rank and len(shape.dim) != rank:
      faults.append(f'{name} of rank {len(shape.dim)} instead of {rank}')
  return faults


def _lower_case(graph: Any, path: pathlib.Path) -> bool | None:
  """Returns the constant `do_lower_case` of `tokenization_info`; None without such a signature.

  Raises:
    SourceError: it is not a scalar constant.
  """
  from tensorflow.core.framework import types_pb2

  if 'tokenization_info' not in graph.signature_def:
    return None
  name = graph.signature_def['tokenization_info'].outputs['do_lower_case'].name.split(':')[0]
  for node in graph.graph_def.node:
    if node.name != name or node.op != 'Const':
      continue
    # Inspected, not unpacked: a constant may be larger than memory.
    value = node.attr['value'].tensor
    if value.dtype == types_pb2.DT_BOOL and not value.tensor_shape.dim:
      content = value.tensor_content or bytes(map(int, value.bool_val))
      if content in (b'\0', b'\1'):
        return content == b'\1'
    raise errors.SourceError(f'{path}: do_lower_case is not true or false; fetch the module again')
  return None
