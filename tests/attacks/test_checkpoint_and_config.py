"""Entries 25 to 35: weights and sizes that are damaged, forged, or of another model."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from support import craft
from tensorflow.core.framework import types_pb2

from converters import build_encoder
from converters import errors
from converters import source as source_lib
from converters import weight_map
from converters.readers import checkpoint_index

INDEX = 'variables/variables.index'
KERNEL = 'bert/pooler/dense/kernel'


@pytest.mark.parametrize(
  'damage, message',
  [
    (lambda m: (m / craft.DATA).unlink(), 'variables: variables.data-00000-of-00001 is missing '),
    (lambda m: os.truncate(m / craft.DATA, 5000), 'variables: tensor .* extends past the end of its data file'),
    (
      lambda m: os.truncate(m / craft.DATA, (m / craft.DATA).stat().st_size - 1),
      'variables: tensor .* extends past the end of its data file',
    ),
    (
      lambda m: shutil.copy(m / craft.DATA, m / 'variables/variables.data-00001-of-00002'),
      'variables.data-00001-of-00002 is unexpected ',
    ),
    (
      lambda m: shutil.copy(m / craft.DATA, m / 'variables/variables.data-00001-of-00001'),
      'variables.data-00001-of-00001 is unexpected ',
    ),
    (lambda m: (m / INDEX).unlink(), 'variables: no variables.index'),
  ],
  ids=['missing', 'half', 'cut', 'extra', 'number', 'no index'],
)
def test_25_shards(refused, own_module, damage, message):
  damage(own_module)
  refused(own_module, message)


@pytest.mark.parametrize('position', [0.01, 0.5, 0.99])
def test_26_flipped_bit_in_the_weights(refused, own_module, position):
  craft.flip(own_module / craft.DATA, int(position * (own_module / craft.DATA).stat().st_size), 3)
  refused(own_module, 'variables/variables: [a-z]+/[a-z_/]+ cannot be read .*; fetch the module again')


def test_26_flipped_bit_in_the_index(own_module):
  path = own_module / INDEX
  right, content = checkpoint_index.read(path), path.read_bytes()
  noticed = 0
  for position in range(len(content)):
    craft.flip(path, position, position % 8)
    try:
      assert checkpoint_index.read(path) == right, position  # in unread bytes: padding, the empty meta index
    except errors.CheckpointError:
      noticed += 1
    path.write_bytes(content)
  assert noticed > len(content) - 60


def _entry(dtype=1, shape=(4,), shard=0, offset=0, size=16):
  dimensions = b''.join(craft.field(2, craft.field(1, d)) for d in shape)
  return (
    craft.field(1, dtype)
    + craft.field(2, dimensions)
    + craft.field(3, shard)
    + craft.field(4, offset)
    + craft.field(5, size)
    + b'\x35\0\0\0\0'
  )


HEADER = craft.field(1, 1) + craft.field(3, craft.field(1, 1))
HOSTILE = {
  'random': lambda: np.random.default_rng(0).bytes(3000),
  'empty': lambda: b'',
  'a number without an end': lambda: craft.index([craft.sealed(b'\xff' * 40 + bytes(4) + b'\1\0\0\0')]),
  'a name that shares what is not there': lambda: craft.index([craft.sealed(b'\x09\1\1ax' + bytes(4) + b'\1\0\0\0')]),
  'longer than its block': lambda: craft.index([craft.sealed(b'\0\xff\x7f\1ax' + bytes(4) + b'\1\0\0\0')]),
  'more restart points than bytes': lambda: craft.index([craft.sealed(b'\xff\xff\xff\x7f')]),
  'the same block again and again': lambda: craft.index(
    [craft.block([(b'', HEADER)])], [(0, len(craft.block([(b'', HEADER)])) - 5)] * 100_000
  ),
  'a block behind the end': lambda: craft.index([craft.block([(b'', HEADER)])], [(1 << 40, 20)]),
  'a compressed block': lambda: craft.index([craft.block([(b'', HEADER)], compression=1)]),
  'another checksum': lambda: craft.index([craft.block([(b'', HEADER)])[:-1] + b'?']),
  'names out of order': lambda: craft.index([craft.block([(b'', HEADER), (b'b', _entry()), (b'a', _entry())])]),
  'no header': lambda: craft.index([craft.block([(b'a', _entry())])]),
  'big-endian': lambda: craft.index([craft.block([(b'', HEADER + craft.field(2, 1)), (b'a', _entry())])]),
  'a billion shards': lambda: craft.index([craft.block([(b'', craft.field(1, 1 << 30)), (b'a', _entry())])]),
  'a shard that is not there': lambda: craft.index([craft.block([(b'', HEADER), (b'a', _entry(shard=7))])]),
  'an offset that overflows': lambda: craft.index([craft.block([(b'', HEADER), (b'a', _entry(offset=(1 << 64) - 8))])]),
  'a size that overflows': lambda: craft.index(
    [craft.block([(b'', HEADER), (b'a', _entry(shape=(1 << 62, 1 << 62)))])]
  ),
  'a negative size': lambda: craft.index([craft.block([(b'', HEADER), (b'a', _entry(shape=((1 << 64) - 4,)))])]),
  'an entry that is cut off': lambda: craft.index([craft.block([(b'', HEADER), (b'a', _entry()[:-6] + b'\x12\x70')])]),
  'names that are long again and again': lambda: craft.index(
    [
      craft.sealed(
        b'\0\0'
        + craft.varint(len(HEADER))
        + HEADER
        + b''.join(
          craft.varint(0 if not n else 4080)
          + craft.varint(4083 if not n else 3)
          + b'\0'
          + (b'x' * 4080 if not n else b'')
          + n.to_bytes(3, 'big')
          for n in range(10_000)
        )
        + bytes(4)
        + b'\1\0\0\0'
      )
    ]
  ),
  'too large': lambda: bytes(1 << 25),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_27_hostile_index(refused, own_module, case):
  (own_module / INDEX).write_bytes(HOSTILE[case]())
  refused(own_module, 'variables.*: .*; fetch (it|them|the file) again', errors.CheckpointError)


def test_27_index_that_says_one_block_often(own_module):
  # A block without entries has no duplicate names, so a few bytes could cause endless work.
  (own_module / INDEX).write_bytes(craft.index([craft.block([])], [(0, 8)] * 1000))
  with pytest.raises(errors.CheckpointError, match='overlapping blocks'):
    checkpoint_index.read(own_module / INDEX)


def test_27_an_index_of_this_make_is_read(tmp_path):
  # Control: the test above does not refuse every input.
  path = tmp_path / 'variables.index'
  path.write_bytes(
    craft.index([craft.block([(b'', HEADER), (b'a', _entry())]), craft.block([(b'b', _entry(offset=16))])])
  )
  (tmp_path / 'variables.data-00000-of-00001').write_bytes(bytes(32))
  index = checkpoint_index.read(path)
  checkpoint_index.check_data_files(index, path.with_suffix(''))
  assert index == checkpoint_index.Index(
    {'a': checkpoint_index.Entry(1, (4,), 0, 0, 16), 'b': checkpoint_index.Entry(1, (4,), 0, 16, 16)}, 1
  )


def test_28_missing_variables(refused, own_module):
  names = ['bert/embeddings/LayerNorm/beta', KERNEL, 'cls/predictions/output_bias']
  craft.rewrite_checkpoint(own_module, lambda tensors: [tensors.pop(name) for name in names])
  refused(
    own_module,
    f'/variables: 3 weights do not fit .missing {names[0]}; missing {names[1]}; missing {names[2]}.',
    errors.MappingError,
  )


def test_29_unexpected_variables(refused, own_module, source):
  craft.rewrite_checkpoint(own_module, lambda tensors: tensors.update({'global_step': np.int64(125_000)}))
  with source_lib.open_source(str(own_module)) as opened:  # on the ignore list
    assert opened.parts == source.parts
  craft.rewrite_checkpoint(
    own_module,
    lambda tensors: tensors.update({f'{KERNEL}/adam_m': np.zeros(3, np.float32), 'backdoor': np.ones((), np.float32)}),
  )
  refused(own_module, f'2 weights do not fit .*unexpected backdoor; unexpected {KERNEL}/adam_m', errors.MappingError)


def test_29_unexpected_variables_beyond_number(refused, own_module):
  pairs = craft.index_pairs(own_module / INDEX)
  pairs = sorted([*pairs, *((f'x{number}'.encode(), pairs[-1][1]) for number in range(3000))])
  (own_module / INDEX).write_bytes(craft.index([craft.block(pairs)]))
  refused(own_module, '3000 weights do not fit .unexpected x0; .*; and more.;', errors.MappingError)


def test_30_two_sources_for_one_target(refused, own_module):
  pairs = craft.index_pairs(own_module / INDEX)
  place = next(i for i, (key, _) in enumerate(pairs) if key == KERNEL.encode())
  pairs.insert(place, (KERNEL.encode(), pairs[place - 1][1]))
  (own_module / INDEX).write_bytes(craft.index([craft.block(pairs)]))
  refused(own_module, f"'{KERNEL}' is out of order or duplicate", errors.CheckpointError)


def test_30_two_sources_for_one_target_in_the_table(config):
  rows = weight_map.rows(config, set(weight_map.Part))
  created = [(row.tf_models, weight_map.shape(row.tf_models_shape, config)) for row in rows]
  weight_map.check_model(config, set(weight_map.Part), created)
  with pytest.raises(errors.MappingError, match=f'variable {rows[3].tf_models} exists twice'):
    weight_map.check_model(config, set(weight_map.Part), [*created, created[3]])


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda v: v[:, :8], r'has shape \[16, 8\], not \[16, 16\]'),
    (lambda v: v.ravel(), r'has shape \[256\], not \[16, 16\]'),
    (lambda v: v.astype(np.float64), 'is float64, not float32'),
    (lambda v: v.astype(np.float16), 'is float16, not float32'),
    (lambda v: v.astype(np.float16)[:8], r'has shape \[8, 16\], not \[16, 16\]; .* is float16, not float32'),
  ],
)
def test_31_wrong_shape_or_dtype(refused, own_module, change, message):
  craft.rewrite_checkpoint(own_module, lambda tensors: tensors.update({KERNEL: change(tensors[KERNEL])}))
  refused(own_module, f'{KERNEL} {message}', errors.MappingError)


def test_31_bytes_that_are_no_such_tensor(refused, own_module):
  pairs = [
    (key, value if key != KERNEL.encode() else _entry(shape=(16, 16), size=17 * 16 * 4))
    for key, value in craft.index_pairs(own_module / INDEX)
  ]
  (own_module / INDEX).write_bytes(craft.index([craft.block(pairs)]))
  refused(own_module, rf'{KERNEL} has 1088 bytes for shape \[16, 16\]', errors.CheckpointError)


def _index_entry(dtype, *shape, size=0, slices=()):
  dims = b''.join(craft.field(2, craft.field(1, value)) for value in shape)
  return (
    craft.field(1, dtype)
    + craft.field(2, dims)
    + craft.field(5, size)
    + b''.join(craft.field(7, value) for value in slices)
  )


def _extent(start, length):
  return craft.field(1, craft.field(1, start) + craft.field(2, length))


@pytest.mark.parametrize(
  'entry, message',
  [
    (_index_entry(9, (1 << 64) - 1), 'global_step has the invalid shape'),
    (_index_entry(9, 1 << 62, 1 << 62), 'global_step has the invalid shape'),
    (_index_entry(9, *[1] * 300, size=8), 'global_step has the invalid shape'),
    (_index_entry(9, 4, size=8), r'global_step has 8 bytes for shape \[4\]'),
    (_index_entry(9999), 'global_step has dtype number 9999'),
    (_index_entry(0), 'global_step has dtype number 0'),
    (_index_entry(1, 1 << 30, slices=[_extent(0, 1 << 30)]), 'global_step has .* bytes for shape'),
    (_index_entry(1, 4, slices=[_extent(2, 3)]), 'a slice outside of its tensor'),
    (_index_entry(1, 4, slices=[_extent((1 << 64) - 1, 1)]), 'a slice outside of its tensor'),
    (_index_entry(1, 4, slices=[b'\xff\xff']), 'not a checkpoint index'),
  ],
  ids=[
    'negative',
    'too large',
    'rank',
    'size',
    'dtype',
    'no dtype',
    'a large tensor of nothing',
    'piece',
    'negative piece',
    'no piece',
  ],
)
def test_31_entry_that_nobody_asked_for(refused, own_module, entry, message):
  # TensorFlow's native reader checks these with CHECK, which ends the process.
  pairs = sorted([*craft.index_pairs(own_module / INDEX), (b'global_step', entry)])
  (own_module / INDEX).write_bytes(craft.index([craft.block(pairs)]))
  refused(own_module, message, errors.CheckpointError)


def test_32_partitioned_variable_is_assembled(own_module, source):
  prefix = str(own_module / 'variables/variables')
  reader = tf.train.load_checkpoint(prefix)
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    for name, shape in reader.get_variable_to_shape_map().items():
      partitioner = tf.compat.v1.fixed_size_partitioner(3) if name.endswith('word_embeddings') else None
      tf.compat.v1.get_variable(
        name, shape, partitioner=partitioner, initializer=tf.compat.v1.zeros_initializer(), use_resource=True
      )
    for variable in tf.compat.v1.global_variables():
      part = variable._get_save_slice_info()
      name = part.full_name if part else variable.name.removesuffix(':0')
      first = part.var_offset[0] if part else None
      variable.load(
        reader.get_tensor(name)[first : first + part.var_shape[0]] if part else reader.get_tensor(name), session
      )
    tf.compat.v1.train.Saver(max_to_keep=None).save(session, prefix, write_meta_graph=False, write_state=False)
  assert any(entry.sliced for entry in checkpoint_index.read(own_module / INDEX).entries.values())
  with source_lib.open_source(str(own_module)) as opened:
    for row in weight_map.rows(source.config, source.parts):
      assert np.array_equal(opened.tensor(row), source.tensor(row)), row.name


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_33_not_finite(refused, own_module, value):
  def change(tensors):
    tensors[KERNEL][3, 5] = value

  craft.rewrite_checkpoint(own_module, change)
  refused(own_module, f'variables/variables: NaN or infinity in {KERNEL};')


class _Wrong:
  """Sources of a converter, each with one fault."""

  def __init__(self, source, tensor):
    self._source = source
    self.tensor = tensor

  def __getattr__(self, attribute):
    return getattr(self._source, attribute)


@pytest.mark.parametrize(
  'name',
  [
    'attention.query.kernel',
    *(pytest.param(name, marks=pytest.mark.slow) for name in ('attention.value.kernel', 'attention.output.kernel')),
    'pooler.kernel',
  ],
)
def test_34_square_kernel_transposed(prove, module, monkeypatch, name):
  build = build_encoder.build

  def wrong(source, *args, **kwargs):
    return build(
      _Wrong(source, lambda row: source.tensor(row).T.copy() if row.name == name else source.tensor(row)),
      *args,
      **kwargs,
    )

  monkeypatch.setattr(build_encoder, 'build', wrong)
  with pytest.raises(errors.ParityError, match='no parity .*(pooled|sequence)_output is '):
    prove(module, mlm=False, sop=False)


def test_34_query_and_key_swapped(prove, module, monkeypatch):
  build = build_encoder.build
  other = {'query': 'key', 'key': 'query'}

  def wrong(source, *args, **kwargs):
    rows = {row.name: row for row in weight_map.rows(source.config, source.parts)}
    swapped = {name: '.'.join(other.get(word, word) for word in name.split('.')) for name in rows}
    return build(_Wrong(source, lambda row: source.tensor(rows[swapped[row.name]])), *args, **kwargs)

  monkeypatch.setattr(build_encoder, 'build', wrong)
  with pytest.raises(errors.ParityError, match='no parity .*sequence_output is '):
    prove(module, mlm=False, sop=False)


CONFIGS = {
  'two groups': (dict(num_hidden_groups=3), 'missing bert/encoder/transformer/group_1/inner_group_0/'),
  'two inner groups': (dict(inner_group_num=2), 'missing bert/encoder/transformer/group_0/inner_group_1/'),
  'another activation': (dict(hidden_act='gelu_10'), "hidden_act is 'gelu_10', not one of gelu, "),
  'another layer norm': (dict(ln_type='preln'), "ln_type is 'preln', not 'postln'"),
  'a structure': (dict(net_structure_type=1), 'net_structure_type is 1, not 0'),
  'a gap': (dict(gap_size=3), 'gap_size is 3, not 0'),
  'memory blocks': (dict(num_memory_blocks=1), 'num_memory_blocks is 1, not 0'),
  'scaled down': (dict(down_scale_factor=2), 'down_scale_factor is 2, not 1'),
  'layers to keep': (dict(layers_to_keep=[1]), r'layers_to_keep is \[1\], not \[\]'),
  'heads do not divide': (dict(num_attention_heads=3), 'hidden_size 16 is not a multiple of num_attention_heads 3'),
  'negative': (dict(num_hidden_layers=-1), 'num_hidden_layers is -1'),
  'zero': (dict(hidden_size=0), 'hidden_size is 0'),
  'huge': (dict(vocab_size=1 << 40), 'vocab_size is 1099511627776, not a whole number from 1 to 1048576'),
  'too many layers': (
    dict(num_hidden_layers=1 << 20),
    'num_hidden_layers is 1048576, not a whole number from 1 to 256',
  ),
  'text': (dict(hidden_size='16'), "hidden_size is '16'"),
  'true': (dict(num_hidden_layers=True), 'num_hidden_layers is True'),
  'a float': (dict(hidden_size=16.0), 'hidden_size is 16.0'),
  'a list': (dict(hidden_size=[16]), r'hidden_size is \[16\]'),
  'another vocabulary': (dict(vocab_size=201), 'assets/30k-clean.model: 200 pieces, but the embedding has 201 rows'),
  'another hidden size': (dict(hidden_size=32), r'bert/pooler/dense/kernel has shape \[16, 16\], not \[32, 32\]'),
  'dropout beyond floats': (dict(hidden_dropout_prob=10**400), 'hidden_dropout_prob is 1000.*not a probability'),
  'dropout NaN': (dict(hidden_dropout_prob=float('nan')), 'hidden_dropout_prob is nan, not a probability'),
  'dropout of 1': (dict(hidden_dropout_prob=1), 'hidden_dropout_prob is 1, not a probability'),
  'dropout null': (dict(attention_probs_dropout_prob=None), 'attention_probs_dropout_prob is None, not a probability'),
}


@pytest.mark.slow
def test_35_activation_that_is_not_the_graphs(refused, own_module):
  path = own_module / 'assets/albert_config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'hidden_act': 'relu'}))
  refused(own_module, "no parity .*from the source's graph", errors.ParityError)


@pytest.mark.parametrize('case', CONFIGS)
def test_35_config(refused, own_module, case):
  changes, message = CONFIGS[case]
  path = own_module / 'assets/albert_config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
  refused(own_module, message)


@pytest.mark.parametrize(
  'text, message',
  [
    ('{', 'invalid JSON '),
    ('', 'invalid JSON '),
    ('[]', 'a list instead of an object'),
    ('null', 'a NoneType instead of'),
    ('{"hidden_size": 16, "hidden_size": 8}', "invalid JSON .'hidden_size' occurs twice"),
    ('[' * 100_000, 'invalid JSON '),
    ('{}', 'missing attention_probs_dropout_prob, embedding_size'),
    ('{"hidden_size": 1' + '0' * 5000 + '}', 'invalid JSON '),
  ],
)
def test_35_no_config(refused, own_module, text, message):
  (own_module / 'assets/albert_config.json').write_text(text)
  refused(own_module, message, errors.ConfigError)


def test_35_config_that_is_no_text(refused, own_module):
  (own_module / 'assets/albert_config.json').write_bytes(b'\xff\xfe{}')
  refused(own_module, 'albert_config.json: invalid JSON ', errors.ConfigError)


def test_31_types_are_those_of_tensorflow():
  assert checkpoint_index.FLOAT32 == types_pb2.DT_FLOAT
