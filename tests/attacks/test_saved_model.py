"""Entries 13 to 24: graphs that are broken or hostile."""

import os

import numpy as np
import pytest
import tensorflow as tf
from support import craft
from support import modules
from tensorflow.core.framework import attr_value_pb2
from tensorflow.core.framework import graph_pb2
from tensorflow.core.framework import node_def_pb2
from tensorflow.core.framework import tensor_shape_pb2
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

from converters import errors
from converters import interface
from export.source import graph as source_graph
from export.source import policy as source_policy

ALL = tuple(interface.SIGNATURES)
GRAPHS = pytest.mark.parametrize('tags', [(), ('train',)], ids=['plain', 'train'])
LOWER_CASE = 'Const'  # the node behind the output do_lower_case
TRUSTED = source_policy.Trust(graph=True)


def _edited(refused, module, edit, message, error=errors.SourceError, tags=(), **options):
  modules.edit_graph(module, edit, tags)
  refused(module, message, error, **options)


@pytest.mark.parametrize(
  'damage, message',
  [
    (lambda path: path.unlink(), 'no saved_model.pb'),
    (lambda path: path.write_bytes(b''), 'saved_model.pb: 0 metagraphs without tags, not 1'),
    (lambda path: (path.unlink(), path.mkdir()), 'saved_model.pb: cannot be read'),
  ],
  ids=['missing', 'empty', 'a directory'],
)
def test_13_no_graph(refused, own_module, damage, message):
  damage(own_module / 'saved_model.pb')
  refused(own_module, message)


@pytest.mark.parametrize(
  'content',
  [
    lambda c: c[: len(c) // 2],
    lambda c: c[:-1],
    lambda c: np.random.default_rng(0).bytes(len(c)),
    lambda c: c + b'\xff',
  ],
  ids=['half', 'all but one', 'random', 'one more'],
)
def test_14_broken_graph(refused, own_module, content):
  path = own_module / 'saved_model.pb'
  path.write_bytes(content(path.read_bytes()))
  refused(own_module, 'not a SavedModel|metagraphs without tags, not 1')


def test_15_absurd_nesting(refused, own_module):
  # Deeply nested functions as attributes.
  attribute = b''
  for _ in range(5000):
    attribute = craft.field(10, craft.field(1, b'f') + craft.field(2, craft.field(1, b'x') + craft.field(2, attribute)))
  node = (
    craft.field(1, b'n') + craft.field(2, b'NoOp') + craft.field(5, craft.field(1, b'x') + craft.field(2, attribute))
  )
  path = own_module / 'saved_model.pb'
  path.write_bytes(path.read_bytes() + craft.field(2, craft.field(2, craft.field(1, node))))
  refused(own_module, 'saved_model.pb: not a SavedModel')


@pytest.mark.parametrize(
  'name, size',
  [
    ('saved_model.pb', 1 << 40),
    ('tfhub_module.pb', 1 << 20),
    ('assets/30k-clean.model', 1 << 40),
    ('assets/30k-clean.vocab', 1 << 40),
    ('assets/albert_config.json', 1 << 30),
  ],
)
def test_15_absurd_size(refused, own_module, name, size):
  os.truncate(own_module / name, size)
  refused(own_module, f'{name}: more than .* bytes')


@pytest.mark.parametrize(
  'name',
  [
    'saved_model.pb',
    'tfhub_module.pb',
    'assets/albert_config.json',
    'assets/30k-clean.model',
    'variables/variables.index',
  ],
)
@pytest.mark.parametrize('what', ['endless', 'pipe'])
def test_15_file_that_never_ends(refused, own_module, name, what):
  (own_module / name).unlink()
  if what == 'pipe':
    os.mkfifo(own_module / name)
  else:
    (own_module / name).symlink_to('/dev/zero')
  refused(own_module, f'not a regular file.*|{name}')


def test_16_no_tokens(refused, own_module):
  _edited(
    refused,
    own_module,
    lambda g: g.signature_def.pop('tokens'),
    r'saved_model.pb: no `tokens` signature \(there are: mlm, sop, tokenization_info\)',
  )


def _rename_input(graph):
  inputs = graph.signature_def['tokens'].inputs
  inputs['ids'].CopyFrom(inputs['input_ids'])
  del inputs['input_ids']


def _set_input(**fields):
  return lambda graph: graph.signature_def['tokens'].inputs['input_mask'].MergeFrom(meta_graph_pb2.TensorInfo(**fields))


def _shape(rank):
  # Merged with the two existing dimensions.
  return tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=-1)] * (rank - 2))


@pytest.mark.parametrize(
  'edit, message',
  [
    (_rename_input, r"signature `tokens` has inputs \['ids', 'input_mask', 'segment_ids'\], no input_ids"),
    (_set_input(dtype=9999), 'signature `tokens` has input_mask of dtype 9999 instead of int32'),
    (_set_input(dtype=types_pb2.DT_INT64), 'signature `tokens` has input_mask of dtype int64 instead of int32'),
    (_set_input(tensor_shape=_shape(3)), 'signature `tokens` has input_mask of rank 3 instead of 2'),
    (lambda g: g.signature_def['mlm'].outputs.pop('mlm_logits'), 'signature `mlm` has no mlm_logits'),
  ],
)
def test_17_wrong_signature(refused, own_module, edit, message):
  _edited(refused, own_module, edit, message)


def test_17_signature_of_tensors_that_are_not_there(refused, own_module):
  def edit(graph):
    graph.signature_def['tokens'].outputs['pooled_output'].name = 'nowhere:0'

  _edited(refused, own_module, edit, 'running saved_model.pb failed')


def test_17_sparse_tensor_in_a_signature(own_module):
  def edit(meta_graph):
    meta_graph.signature_def['tokens'].outputs['pooled_output'].coo_sparse.values_tensor_name = 'input_ids:0'

  with pytest.raises(errors.UntrustedGraphError, match='no plain tensor pooled_output in signature tokens'):
    source_graph.reduced(source_graph.check(modules.edit_graph(own_module, edit)), ALL)


def _add_node(op):
  return lambda meta_graph: meta_graph.graph_def.node.add(name='hidden/here', op=op)


def _add_function(meta_graph):
  function = meta_graph.graph_def.library.function.add()
  function.node_def.add(name='hidden/here', op='ReadFile')


@GRAPHS
@pytest.mark.parametrize(
  'edit',
  [_add_node('WriteFile'), _add_node('PartitionedCall'), _add_node('Print'), _add_function],
  ids=['WriteFile', 'PartitionedCall', 'Print', 'function'],
)
def test_18_operation_off_the_list(refused, own_module, edit, tags):
  _edited(
    refused,
    own_module,
    edit,
    "saved_model.pb: operation .* at node 'hidden/here' is not on the allow-list; .*option trust_source=True",
    errors.UntrustedGraphError,
    tags,
  )


@pytest.mark.parametrize('op', ['AssignVariableOp', 'TruncatedNormal', 'SaveV2', 'RestoreV2'])
def test_18_operation_that_no_signature_needs(own_module, op):
  def edit(meta_graph):
    node = meta_graph.signature_def['tokens'].outputs['pooled_output'].name.split(':')[0]
    meta_graph.graph_def.node.add(name='hidden/here', op=op)
    next(n for n in meta_graph.graph_def.node if n.name == node).input.append('^hidden/here')

  with pytest.raises(
    errors.UntrustedGraphError, match=f"operation {op} at node 'hidden/here' is not allowed in a signature"
  ):
    source_graph.reduced(source_graph.check(modules.edit_graph(own_module, edit)), ALL)


def _through(op, **attributes):
  """Inserts an operation between the pooled output and its signature."""

  def edit(meta_graph):
    output = meta_graph.signature_def['tokens'].outputs['pooled_output']
    node = meta_graph.graph_def.node.add(name='hidden/here', op=op, input=[output.name])
    node.attr['T'].type = types_pb2.DT_FLOAT
    for name, value in attributes.items():
      node.attr[name].CopyFrom(value)
    output.name = 'hidden/here:0'

  return edit


@pytest.mark.slow
def test_18_operation_of_a_source_that_is_trusted(release, own_module):
  modules.edit_graph(own_module, _through('CheckNumerics', message=attr_value_pb2.AttrValue(s=b'no number')))
  with pytest.raises(errors.UntrustedGraphError, match='CheckNumerics at node'):
    release(own_module)
  assert not release.root.exists()
  path, _ = release(own_module, trust=TRUSTED)
  assert (path / 'saved_model.pb').exists()


def _graph():
  # The additional node disguises the file as another format.
  return graph_pb2.GraphDef(
    node=[node_def_pb2.NodeDef(name='', op='?'), node_def_pb2.NodeDef(name='x', op='WriteFile')]
  )


def test_18_a_saver_in_the_module_is_never_run(own_module, start_run, tmp_path):
  """A module's SaverDef could restore any file, so variables are assigned from the module's checkpoint instead."""

  def edit(meta_graph):
    saving = _save_to(meta_graph, tmp_path / 'pwned')
    meta_graph.saver_def.restore_op_name = saving
    meta_graph.saver_def.filename_tensor_name = 'evil/prefix:0'

  modules.edit_graph(own_module, edit)
  with start_run(own_module, ['tokens']) as run:
    assert run.outputs()[1]['tokens/pooled_output'].shape == (4, 16)
  assert not list(tmp_path.glob('pwned*'))


HIDDEN = {
  'GraphDef': _graph().SerializeToString(),
  'MetaGraphDef': meta_graph_pb2.MetaGraphDef(graph_def=_graph()).SerializeToString(),
  'SavedModel': saved_model_pb2.SavedModel(
    meta_graphs=[meta_graph_pb2.MetaGraphDef(graph_def=_graph())]
  ).SerializeToString(),
}


def _in_constant(content):
  return lambda m: (
    m.graph_def.node.add(name='hidden/here', op='Const')
    .attr['value']
    .tensor.CopyFrom(tf.make_tensor_proto(np.array([b'x', content], object)))
  )


def _in_bytes(content):
  return lambda m: (
    m.graph_def.node.add(name='hidden/here', op='Const')
    .attr['value']
    .tensor.CopyFrom(tf.make_tensor_proto(np.frombuffer(content, np.uint8)))
  )


def _in_attribute(content):
  def edit(m):
    m.graph_def.node.add(name='hidden/here', op='NoOp').attr['_config'].s = content

  return edit


def _in_list(content):
  return lambda m: (
    m.graph_def.library.function.add()
    .node_def.add(name='hidden/here', op='NoOp')
    .attr['_config']
    .list.s.append(content)
  )


def _in_numbers(content):
  return lambda m: m.graph_def.node.add(name='hidden/here', op='Const').attr['value'].tensor.int_val.extend(content)


def _in_function_attribute(content):
  def edit(m):
    m.graph_def.library.function.add().attr['value'].s = content
    m.graph_def.library.function[-1].signature.name = 'hidden/here'

  return edit


def _in_nested_attribute(content):
  def edit(m):
    m.graph_def.node.add(name='hidden/here', op='NoOp').attr['_config'].func.attr['value'].s = content

  return edit


@GRAPHS
@pytest.mark.parametrize(
  'place', [_in_constant, _in_bytes, _in_attribute, _in_list, _in_numbers, _in_function_attribute, _in_nested_attribute]
)
@pytest.mark.parametrize('kind', HIDDEN)
@pytest.mark.parametrize('trust', [source_policy.Trust(), TRUSTED], ids=['', 'trusted'])
def test_19_hidden_graph(own_module, place, kind, tags, trust):
  path = modules.edit_graph(own_module, place(HIDDEN[kind]), tags)
  with pytest.raises(
    errors.UntrustedGraphError,
    match="saved_model.pb: attribute (value|_config) of (node|function) 'hidden/here' contains a graph",
  ):
    source_graph.check(path, trust.graph)


@pytest.mark.parametrize(
  'op', ['PyFunc', 'EagerPyFunc', 'PyFuncStateless', 'MyCustomOp', 'Abort', 'ReadFile', 'ImportEvent']
)
def test_20_program(refused, own_module, op):
  _edited(refused, own_module, _add_node(op), f"operation {op} at node 'hidden/here'", errors.UntrustedGraphError)


def _save_to(meta_graph, path):
  """Adds an operation that writes a file, and returns its name."""

  def constant(name, value):
    node = meta_graph.graph_def.node.add(name=name, op='Const')
    node.attr['dtype'].type = (
      tf.as_dtype(value.dtype).as_datatype_enum if value.dtype.kind == 'f' else tf.string.as_datatype_enum
    )
    node.attr['value'].tensor.CopyFrom(tf.make_tensor_proto(value))

  constant('evil/prefix', np.array(str(path).encode(), object))
  constant('evil/names', np.array([b'x'], object))
  constant('evil/slices', np.array([b''], object))
  constant('evil/value', np.zeros(3, np.float32))
  node = meta_graph.graph_def.node.add(
    name='evil/save', op='SaveV2', input=['evil/prefix', 'evil/names', 'evil/slices', 'evil/value']
  )
  node.attr['dtypes'].list.type.append(tf.float32.as_datatype_enum)
  return node.name


def _in_collection(name):
  return lambda meta_graph, saving: meta_graph.collection_def[name].node_list.value.append(saving)


def _as_init_signature(meta_graph, saving):
  meta_graph.signature_def['__saved_model_init_op'].outputs['__saved_model_init_op'].name = saving


def _as_sparse_output(meta_graph, saving):
  nodes = {n.name: n for n in meta_graph.graph_def.node}
  nodes['evil/value'].input.append(f'^{saving}')
  sparse = meta_graph.signature_def['tokens'].outputs['extra'].coo_sparse
  sparse.values_tensor_name = sparse.indices_tensor_name = sparse.dense_shape_tensor_name = 'evil/value:0'


@pytest.mark.parametrize(
  'way',
  [
    _in_collection('saved_model_main_op'),
    _in_collection('legacy_init_op'),
    _in_collection('table_initializer'),
    _in_collection('local_variables'),
    _as_init_signature,
    _as_sparse_output,
  ],
  ids=['main_op', 'legacy_init_op', 'table_initializer', 'local_variables', 'init signature', 'sparse output'],
)
def test_20_what_a_loader_would_run_unasked_is_not_run(own_module, start_run, tmp_path, way):
  modules.edit_graph(own_module, lambda meta_graph: way(meta_graph, _save_to(meta_graph, tmp_path / 'pwned')))
  with start_run(own_module, ['tokens']) as run:
    assert run.outputs()[1]['tokens/pooled_output'].shape == (4, 16)
    assert run.gradient()['bert/pooler/dense/bias'].shape == (16,)
  assert not list(tmp_path.glob('pwned*'))


def test_20_the_saving_operation_would_write(own_module, tmp_path):
  # Control: the test above can fail.
  modules.edit_graph(
    own_module,
    lambda meta_graph: _in_collection('table_initializer')(meta_graph, _save_to(meta_graph, tmp_path / 'pwned')),
  )
  tf.saved_model.load(str(own_module), tags=[])
  assert list(tmp_path.glob('pwned*'))


def _functions(*calls):
  def edit(meta_graph):
    for number, (caller, called) in enumerate(calls):
      function = meta_graph.graph_def.library.function.add()
      function.signature.name = caller
      if number % 2:
        function.node_def.add(name='n', op=called)
      else:
        function.node_def.add(name='n', op='PartitionedCall').attr['f'].func.name = called

  return edit


@GRAPHS
@pytest.mark.parametrize('calls', [[('f', 'f')], [('f', 'g'), ('g', 'h'), ('h', 'f')], [('f', 'g'), ('g', 'g')]])
@pytest.mark.parametrize('trust', [source_policy.Trust(), TRUSTED], ids=['', 'trusted'])
def test_21_recursive_functions(own_module, calls, tags, trust):
  path = modules.edit_graph(own_module, _functions(*calls), tags)
  with pytest.raises(errors.UntrustedGraphError, match="saved_model.pb: function '[fgh]' is recursive"):
    source_graph.check(path, trust.graph)


def test_21_a_long_chain_of_functions(own_module):
  # A reader with quadratic time would not end.
  source_graph.check(
    modules.edit_graph(own_module, _functions(*((f'f{n}', f'f{n + 1}') for n in range(20_000)))), trusted=True
  )


def test_21_functions_that_are_not(own_module):
  source_graph.check(modules.edit_graph(own_module, _functions(('f', 'g'), ('g', 'h'), ('f2', 'h'))), trusted=True)


@GRAPHS
@pytest.mark.parametrize('name', ['../../etc/passwd', '/etc/passwd', '..', '', 'x/../../y', 'a\\b', 'a\nb'])
def test_22_asset_that_leads_out(refused, own_module, name, tags):
  def edit(meta_graph):
    asset = meta_graph.collection_def['saved_model_assets'].any_list.value
    asset.add().Pack(meta_graph_pb2.AssetFileDef(filename=name))

  _edited(refused, own_module, edit, r'saved_model.pb: asset .* is outside of assets/', tags=tags)


def test_22_asset_of_a_newer_kind_that_leads_out(refused, own_module):
  _edited(
    refused,
    own_module,
    lambda m: m.asset_file_def.add(filename='../x'),
    r"saved_model.pb: asset '\.\./x' is outside of assets/",
  )


@pytest.mark.parametrize('shape', [[1 << 40], [1 << 31, 1 << 31, 1 << 31], [-5], [1 << 62, 4]])
def test_23_overflowing_shape(refused, own_module, shape):
  def edit(meta_graph):
    node = next(n for n in meta_graph.graph_def.node if n.op == 'Const')
    node.attr['value'].tensor.CopyFrom(tf.make_tensor_proto(0.0))
    for size in shape:
      node.attr['value'].tensor.tensor_shape.dim.add(size=size)

  _edited(refused, own_module, edit, r'saved_model.pb: shape \[.*\] at node ', errors.UntrustedGraphError)


@pytest.mark.parametrize('shape', [[1 << 62, 4], [-5]])
def test_23_overflowing_attribute(refused, own_module, shape):
  def edit(meta_graph):
    for size in shape:
      meta_graph.graph_def.node.add(name='hidden/here', op='Placeholder').attr['shape'].shape.dim.add(size=size)
    meta_graph.graph_def.node[-1].attr['shape'].shape.dim.extend(
      tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in shape
    )

  _edited(refused, own_module, edit, r"shape \[.*\] at node 'hidden/here'", errors.UntrustedGraphError)


@pytest.mark.parametrize(
  'change',
  [
    lambda t: t.tensor_shape.dim.add(size=1 << 37),
    lambda t: setattr(t, 'dtype', 0),
    lambda t: t.ClearField('bool_val'),
  ],
)
def test_23_constant_that_is_read(refused, own_module, change):
  def edit(meta_graph):
    change(next(n for n in meta_graph.graph_def.node if n.name == LOWER_CASE).attr['value'].tensor)

  _edited(refused, own_module, edit, 'saved_model.pb: do_lower_case is not true or false')


@pytest.mark.parametrize(
  'damage, message',
  [
    (lambda path: path.unlink(), 'no tfhub_module.pb, but the variables of a TF1 Hub module'),
    (lambda path: path.write_bytes(b''), 'unknown format in tfhub_module.pb'),
    (lambda path: path.write_bytes(b'\x08\x09'), 'unknown format in tfhub_module.pb'),
  ],
  ids=['missing', 'empty', 'format 9'],
)
def test_24_format(refused, own_module, damage, message):
  damage(own_module / 'tfhub_module.pb')
  refused(own_module, message)
