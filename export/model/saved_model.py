"""Writes one SavedModel whose bytes are a function of what is in it."""

import hashlib
import os
import pathlib
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import fingerprint_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model.pywrap_saved_model import fingerprinting

from export.model import prune_graph


def write(root: Any, signatures: dict[str, Any], path: pathlib.Path) -> None:
  """Writes `root` to the directory `path`.

  TensorFlow numbers functions in the order a process makes them: the bytes repeat from process to process when the same
  things are built before, and not within one process.

  Args:
    root: a trackable object.
    signatures: tf.functions with input signatures, by name.
    path: the directory to make.
  """
  tf.saved_model.save(root, os.fspath(path), signatures=signatures)
  if not any((path / 'assets').iterdir()):
    (path / 'assets').rmdir()  # TensorFlow makes it for a model without assets too
  _slim(path)
  _drop_random_uuid(path)


def _slim(path: pathlib.Path) -> None:
  file = path / 'saved_model.pb'
  saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
  prune_graph.slim(saved_model)
  file.write_bytes(saved_model.SerializeToString(deterministic=True))
  (path / 'fingerprint.pb').write_bytes(
    fingerprinting.CreateFingerprintDef(os.fspath(path))
  )  # it holds digests of the other file's parts


def _drop_random_uuid(path: pathlib.Path) -> None:
  """TensorFlow puts a random 64-bit number, in decimal, into fingerprint.pb: ours comes from the other files' bytes."""
  file = path / 'fingerprint.pb'
  fingerprint = fingerprint_pb2.FingerprintDef.FromString(file.read_bytes())
  content = hashlib.sha256()
  for part in ('saved_model.pb', 'variables/variables.index'):  # the index holds a checksum of every tensor
    content.update((path / part).read_bytes())
  fingerprint.uuid = str(int.from_bytes(content.digest()[:8], 'big'))
  file.write_bytes(fingerprint.SerializeToString(deterministic=True))


def ops(path: pathlib.Path) -> set[str]:
  """The names of all operations in a SavedModel, its function library included."""
  saved_model = saved_model_pb2.SavedModel.FromString((path / 'saved_model.pb').read_bytes())
  return {
    node.op
    for graph in (m.graph_def for m in saved_model.meta_graphs)
    for nodes in (graph.node, *(f.node_def for f in graph.library.function))
    for node in nodes
  }
