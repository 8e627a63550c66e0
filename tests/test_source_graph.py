"""Only the needed part of a source's graph runs, and only if all its operations are on the allow list."""

import pytest
from support import modules
from tensorflow.core.framework import variable_pb2

from converters import errors
from converters import interface
from export.source import graph as source_graph

ALL = tuple(interface.SIGNATURES)


@pytest.mark.parametrize('tags', [(), ('train',)])
@pytest.mark.parametrize('changes', [{}, dict(hidden_dropout=0.1, attention_dropout=0.1)])
def test_only_what_the_signatures_need_is_kept(make_module, changes, tags):
  path = make_module(**changes) / 'saved_model.pb'
  checked = source_graph.check(path)
  part = source_graph.reduced(checked, ['tokens'], tags)
  assert list(part.inputs) == list(part.outputs) == ['tokens']
  assert list(part.outputs['tokens']) == ['pooled_output', 'sequence_output', 'layer_0', 'layer_1', 'layer_2']
  assert (
    len(part.variables) == 25
    and source_graph.Variable('bert/pooler/dense/bias:0', 'bert/pooler/dense/bias', (16,)) in part.variables
  )
  assert not [n for n in part.graph_def.node if n.name.startswith(('mlm_positions', 'cls/', 'config_file'))]
  assert not {n.op for n in part.graph_def.node} & {'AssignVariableOp', 'TruncatedNormal', 'VarIsInitializedOp'}
  whole = source_graph.reduced(checked, ALL, tags)
  assert len(whole.variables) == 32 and len(whole.graph_def.node) > len(part.graph_def.node)


def test_module_without_the_metagraph_is_refused(own_module):
  with pytest.raises(errors.UntrustedGraphError, match=r"saved_model.pb: no metagraph with tags \['other'\]; "):
    source_graph.reduced(source_graph.check(own_module / 'saved_model.pb'), ALL, ['other'])


def test_variables_may_be_named_by_their_nodes_alone(own_module, ran, start_run):
  def edit(meta_graph):
    for node in meta_graph.graph_def.node:
      if node.op == 'VarHandleOp':
        node.attr['shared_name'].s = b''

  modules.edit_graph(own_module, edit)
  graph = source_graph.reduced(source_graph.check(own_module / 'saved_model.pb'), ALL)
  assert len({variable.name for variable in graph.variables}) == 32
  with start_run(own_module) as run:
    assert (run.outputs()[1]['tokens/pooled_output'] == ran.outputs()[1]['tokens/pooled_output']).all()


def test_nodes_may_be_placed_with_nodes_that_are_left_out(own_module, ran, start_run):
  def edit(meta_graph):
    for node in meta_graph.graph_def.node:
      node.device = '/job:ps/task:3/device:GPU:1'
      if node.op == 'Tanh':
        node.attr['_class'].list.s.append(b'loc:@vocab_model')

  modules.edit_graph(own_module, edit)
  with start_run(own_module, ['tokens']) as run:
    assert (run.outputs()[1]['tokens/pooled_output'] == ran.outputs()[1]['tokens/pooled_output']).all()


def _slice(full_shape, var_offset):
  """Declares that the pooler's bias, of shape [16], is a partition."""

  def edit(meta_graph):
    definition = variable_pb2.VariableDef(variable_name='bert/pooler/dense/bias:0')
    definition.save_slice_info_def.full_shape.extend(full_shape)
    definition.save_slice_info_def.var_offset.extend(var_offset)
    meta_graph.collection_def['variables'].bytes_list.value.append(definition.SerializeToString())

  return edit


@pytest.mark.parametrize(
  ('full', 'offset'), [((16,), (1,)), ((32,), (-1,)), ((15,), (0,)), ((16, 16), (0, 0)), ((), ()), ((32,), (1 << 62,))]
)
def test_partition_outside_its_variable_is_refused(own_module, full, offset):
  modules.edit_graph(own_module, _slice(full, offset))
  with pytest.raises(
    errors.UntrustedGraphError, match='partition bert/pooler/dense/bias of shape .* extends past its variable'
  ):
    source_graph.reduced(source_graph.check(own_module / 'saved_model.pb'), ALL)


def test_variable_definition_that_does_not_parse_is_refused(own_module):
  modules.edit_graph(
    own_module, lambda meta_graph: meta_graph.collection_def['variables'].bytes_list.value.append(b'\xff\xff')
  )
  with pytest.raises(errors.UntrustedGraphError, match='invalid VariableDef in a collection'):
    source_graph.reduced(source_graph.check(own_module / 'saved_model.pb'), ALL)


@pytest.mark.parametrize(
  ('edit', 'message'),
  [
    (_slice((32,), (16,)), r'variables: variable bert/pooler/dense is missing'),
    (
      lambda g: setattr(_bias(g).attr['shared_name'], 's', b'other'),
      r'variables: variable other is missing \(in the graph: of shape \[16\]',
    ),
    (
      lambda g: setattr(_bias(g).attr['shared_name'], 's', b'cls/seq_relationship/output_bias'),
      r'is of shape \[2\], dtype float32 \(in',
    ),
  ],
)
def test_variable_that_the_checkpoint_lacks(own_module, start_run, edit, message):
  modules.edit_graph(own_module, edit)
  modules.edit_graph(own_module, edit, ['train'])
  with start_run(own_module) as run, pytest.raises(errors.UntrustedGraphError, match=message):
    run.outputs()


def _bias(meta_graph):
  return next(node for node in meta_graph.graph_def.node if node.name == 'bert/pooler/dense/bias')
