"""Reads the checkpoint keys of the variables of a SavedModel."""

import os
import pathlib


def read(path: pathlib.Path) -> dict[str, str]:
  """Returns the checkpoint key of each variable of a SavedModel, by variable name."""
  # Imported here, because commands silence TensorFlow after they import this module.
  import tensorflow as tf
  from tensorflow.core.protobuf import trackable_object_graph_pb2

  reader = tf.train.load_checkpoint(os.fspath(path / 'variables' / 'variables'))
  graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor('_CHECKPOINTABLE_OBJECT_GRAPH'))
  return {a.full_name: a.checkpoint_key for node in graph.nodes for a in node.attributes if a.full_name}
