"""Of a source's graph only what is needed may be run, and only if every operation in it is on the allow-list."""


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
