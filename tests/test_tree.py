"""A release tree on a file system of tf.io.gfile gets the same releases, complete or not at all."""

import shutil

import pytest
import tensorflow as tf

from converters import errors
from export import record as record_lib
from export.release import catalog
from export.release import collection
from export.release import integrity
from export.store import tree as tree_lib

ENCODER, PREPROCESSOR, TEXT = (
  'tensorflow/albert_en_demo',
  'tensorflow/albert_en_demo_preprocess',
  'tensorflow/albert_en_demo_text',
)


@pytest.fixture
def root(tmp_path):
  """The root of an in-memory file system that only TensorFlow reads."""
  return f'ram://{tmp_path}/models'


def _stage(tree, history, version, models=(PREPROCESSOR, ENCODER)):
  with tree.staging() as staged:
    for model in models:
      (staged / model).mkdir(parents=True)
      shutil.copytree(history / model / version, staged / model / version)
      for path in (history / model).glob(f'{version}.*'):
        shutil.copy(path, staged / model)
    return tree.publish(staged, [f'{model}/{version}' for model in models])


def _files(root):
  paths = {f'{place}/{name}' for place, _, names in tf.io.gfile.walk(root) for name in names}
  return {
    path.removeprefix(f'{root}/'): tf.io.gfile.GFile(path, 'rb').read() for path in paths if tf.io.gfile.exists(path)
  }


def _unpublish(root, release):
  for name in _files(root):
    if name.startswith(release):
      tf.io.gfile.remove(f'{root}/{name}')


@pytest.mark.slow
def test_an_export_to_it(root, module, release):
  release.root = root
  release(module, name='albert_en_demo', version=1, interface='list', preprocessor='albert_en_demo_preprocess/1')
  tree = tree_lib.at(root)
  assert tree.models() == [ENCODER, PREPROCESSOR] and tree.versions(ENCODER) == [1]
  assert tree.collections() == ['tensorflow/collections/albert/1']
  loaded = tf.saved_model.load(f'{root}/{ENCODER}/1')
  ones = tf.ones([1, 3], tf.int32)
  assert [output.shape for output in loaded([ones, ones, ones * 0])] == [(1, 16), (1, 3, 16)]
  with tree_lib.release_at(f'{root}/{ENCODER}/1') as local:
    assert integrity.check(local, record_lib.read(local)) == 25
  # The next version is compared with it in that tree.
  with pytest.raises(errors.CompatibilityError, match='albert_en_demo/2: breaks users of tensorflow/albert_en_demo/1 '):
    release(module, name='albert_en_demo', version=2, preprocessor='albert_en_demo_preprocess/2')
  assert tree.versions(ENCODER) == [1]


def test_both_kinds_of_tree_show_the_same(root, history):
  here, there = tree_lib.at(history), tree_lib.at(root)
  assert there.models() == [] and there.versions(ENCODER) == []
  for version in '1234':
    assert _stage(there, history, version) == [f'{PREPROCESSOR}/{version}', f'{ENCODER}/{version}']
  for version in '234':
    assert _stage(there, history, version, models=[TEXT]) == [f'{TEXT}/{version}']
  kind = catalog.Catalog().collection
  collection.write(there, 'tensorflow', kind)
  assert there.models() == here.models() and there.collections() == here.collections()
  for model in here.models():
    assert there.versions(model) == here.versions(model) == ([2, 3, 4] if model == TEXT else [1, 2, 3, 4])
    for version in here.versions(model):
      release = f'{model}/{version}'
      assert there.beside(release) == here.beside(release)
      assert there.size(release) == here.size(release) > 0
      for name in here.beside(release):
        assert there.size(name) == here.size(name)
        with there.open(name) as one, here.open(name) as other:
          assert one.read() == other.read()
  with (
    there.open('tensorflow/collections/albert/1.md') as one,
    here.open('tensorflow/collections/albert/1.md') as other,
  ):
    assert one.read() == other.read()
  for tree in (here, there):
    for name in (f'{ENCODER}/9.md', f'{ENCODER}/3'):
      with pytest.raises(OSError):
        tree.open(name)


def test_a_version_is_refused_and_a_companion_kept(root, history):
  tree = tree_lib.at(root)
  _stage(tree, history, '2')
  before = _files(root)
  with pytest.raises(errors.PublishError, match=f'{ENCODER}/2: already exists in {root}'):
    _stage(tree, history, '2')
  with pytest.raises(errors.UsageError, match='option version=1: .*albert_en_demo/2 exists in'):
    _stage(tree, history, '1')
  assert _files(root) == before
  _unpublish(root, f'{ENCODER}/2')
  assert _stage(tree, history, '2') == [f'{ENCODER}/2']
  assert _files(root) == before
  _unpublish(root, f'{ENCODER}/2')
  with tf.io.gfile.GFile(f'{root}/{PREPROCESSOR}/2/fingerprint.pb', 'w') as file:
    file.write('other')
  with pytest.raises(errors.PublishError, match='preprocess/2: already exists in .* with other bytes'):
    _stage(tree, history, '2')


@pytest.mark.parametrize('number', range(15))
def test_a_copy_that_fails_is_taken_back(root, history, monkeypatch, number):
  tree = tree_lib.at(root)
  copy, calls, seen = tf.io.gfile.copy, [], []

  def failing(source, target, overwrite=False):
    calls.append(target)
    if len(calls) == number + 1:
      seen.append(tree.versions(ENCODER))
      raise tf.errors.ResourceExhaustedError(None, None, 'the disk is full')
    copy(source, target, overwrite=overwrite)

  monkeypatch.setattr(tf.io.gfile, 'copy', failing)
  with pytest.raises(errors.PublishError, match=f'{root}: cannot be written .the disk is full'):
    _stage(tree, history, '2')
  assert _files(root) == {} and tree.models() == []
  assert seen == [[]]  # invisible before its last file
  assert _stage(tree, history, '2')  # the next publish works


def test_what_a_killed_copy_left_is_no_version_and_is_replaced(root, history):
  tree = tree_lib.at(root)
  tf.io.gfile.makedirs(f'{root}/{ENCODER}/2/variables')
  for name in (f'{ENCODER}/2/variables/old', f'{ENCODER}/2.sig', f'{ENCODER}/2.tar.gz'):
    with tf.io.gfile.GFile(f'{root}/{name}', 'w') as file:
      file.write('half')
  assert tree.versions(ENCODER) == [] and tree.models() == []
  _stage(tree, history, '2')
  assert not [name for name in _files(root) if name.endswith(('old', '2.sig'))]
  with tree_lib.release_at(f'{root}/{ENCODER}/2') as local:
    assert integrity.check(local, record_lib.read(local)) == 32


def test_a_file_system_that_is_none(history):
  with pytest.raises(errors.PublishError, match='nothing://x/models: cannot be read .*nothing.* not implemented'):
    _stage(tree_lib.at('nothing://x/models'), history, '2')
  with pytest.raises(errors.UsageError, match='option export_root=ram://: no bucket or path'):
    tree_lib.at('ram://')


def test_another_release_of_the_same_tree(root, history, monkeypatch):
  _stage(tree_lib.at(root), history, '2')
  monkeypatch.chdir(history / ENCODER)
  for path in (f'{root}/{ENCODER}/2', str(history / ENCODER / '2'), f'file://{history}/{ENCODER}/2', '2'):
    with tree_lib.release_at(tree_lib.beside(path, f'{PREPROCESSOR}/2')) as local:
      assert integrity.check(local, record_lib.read(local)) == 0 and local.parts[-2:] == (
        'albert_en_demo_preprocess',
        '2',
      )


def test_a_file_address_is_a_directory(history):
  assert tree_lib.at(f'file://{history}').root == str(history)
  with tree_lib.release_at(f'file://{history}/{ENCODER}/2') as local:
    assert local == history / ENCODER / '2'
