"""Writes a SavedModel with reproducible bytes."""

import hashlib
import os
import pathlib
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import fingerprint_pb2
from tensorflow.core.protobuf import saved_model_pb2

from export import _tf_private
from export.model import prune_graph


def write(root: Any, signatures: dict[str, Any], path: pathlib.Path) -> None:
  """Writes `root` to the directory `path`.

  TensorFlow numbers functions in the order in which a process makes them. The bytes are therefore equal in two
  processes that build the same objects, and differ within one process.

  Args:
    root: a trackable object.
    signatures: tf.functions with input signatures, by name.
    path: the new directory.
  """
  tf.saved_model.save(root, os.fspath(path), signatures=signatures)
  if not any((path / 'assets').iterdir()):
    (path / 'assets').rmdir()  # TensorFlow makes the directory for every model
  _slim(path)
  _drop_random_uuid(path)


def _slim(path: pathlib.Path) -> None:
  file = path / 'saved_model.pb'
  saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
  prune_graph.slim(saved_model)
  file.write_bytes(saved_model.SerializeToString(deterministic=True))
  # fingerprint.pb has digests of saved_model.pb.
  (path / 'fingerprint.pb').write_bytes(_tf_private.fingerprint(os.fspath(path)))


def _drop_random_uuid(path: pathlib.Path) -> None:
  """Replaces the random 64-bit number in fingerprint.pb by one that follows from the other files' bytes."""
  file = path / 'fingerprint.pb'
  fingerprint = fingerprint_pb2.FingerprintDef.FromString(file.read_bytes())
  content = hashlib.sha256()
  for part in ('saved_model.pb', 'variables/variables.index'):  # the index holds a checksum of every tensor
    content.update((path / part).read_bytes())
  fingerprint.uuid = str(int.from_bytes(content.digest()[:8], 'big'))
  file.write_bytes(fingerprint.SerializeToString(deterministic=True))


def ops(path: pathlib.Path) -> set[str]:
  """Returns the names of all operations in a SavedModel and its function library."""
  saved_model = saved_model_pb2.SavedModel.FromString((path / 'saved_model.pb').read_bytes())
  return {
    node.op
    for graph in (m.graph_def for m in saved_model.meta_graphs)
    for nodes in (graph.node, *(f.node_def for f in graph.library.function))
    for node in nodes
  }
