"""The authors' checkpoints are read from a directory or tarball, with files of training; invalid ones are refused."""

import shutil
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from converters import source as source_lib
from converters import weight_map


def write_checkpoint(directory, module, prefix='', slots=(), extra=(), partitions=1, without=()):
  """Writes a module's variables like the authors' training, with tf.compat.v1.train.Saver."""
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
  assert _same_tensors(tmp_path / 'albert.tar.gz', module)


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
    ({'extra': {'bert/novelty': np.zeros((3, 16), np.float32)}}, 'unexpected bert/novelty'),
    ({'extra': {'cls/predictions/novelty': np.zeros(3, np.float32)}}, 'unexpected cls/predictions/novelty'),
    (
      {'extra': {'bert/pooler/dense/kernel/momentum': np.zeros((16, 16), np.float32)}},
      'unexpected bert/pooler/dense/kernel/momentum',
    ),
    ({'without': ['bert/pooler/dense/bias']}, 'missing bert/pooler/dense/bias'),
    ({'extra': {'module/bert/pooler/dense/bias': np.zeros(16, np.float32)}}, 'occurs with and without module/'),
  ],
  ids=['in the encoder', 'in a head', 'an unknown slot', 'a missing weight', 'both prefixes'],
)
def test_what_does_not_fit_is_named(module, tmp_path, refused, options, message):
  refused(write_checkpoint(tmp_path / 'made', module, **options), f'{message}.*model.ckpt-best|{message}')


@pytest.mark.parametrize(
  'break_it, message',
  [
    (lambda path: (path / 'albert_config.json').unlink(), 'own: no albert_config.json; put the missing files there'),
    (lambda path: (path / '30k-clean.model').unlink(), r'own: no SentencePiece model \(\*.model\); '),
    (
      lambda path: (path / 'model.ckpt-best.data-00000-of-00001').write_bytes(b''),
      'extends past the end of its data file',
    ),
    (
      lambda path: (path / 'model.ckpt-best.data-00000-of-00001').unlink(),
      'model.ckpt-best.data-00000-of-00001 is missing',
    ),
    (
      lambda path: (
        shutil.copy(path / 'model.ckpt-best.index', path / 'other.ckpt-1.index'),
        (path / 'checkpoint').unlink(),
      ),
      '2 checkpoints .model.ckpt-best, other.ckpt-1., and no `checkpoint` file names one; give the path of one',
    ),
    (
      lambda path: (path / 'model.ckpt-best.index').write_bytes(b'x' * 99),
      'model.ckpt-best.index: not a checkpoint index',
    ),
  ],
  ids=['config', 'vocabulary', 'cut off', 'no data', 'two of them', 'index'],
)
def test_broken_files(checkpoint, tmp_path, refused, break_it, message):
  own = shutil.copytree(checkpoint, tmp_path / 'own')
  break_it(own)
  refused(own, message)


def test_other_files_are_skipped_alike_in_directory_and_tarball(checkpoint, module, tmp_path):
  own = shutil.copytree(checkpoint, tmp_path / 'own')
  for name in ('setup.py', 'README.md', 'events.out.tfevents.1', 'eval_results.txt', 'tf_model.h5', 'graph.pbtxt'):
    (own / name).write_text('x')
  with tarfile.open(tmp_path / 'albert.tar.gz', 'w:gz') as tar:
    tar.add(own, 'albert')
  digests = set()
  for path in (checkpoint, own, tmp_path / 'albert.tar.gz'):
    assert _same_tensors(path, module)
    with source_lib.open_source(str(path)) as source:
      digests.add(source.digest)
  assert len(digests) == 1


def _copy_checkpoint(directory, name):
  for path in list(directory.glob('model.ckpt-best.*')):
    shutil.copy(path, directory / path.name.replace('model.ckpt-best', name))


def test_the_checkpoint_file_or_the_path_decides(checkpoint, module, make_module, tmp_path):
  own = shutil.copytree(checkpoint, tmp_path / 'own')
  other = write_checkpoint(tmp_path / 'other', make_module(seed=1))
  for path in other.glob('model.ckpt-best.*'):
    shutil.copy(path, own / path.name.replace('best', '7'))
  state = 'model_checkpoint_path: "/gpfs/run/model.ckpt-{}"\nall_model_checkpoint_paths: "model.ckpt-1"\n'
  (own / 'checkpoint').write_text(state.format('best'))
  assert _same_tensors(own, module)
  (own / 'checkpoint').write_text(state.format('7'))
  assert _same_tensors(own, other)
  for name in ('model.ckpt-best', *(f'model.ckpt-best.{end}' for end in ('index', 'meta', 'data-00000-of-00001'))):
    assert _same_tensors(own / name, module)
  digests = []
  for path in (own, own / 'model.ckpt-best'):
    with source_lib.open_source(str(path)) as source:
      digests.append(source.digest)
  assert digests[0] != digests[1]


def test_a_checkpoint_file_of_another_directory_is_named(checkpoint, tmp_path, refused):
  own = shutil.copytree(checkpoint, tmp_path / 'own')
  _copy_checkpoint(own, 'model.ckpt-7')
  (own / 'checkpoint').write_text('model_checkpoint_path: "model.ckpt-9"\n')
  refused(
    own, 'checkpoint: names model.ckpt-9, which does not exist; give the path of one, as option source=.*model.ckpt-7'
  )


@pytest.mark.parametrize(
  'head',
  [
    ('output_weights', 'output_bias'),
    ('cls/squad/output_weights', 'cls/squad/output_bias'),
    ('start_logits/dense/kernel', 'end_logits/dense_0/bias', 'answer_class/dense_1/kernel'),
  ],
  ids=['run_classifier', 'run_squad_v1', 'run_squad_v2'],
)
def test_the_head_of_a_task_is_left_out_and_named(module, tmp_path, head):
  extra = {f'{name}{slot}': np.zeros(3, np.float32) for name in head for slot in ('', '/adam_m', '/adam_v')}
  made = write_checkpoint(tmp_path / 'made', module, slots=_ADAM, extra=extra | _STEP)
  assert _same_tensors(made, module)
  with source_lib.open_source(str(made)) as source:
    assert source.notes == [f'left out, a head for a task: {", ".join(sorted(head))}']


def test_half_precision_is_widened(module, tmp_path):
  reader = tf.train.load_checkpoint(str(module / 'variables/variables'))
  name = 'bert/pooler/dense/kernel'
  half = reader.get_tensor(name).astype(np.float16)
  made = write_checkpoint(tmp_path / 'made', module, extra={name: half})
  with source_lib.open_source(str(made)) as source:
    row = next(row for row in weight_map.rows(source.config, source.parts) if row.tf1 == name)
    value = source.tensor(row)
    assert value.dtype == np.float32 and np.array_equal(value, half.astype(np.float32))
    assert source.notes == ['weights of float16 widened to float32, which is exact']


def test_names_of_the_chinese_models(checkpoint, module, tmp_path):
  own = shutil.copytree(checkpoint, tmp_path / 'own')
  (own / 'albert_config.json').rename(own / 'albert_config_base.json')
  _copy_checkpoint(own, 'albert_model.ckpt')
  for path in own.glob('model.ckpt-best.*'):
    path.unlink()
  assert _same_tensors(own, module)


def test_all_that_is_missing_is_named_at_once(checkpoint, tmp_path, refused):
  own = shutil.copytree(checkpoint, tmp_path / 'own')
  for name in ('30k-clean.model', 'model.ckpt-best.index', '30k-clean.vocab'):
    (own / name).unlink()
  (own / 'vocab.txt').write_text('[PAD]\n')
  refused(own, r'own: no checkpoint \(\*.index\), no SentencePiece model \(\*.model\) \(vocab.txt is a WordPiece ')


@pytest.mark.slow
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
  assert 'has weights, but no graph to run' in card and 'the weights of a TensorFlow checkpoint' in card
