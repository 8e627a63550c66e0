import ast
import pathlib
import tarfile

import pytest
from tensorflow.core.protobuf import saved_model_pb2

from converters import interface

ROOT = pathlib.Path(__file__).parents[1]
TYPES = {'int32': 3, 'float32': 1}
# Writes modules as their authors do. With the reader's own names, a wrong name in the table would go unseen.
APART = {'export/demo/tf1_module.py', 'converters/interface.py'}


@pytest.mark.parametrize('module, calls', [('einsum', {'tokens', 'mlm', 'sop'}), ('partitioned', {'tokens', 'mlm'})])
def test_table_has_the_signatures_of_tensorflow_1(module, calls):
  with tarfile.open(ROOT / f'tests/genuine/{module}.tar.gz') as tar:
    file = next(tar.extractfile(member) for member in tar if member.name.endswith('saved_model.pb'))
    graphs = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs
  signatures = next(graph for graph in graphs if not graph.meta_info_def.tags).signature_def
  assert signatures.keys() - {'tokenization_info'} == calls <= interface.SIGNATURES.keys()
  for name in calls:
    signature = interface.SIGNATURES[name]
    for wanted, found in (
      (signature.inputs, signatures[name].inputs),
      (signature.outputs, signatures[name].outputs),
    ):
      assert {tensor.tf1: (TYPES[tensor.dtype], tensor.tf1_rank) for tensor in wanted} == {
        key: (info.dtype, len(info.tensor_shape.dim)) for key, info in found.items()
      }


def test_shape_has_the_size_of_each_axis():
  shapes = {tensor.name: tensor.shape(dict(batch=2, seq=3, predictions=4, H=5, V=6)) for tensor in interface.OUTPUTS}
  assert shapes == {
    'pooled_output': (2, 5),
    'sequence_output': (2, 3, 5),
    'mlm_logits': (2, 4, 6),
    'sop_log_probs': (2, 2),
  }


def test_no_other_module_lists_inputs_or_outputs():
  names = {name for tensor in (*interface.INPUTS, *interface.OUTPUTS) for name in (tensor.name, tensor.tf1)}

  def listed(node):
    # A dict of computed values makes the tensors; it does not list them.
    parts = getattr(node, 'elts', ()) if not isinstance(node, ast.Dict) else node.keys if literal(node.values) else ()
    return len(names & {part.value for part in parts if isinstance(part, ast.Constant)}) > 1

  def literal(values):
    return all(isinstance(value, ast.Constant | ast.Tuple) for value in values)

  found = [
    f'{path.relative_to(ROOT)}:{node.lineno}'
    for folder in ('converters', 'export')
    for path in sorted((ROOT / folder).rglob('*.py'))
    if str(path.relative_to(ROOT)) not in APART
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict) and listed(node)
  ]
  assert not found
