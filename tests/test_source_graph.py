"""Of a source's graph only what is needed may be run, and only if every operation in it is on the allow-list."""


import conftest
import pytest

from converters import errors
from export.proof import source_graph

ALL = tuple(source_graph.SIGNATURES)


@pytest.mark.parametrize('tags', [(), ('train',)])
@pytest.mark.parametrize('changes', [{}, dict(hidden_dropout=0.1, attention_dropout=0.1)])
def test_only_what_the_signatures_need_is_kept(make_module, changes, tags):
  path = make_module(**changes) / 'saved_model.pb'
  part = source_graph.reduced(path, ['tokens'], tags)
  assert list(part.inputs) == list(part.outputs) == ['tokens']
  assert list(part.outputs['tokens']) == ['pooled_output', 'sequence_output', 'layer_0', 'layer_1', 'layer_2']
  assert len(part.handles) == 32 and part.handles['bert/pooler/dense/bias'] == 'bert/pooler/dense/bias:0'
  names = [n.name for n in part.graph_def.node]
  assert not [n for n in names if n.startswith(('mlm/', 'sop/', 'do_lower_case'))]
  assert not {n.op for n in part.graph_def.node} & {'SaveV2', 'MergeV2Checkpoints', 'ShardedFilename', 'TruncatedNormal'}
  assert len(source_graph.reduced(path, ALL, tags).graph_def.node) > 2 * len(names)


def _add_node(op):
  return lambda meta_graph: meta_graph.graph_def.node.add(name='hidden/here', op=op)


def _add_function(meta_graph):
  function = meta_graph.graph_def.library.function.add()
  function.node_def.add(name='hidden/here', op='ReadFile')


@pytest.mark.parametrize('graph', [0, 1], ids=['plain', 'train'])
@pytest.mark.parametrize('edit', [_add_node('PyFunc'), _add_node('WriteFile'), _add_node('PartitionedCall'), _add_function],
                         ids=['PyFunc', 'WriteFile', 'PartitionedCall', 'function'])
def test_operation_off_the_list_is_refused(own_module, edit, graph):
  with pytest.raises(errors.UntrustedGraphError, match="operation .* at node 'hidden/here' is not on the allow-list"):
    source_graph.reduced(conftest.edit_graph(own_module, edit, graph), ALL)


def test_saving_is_refused_in_a_signature(own_module):
  def edit(meta_graph):
    node = meta_graph.signature_def['tokens'].outputs['pooled_output'].name.split(':')[0]
    saving = next(n.name for n in meta_graph.graph_def.node if n.op == 'SaveV2')
    next(n for n in meta_graph.graph_def.node if n.name == node).input.append(f'^{saving}')
  with pytest.raises(errors.UntrustedGraphError, match='SaveV2 .*not allowed in a signature'):
    source_graph.reduced(conftest.edit_graph(own_module, edit), ALL)


def test_saving_is_refused_in_what_restores_variables(own_module):
  def edit(meta_graph):
    saving = next(n.name for n in meta_graph.graph_def.node if n.op == 'SaveV2')
    restoring = meta_graph.saver_def.restore_op_name
    next(n for n in meta_graph.graph_def.node if n.name == restoring).input.append(f'^{saving}')
  with pytest.raises(errors.UntrustedGraphError, match='SaveV2 .*not allowed in what restores variables'):
    source_graph.reduced(conftest.edit_graph(own_module, edit), ALL)


def test_sparse_tensor_in_a_signature_is_refused(own_module):
  def edit(meta_graph):
    meta_graph.signature_def['tokens'].outputs['pooled_output'].coo_sparse.values_tensor_name = 'tokens/input_ids:0'
  with pytest.raises(errors.UntrustedGraphError, match='no plain tensor pooled_output in signature tokens'):
    source_graph.reduced(conftest.edit_graph(own_module, edit), ALL)


def test_module_without_the_metagraph_is_refused(own_module):
  with pytest.raises(errors.UntrustedGraphError, match=r"no metagraph with tags \['other'\] in "):
    source_graph.reduced(own_module / 'saved_model.pb', ALL, ['other'])
