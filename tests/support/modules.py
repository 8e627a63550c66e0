"""TF1 Hub modules for tests."""

import pathlib

from tensorflow.core.protobuf import saved_model_pb2

from export.demo import tf1_module

TINY = tf1_module.Spec(**tf1_module.SIZES['tiny'])


def edit_graph(module: pathlib.Path, edit, tags=()) -> pathlib.Path:
  """Changes a metagraph of a module, in place, and returns the path of its saved_model.pb."""
  path = module / 'saved_model.pb'
  saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
  edit(next(m for m in saved_model.meta_graphs if set(m.meta_info_def.tags) == set(tags)))
  path.write_bytes(saved_model.SerializeToString())
  return path
