"""Reads the public interface of a SavedModel from its files, and lists the breaking differences of two versions."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from converters import errors
from export import _tf_private

# Children that hub.KerasLayer reads or TensorFlow adds; they are not parts of the model.
_VARIABLES = ('variables', 'trainable_variables', 'regularization_losses')
_OWN = (*_VARIABLES, 'signatures', '__call__')


@dataclasses.dataclass(frozen=True)
class Trace:
  """Input and output specs of one concrete function.

  Attributes:
    inputs: specs by path in the arguments; a tensor is 'int32 [?, ?]', a constant 'True'.
    outputs: specs by path in the result, in the same form.
  """

  inputs: Mapping[str, str]
  outputs: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Interface:
  """The public interface of a SavedModel.

  Attributes:
    calls: traces of each callable, by its path below the root: '' (the root), 'mlm',
      'tokenize.get_special_tokens_dict'.
    signatures: traces by signature name.
    assets: file name and SHA-256 (hex) by attribute ('sp_model_file').
    trainable: number of trainable variables, by path of the callable.
  """

  calls: Mapping[str, tuple[Trace, ...]]
  signatures: Mapping[str, Trace]
  assets: Mapping[str, tuple[str, str]]
  trainable: Mapping[str, int]


def describe(path: pathlib.Path) -> Interface:
  """Reads the interface of a SavedModel without running it.

  Args:
    path: directory of the SavedModel.

  Raises:
    IntegrityError: the file is not a TF2 SavedModel.
  """
  file = path / 'saved_model.pb'
  try:
    meta_graph = saved_model_pb2.SavedModel.FromString(file.read_bytes()).meta_graphs[0]
    graph = meta_graph.object_graph_def
    calls: dict[str, tuple[Trace, ...]] = {}
    assets: dict[str, tuple[str, str]] = {}
    trainable: dict[str, int] = {}
    # A node under two names counts as two callables. `seen` stops cycles.
    pending, seen = [('', 0)], set()
    while pending:
      place, number = pending.pop(0)
      node = graph.nodes[number]
      children = {child.local_name: child.node_id for child in node.children}
      if '__call__' in children:
        calls[place] = _traces(graph, graph.nodes[children['__call__']].function)
        if 'trainable_variables' in children:
          trainable[place] = len(graph.nodes[children['trainable_variables']].children)
      elif node.WhichOneof('kind') == 'function' and place:
        calls[place] = _traces(graph, node.function)
      if node.WhichOneof('kind') == 'asset':
        asset = path / 'assets' / meta_graph.asset_file_def[node.asset.asset_file_def_index].filename
        assets[place] = (asset.name, hashlib.sha256(asset.read_bytes()).hexdigest())
      if number not in seen and node.WhichOneof('kind') in (None, 'user_object'):
        seen.add(number)
        pending += [
          (f'{place}.{name}'.lstrip('.'), child)
          for name, child in children.items()
          if name not in _OWN and not name.startswith('_')
        ]
    signatures = {
      name: Trace(
        {key: _info(value) for key, value in signature.inputs.items()},
        {key: _info(value) for key, value in signature.outputs.items()},
      )
      for name, signature in meta_graph.signature_def.items()
      if not name.startswith('__')
    }
  except Exception as e:  # protobuf, TensorFlow and file access raise errors of many types
    raise errors.IntegrityError(
      f'{file}: not a valid TF2 SavedModel ({type(e).__name__}: {e}); publish the release again'
    ) from e
  return Interface({place: traces for place, traces in calls.items() if traces}, signatures, assets, trainable)


def _traces(graph: Any, function: Any) -> tuple[Trace, ...]:
  result = []
  for name in function.concrete_functions:
    concrete = graph.concrete_functions[name]
    args, kwargs = _tf_private.decode_structure(concrete.canonicalized_input_signature)
    outputs = _tf_private.decode_structure(concrete.output_signature)
    # A SavedModel does not keep the names of the later positional arguments.
    inputs = dict(_leaves(args[0], '')) if args else {}
    inputs |= {
      key: value for number, arg in enumerate(args[1:], start=1) for key, value in _leaves(arg, f'(argument {number})')
    }
    inputs |= {key: value for name, arg in kwargs.items() for key, value in _leaves(arg, name)}
    result.append(Trace(inputs, dict(_leaves(outputs, ''))))
  return tuple(result)


def _leaves(structure: Any, place: str) -> Iterator[tuple[str, str]]:
  items = (
    structure.items()
    if isinstance(structure, Mapping)
    else enumerate(structure)
    if isinstance(structure, list | tuple)
    else None
  )
  if items is None:
    yield place, _spec(structure)
    return
  for key, value in items:
    yield from _leaves(value, f'{place}[{key}]' if place or isinstance(key, int) else key)


def _spec(value: Any) -> str:
  if isinstance(value, tf.RaggedTensorSpec):
    return f'ragged {value.dtype.name} {_shape(value.shape)} of ragged rank {value.ragged_rank}'
  if isinstance(value, tf.TensorSpec):
    return f'{value.dtype.name} {_shape(value.shape)}'
  return repr(value)


def _info(value: Any) -> str:
  return f'{tf.as_dtype(value.dtype).name} {_shape(tf.TensorShape(value.tensor_shape))}'


def _shape(shape: tf.TensorShape) -> str:
  return f'[{", ".join("?" if size is None else str(size) for size in shape)}]' if shape.rank is not None else '[...]'


def breaking_differences(old: Interface, new: Interface) -> list[str]:
  """Lists the differences that break users of the old version, one line each; additions do not count.

  Args:
    old: interface of the published version.
    new: interface of its successor.
  """
  found = []
  for place, traces in old.calls.items():
    name = place or 'the model'
    if place not in new.calls:
      found.append(f'{name} is gone')
      continue
    faults = list(dict.fromkeys(fault for trace in traces for fault in _trace_faults(name, trace, new.calls[place])))
    found += faults
  for name, trace in old.signatures.items():
    if name not in new.signatures:
      found.append(f'signature {name} is gone')
    else:
      found += _trace_faults(f'signature {name}', trace, (new.signatures[name],))
  for place, (name, digest) in old.assets.items():
    owner = place.rpartition('.')[0]
    if owner in old.calls and owner not in new.calls:
      continue  # the callable itself is gone, which is listed
    if place not in new.assets:
      found.append(f'asset {place} is gone')
    elif new.assets[place][0] != name:
      found.append(f'asset {place} is {new.assets[place][0]} instead of {name}')
    elif new.assets[place][1] != digest:
      found.append(f'asset {place} has another content')
  for place, count in old.trainable.items():
    if place in new.trainable and new.trainable[place] != count:
      found.append(f'{place or "the model"} has {new.trainable[place]} trainable variables instead of {count}')
  return found


def _trace_faults(name: str, old: Trace, candidates: tuple[Trace, ...]) -> list[str]:
  """Returns why no candidate accepts the old call: the faults of the closest candidate."""
  return min((_faults(name, old, new) for new in candidates), key=len)


def _faults(name: str, old: Trace, new: Trace) -> list[str]:
  found = []
  if old.inputs.keys() != new.inputs.keys():
    found.append(
      f'{name} takes {_listed(new.inputs.keys() - old.inputs.keys())} instead of '
      f'{_listed(old.inputs.keys() - new.inputs.keys())}'
    )
  for key in sorted(old.inputs.keys() & new.inputs.keys()):
    if not _fits(old.inputs[key], new.inputs[key]):
      found.append(f'{_place("input", key, name)} is {new.inputs[key]} instead of {old.inputs[key]}')
  if gone := old.outputs.keys() - new.outputs.keys():
    found.append(f'{name} does not return {_listed(gone)} any more')
  for key in sorted(old.outputs.keys() & new.outputs.keys()):
    if not _fits(new.outputs[key], old.outputs[key]):
      found.append(f'{_place("output", key, name)} is {new.outputs[key]} instead of {old.outputs[key]}')
  return found


def _listed(keys: Iterable[str]) -> str:
  return ', '.join(key or 'a tensor' for key in sorted(keys)) or 'nothing'


def _place(kind: str, key: str, name: str) -> str:
  return f'{kind} {key} of {name}' if key else f'the {kind} of {name}'


def _fits(given: str, wanted: str) -> bool:
  """Returns whether spec `given` satisfies spec `wanted`: same dtype and rank, and equal sizes where wanted."""
  one, other = given.split(), wanted.split()
  return len(one) == len(other) and all(
    b.strip('[],') in (a.strip('[],'), '?') for a, b in zip(one, other, strict=True)
  )
