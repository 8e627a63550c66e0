"""The authors' checkpoints: directory or tarball, with what training leaves in them, and refused when something is off."""

import shutil
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from converters import errors
from converters import source as source_lib
from converters import weight_map


def write_checkpoint(directory, module, prefix='', slots=(), extra=(), partitions=1, without=()):
  """Writes what is in a module as the authors' training does: variables of a TF1 graph through tf.compat.v1.train.Saver."""
  directory.mkdir(parents=True)
  shutil.copy(module / 'assets/albert_config.json', directory)
  for suffix in ('model', 'vocab'):
    shutil.copy(module / f'assets/30k-clean.{suffix}', directory)
  reader = tf.train.load_checkpoint(str(module / 'variables/variables'))
  values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if name not in without}
  values |= {f'{name}/{slot}': value * 0.5 for name, value in dict(values).items() for slot in slots} | dict(extra)
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    for name, value in values.items():
      many = partitions if value.ndim > 1 and 'word_embeddings' in name else 1
      tf.compat.v1.get_variable(
        prefix + name,
        initializer=None,
        shape=value.shape,
        dtype=tf.as_dtype(value.dtype),
        use_resource=False,
        partitioner=tf.compat.v1.fixed_size_partitioner(many) if many > 1 else None,
      )
    for variable in tf.compat.v1.global_variables():
      name, value = variable.op.name, None
      if (info := variable._save_slice_info) is not None:
        name = info.full_name
        value = values[name.removeprefix(prefix)][
          tuple(slice(o, o + s) for o, s in zip(info.var_offset, info.var_shape, strict=True))
        ]
      variable.load(values[name.removeprefix(prefix)] if value is None else value, session)
    tf.compat.v1.train.Saver().save(session, str(directory / 'model.ckpt-best'))
  return directory


_ADAM = ('adam_m', 'adam_v')
_STEP = {'global_step': np.int64(7)}


@pytest.fixture(scope='module')
def checkpoint(module, tmp_path_factory):
  return write_checkpoint(tmp_path_factory.mktemp('checkpoint') / 'albert_tiny', module, slots=_ADAM, extra=_STEP)


def _same_tensors(one, other):
  with source_lib.open_source(str(one)) as a, source_lib.open_source(str(other)) as b:
    rows = weight_map.rows(a.config, a.parts)
    assert a.config == b.config and a.parts == b.parts and a.sp_model == b.sp_model and len(rows) > 20
    return all(np.array_equal(a.tensor(row), b.tensor(row)) for row in rows)


def test_has_the_weights_of_the_module(checkpoint, module):
  assert _same_tensors(checkpoint, module)
  with source_lib.open_source(str(checkpoint)) as source:
    assert source.graph is None and source.provable == source.parts == set(weight_map.Part)
    assert source_lib.lacks(source) == ['no graph of its own: outputs can be compared with the float64 reference alone']


@pytest.mark.parametrize(
  'options',
  [
    {'prefix': 'module/'},
    {'partitions': 3},
    {'slots': ('lamb_m', 'lamb_v')},
    {'slots': ('Adam', 'Adam_1')},
    {'prefix': 'module/', 'slots': _ADAM, 'partitions': 2},
  ],
  ids=str,
)
def test_variants(module, tmp_path, options):
  made = write_checkpoint(tmp_path / 'made', module, **options)
  if 'partitions' in options:
    index = tf.train.load_checkpoint(str(made / 'model.ckpt-best'))
    name = options.get('prefix', '') + 'bert/embeddings/word_embeddings'
    assert list(index.get_variable_to_shape_map()[name]) == [200, 8]
  assert _same_tensors(made, module)


def test_files_that_macos_leaves(checkpoint, module, tmp_path):
  own = shutil.copytree(checkpoint, tmp_path / 'own')
  for path in list(own.iterdir()):
    (own / f'._{path.name}').write_bytes(b'\0')
  assert _same_tensors(own, module)
  with tarfile.open(tmp_path / 'albert.tar.gz', 'w:gz') as tar:
    tar.add(own, 'albert')
  with (
    pytest.raises(errors.ArchiveError, match=r"member 'albert/\._.*' in .*albert.tar.gz is no file"),
    source_lib.open_source(str(tmp_path / 'albert.tar.gz')),
  ):
    pass


@pytest.mark.parametrize('root', ['albert_tiny', '.'])
def test_tarball_as_the_authors_pack_it(checkpoint, module, tmp_path, root):
  with tarfile.open(tmp_path / 'albert.tar.gz', 'w:gz') as tar:
    tar.add(checkpoint, root)
  assert _same_tensors(tmp_path / 'albert.tar.gz', module)


def test_without_heads_says_what_it_cannot_give(module, tmp_path):
  with source_lib.open_source(str(module)) as source:
    heads = [row.tf1 for row in weight_map.rows(source.config, source.parts) if row.part is not weight_map.Part.ENCODER]
  with source_lib.open_source(str(write_checkpoint(tmp_path / 'made', module, without=heads))) as source:
    assert source.parts == {weight_map.Part.ENCODER}
    assert source_lib.missing_heads(source) == ['no masked language model head', 'no sentence order head']


@pytest.mark.parametrize(
  'options, message',
  [
    ({'extra': {'output_weights': np.zeros((3, 16), np.float32)}}, 'unexpected output_weights'),
    (
      {'extra': {'bert/pooler/dense/kernel/momentum': np.zeros((16, 16), np.float32)}},
      'unexpected bert/pooler/dense/kernel/momentum',
    ),
    ({'extra': {'other/adam_m': np.zeros(2, np.float32)}}, 'unexpected other/adam_m'),
    ({'without': ['bert/pooler/dense/bias']}, 'missing bert/pooler/dense/bias'),
    ({'extra': {'module/bert/pooler/dense/bias': np.zeros(16, np.float32)}}, 'is there with and without module/'),
  ],
  ids=['a classifier', 'an unknown slot', 'a slot of nothing', 'a missing weight', 'both prefixes'],
)
def test_what_does_not_fit_is_named(module, tmp_path, refused, options, message):
  refused(write_checkpoint(tmp_path / 'made', module, **options), f'{message}.*model.ckpt-best|{message}')


@pytest.mark.parametrize(
  'break_it, message',
  [
    (lambda path: (path / 'albert_config.json').unlink(), 'no config in .*albert_config.json'),
    (lambda path: (path / '30k-clean.model').unlink(), r'0 SentencePiece models \(none\)'),
    (lambda path: (path / 'model.ckpt-best.data-00000-of-00001').write_bytes(b''), 'ends behind the data file'),
    (
      lambda path: (path / 'model.ckpt-best.data-00000-of-00001').unlink(),
      'model.ckpt-best.data-00000-of-00001 is missing',
    ),
    (lambda path: shutil.copy(path / 'model.ckpt-best.index', path / 'other.ckpt-1.index'), '2 checkpoints'),
    (
      lambda path: (path / 'model.ckpt-best.index').write_bytes(b'x' * 99),
      'no checkpoint index in .*model.ckpt-best.index',
    ),
  ],
  ids=['config', 'vocabulary', 'cut off', 'no data', 'two of them', 'index'],
)
def test_broken_files(checkpoint, tmp_path, refused, break_it, message):
  own = shutil.copytree(checkpoint, tmp_path / 'own')
  break_it(own)
  refused(own, message)


def test_foreign_file_in_the_tarball(checkpoint, tmp_path, refused):
  (own := shutil.copytree(checkpoint, tmp_path / 'own')).joinpath('setup.py').write_text('')
  with tarfile.open(tmp_path / 'albert.tar.gz', 'w:gz') as tar:
    tar.add(own, 'albert')
  refused(tmp_path / 'albert.tar.gz', "member 'albert/setup.py' in .* is no", errors.ArchiveError)


def test_files_of_two_formats_in_one_archive(checkpoint, module, tmp_path, refused):
  own = shutil.copytree(module, tmp_path / 'own')
  shutil.copy(checkpoint / 'model.ckpt-best.index', own / 'model.ckpt-best.index')
  with tarfile.open(tmp_path / 'albert.tar.gz', 'w:gz') as tar:
    tar.add(own, '.')
  refused(tmp_path / 'albert.tar.gz', 'model.ckpt-best.index.* is no file of a TF1 Hub module', errors.ArchiveError)


def test_release_is_the_modules(checkpoint, module, released, release):
  path, outcome = release(checkpoint)
  theirs = released.root / 'tensorflow/albert_en_tiny/2'
  for name in ('variables/variables.index', 'variables/variables.data-00000-of-00001'):
    assert (path / name).read_bytes() == (theirs / name).read_bytes(), name
  assert outcome.pieces[1].certificate.against == 'reference'
  assert all(
    check.source is None and 0 <= check.reference < 1e-14 for check in outcome.pieces[1].certificate.outputs.values()
  )
  assert all(
    check.source is None and check.reference < 1e-13 for check in outcome.pieces[1].certificate.gradient.values()
  )
  card = path.with_name(f'{path.name}.md').read_text()
  assert 'has weights and no graph that could be run' in card and 'the weights of a TF1 checkpoint' in card
