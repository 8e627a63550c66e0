"""Of a source's graph only what is needed may be run, and only if every operation in it is on the allow-list."""


import conftest
import numpy as np
import pytest

from converters import errors
from export.proof import source_graph

ALL = tuple(source_graph.SIGNATURES)


@pytest.mark.parametrize('tags', [(), ('train',)])
@pytest.mark.parametrize('changes', [{}, dict(hidden_dropout=0.1, attention_dropout=0.1)])
def test_only_what_the_signatures_need_is_kept(make_module, changes, tags):
  path = make_module(**changes) / 'saved_model.pb'
  checked = source_graph.check(path)
  part = source_graph.reduced(checked, ['tokens'], tags)
  assert list(part.inputs) == list(part.outputs) == ['tokens']
  assert list(part.outputs['tokens']) == ['pooled_output', 'sequence_output', 'layer_0', 'layer_1', 'layer_2']
  assert len(part.handles) == 32 and part.handles['bert/pooler/dense/bias'] == 'bert/pooler/dense/bias:0'
  names = [n.name for n in part.graph_def.node]
  assert not [n for n in names if n.startswith(('mlm/', 'sop/', 'do_lower_case'))]
  assert not {n.op for n in part.graph_def.node} & {'SaveV2', 'MergeV2Checkpoints', 'ShardedFilename', 'TruncatedNormal'}
  assert len(source_graph.reduced(checked, ALL, tags).graph_def.node) > 2 * len(names)


def test_module_without_the_metagraph_is_refused(own_module):
  with pytest.raises(errors.UntrustedGraphError, match=r"no metagraph with tags \['other'\] in "):
    source_graph.reduced(source_graph.check(own_module / 'saved_model.pb'), ALL, ['other'])


@pytest.mark.parametrize('changes, tags', [({}, ()), ({}, ('train',)), (dict(hidden_dropout=0.1, attention_dropout=0.1), ('train',))])
def test_merged_graph_has_one_encoder_unless_it_is_random(make_module, changes, tags):
  checked = source_graph.check(make_module(**changes) / 'saved_model.pb')
  graph, alone = source_graph.reduced(checked, ALL, tags), source_graph.merged(source_graph.reduced(checked, ['tokens'], tags))
  merged = source_graph.merged(graph)
  ops = [node.op for node in merged.graph_def.node]
  encoders = 3 if changes else 1
  assert ops.count('Softmax') == encoders * [node.op for node in alone.graph_def.node].count('Softmax') == encoders * 3
  assert ops.count('RandomUniform') == [node.op for node in graph.graph_def.node].count('RandomUniform')
  same = {merged.outputs[name]['sequence_output'] for name in ALL}
  assert len(same) == encoders
  assert merged.handles == graph.handles and (merged.restore, merged.filename) == (graph.restore, graph.filename)
  names = {node.name for node in merged.graph_def.node}
  assert {tensor.lstrip('^').split(':')[0] for node in merged.graph_def.node for tensor in node.input} <= names


def test_signature_that_differs_stays_apart(own_module):
  def edit(meta_graph):
    tanh = meta_graph.signature_def['sop'].outputs['pooled_output'].name.split(':')[0]
    next(n for n in meta_graph.graph_def.node if n.name == tanh).op = 'Identity'
  conftest.edit_graph(own_module, edit)
  merged = source_graph.merged(source_graph.reduced(source_graph.check(own_module / 'saved_model.pb'), ALL))
  assert merged.outputs['tokens']['pooled_output'] == merged.outputs['mlm']['pooled_output'] != merged.outputs['sop']['pooled_output']
  assert merged.outputs['tokens']['sequence_output'] == merged.outputs['sop']['sequence_output']


def test_variables_that_are_named_by_their_nodes_stay_apart(own_module):
  def edit(meta_graph):
    for node in meta_graph.graph_def.node:
      if node.op == 'VarHandleOp':
        node.attr['shared_name'].s = node.attr['debug_name'].s = b''
  conftest.edit_graph(own_module, edit)
  graph = source_graph.reduced(source_graph.check(own_module / 'saved_model.pb'), ALL)
  assert source_graph.merged(graph).handles == graph.handles and len(set(graph.handles.values())) == 32


def test_graph_with_a_loop_is_left_as_it_is(own_module):
  def edit(meta_graph):
    node = meta_graph.signature_def['tokens'].outputs['pooled_output'].name.split(':')[0]
    found = next(n for n in meta_graph.graph_def.node if n.name == node)
    found.input.append(f'^{node}')
  conftest.edit_graph(own_module, edit)
  graph = source_graph.reduced(source_graph.check(own_module / 'saved_model.pb'), ALL)
  assert source_graph.merged(graph) is graph


def test_what_nodes_are_placed_with_may_be_merged(own_module, start_run):
  def edit(meta_graph):
    for name in ('mlm', 'sop'):
      tanh = meta_graph.signature_def[name].outputs['pooled_output'].name.split(':')[0]
      node = next(n for n in meta_graph.graph_def.node if n.name == tanh)
      node.attr['_class'].list.s.append(b'loc:@' + node.input[0].encode())
  conftest.edit_graph(own_module, edit)
  with start_run(own_module) as run:
    outputs = run.outputs()
  assert np.array_equal(outputs['mlm/pooled_output'], outputs['tokens/pooled_output'])
