"""The release tree takes only complete releases, never changes a version, and keeps no partial ones."""

import errno
import fcntl
import os
import pathlib
import signal

import pytest
import tensorflow as tf
from support import trees

from converters import errors
from converters.io import disk_faults
from export import spec
from export.store import publish

ENCODER, COMPANION = 'tensorflow/albert/2', 'tensorflow/albert_preprocess/1'


def _stage(staged: pathlib.Path, **content: str) -> None:
  for release in (COMPANION, ENCODER):
    (staged / release).mkdir(parents=True)
    text = content.get(release.split('/')[1], release)
    (staged / release / 'saved_model.pb').write_text(text)
    for suffix in spec.COMPANIONS:
      (staged / (release + suffix)).write_text(text)


def _publish(root: pathlib.Path, **content: str) -> list[str]:
  with publish.staging(root) as staged:
    _stage(staged, **content)
    return publish.publish(root, staged, [COMPANION, ENCODER])


def test_both_models_appear_with_all_their_files(tmp_path):
  assert _publish(tmp_path) == [COMPANION, ENCODER]
  files = [p for p in trees.leftovers(tmp_path) if (tmp_path / p).is_file()]
  assert files == sorted(
    f'{release}{suffix}' for release in (COMPANION, ENCODER) for suffix in ('/saved_model.pb', *spec.COMPANIONS)
  )


def test_what_a_killed_export_left_is_no_part_of_the_next(tmp_path):
  _publish(tmp_path)
  for stray in ('albert/3.sig', 'albert/3.release.json.sig', 'albert/3.md'):
    (tmp_path / 'tensorflow' / stray).write_text('left over')
  with publish.staging(tmp_path) as staged:
    (staged / 'tensorflow/albert/3').mkdir(parents=True)
    (staged / 'tensorflow/albert/3.md').write_text('new')
    publish.publish(tmp_path, staged, ['tensorflow/albert/3'])
  assert sorted(p.name for p in (tmp_path / 'tensorflow/albert').glob('3*')) == ['3', '3.md']
  assert (tmp_path / 'tensorflow/albert/3.md').read_text() == 'new'


def test_a_lower_version_is_refused(tmp_path):
  _publish(tmp_path)
  with publish.staging(tmp_path) as staged:
    (staged / 'tensorflow/albert/1').mkdir(parents=True)
    with pytest.raises(errors.UsageError, match='option version=1: too low .tensorflow/albert/2 exists in'):
      publish.publish(tmp_path, staged, ['tensorflow/albert/1'])


TEXT = 'tensorflow/albert_text/2'


def _stage_three(staged, **content):
  _stage(staged, **content)
  (staged / TEXT).mkdir(parents=True)
  (staged / TEXT / 'saved_model.pb').write_text(TEXT)


def test_a_third_model_may_follow_later(tmp_path):
  _publish(tmp_path)
  with publish.staging(tmp_path) as staged:
    _stage_three(staged, albert='other')
    with pytest.raises(
      errors.PublishError,
      match='tensorflow/albert/2: already exists in .* with other bytes .*or if it is the encoder, '
      'the next one with option version',
    ):
      publish.publish(tmp_path, staged, [COMPANION, ENCODER, TEXT])
  assert not (tmp_path / TEXT).exists()
  with publish.staging(tmp_path) as staged:
    _stage_three(staged)
    assert publish.publish(tmp_path, staged, [COMPANION, ENCODER, TEXT]) == [TEXT]
  with publish.staging(tmp_path) as staged:
    _stage_three(staged)
    with pytest.raises(errors.PublishError, match='tensorflow/albert_text/2: already exists'):
      publish.publish(tmp_path, staged, [COMPANION, ENCODER, TEXT])


def test_an_encoder_that_is_too_late_is_refused_with_a_third_model_too(tmp_path):
  _publish(tmp_path)
  (tmp_path / ENCODER).rename(tmp_path / 'tensorflow/albert/3')
  with publish.staging(tmp_path) as staged:
    _stage_three(staged)
    with pytest.raises(errors.UsageError, match='option version=2: too low .tensorflow/albert/3 exists in'):
      publish.publish(tmp_path, staged, [COMPANION, ENCODER, TEXT])
  assert not (tmp_path / TEXT).exists()


def test_modes_do_not_depend_on_the_umask(tmp_path):
  mask = os.umask(0o077)
  try:
    _publish(tmp_path / 'dist')
  finally:
    os.umask(mask)
  for path in (tmp_path / 'dist', *(tmp_path / 'dist').rglob('*')):
    assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_a_version_is_refused_and_stays_as_it_is(tmp_path):
  _publish(tmp_path)
  with pytest.raises(
    errors.PublishError, match='tensorflow/albert/2: already exists in .*never changed.*option version'
  ):
    _publish(tmp_path, albert='other')
  assert (tmp_path / ENCODER / 'saved_model.pb').read_text() == ENCODER
  assert not list(tmp_path.glob('.staging-*'))


def _another_encoder(tmp_path, content):
  with publish.staging(tmp_path) as staged:
    _stage(staged, albert_preprocess=content)
    (staged / (COMPANION + '.release.json')).write_text('made with other libraries')
    for path in (staged / 'tensorflow/albert').iterdir():
      path.rename(path.with_name(path.name.replace('2', '3', 1)))
    return publish.publish(tmp_path, staged, [COMPANION, 'tensorflow/albert/3'])


def test_a_companion_with_the_same_bytes_is_kept(tmp_path):
  _publish(tmp_path)
  before = (tmp_path / COMPANION).stat().st_ino
  assert _another_encoder(tmp_path, COMPANION) == ['tensorflow/albert/3']
  assert (tmp_path / COMPANION).stat().st_ino == before


def test_a_companion_with_other_bytes_is_refused(tmp_path):
  _publish(tmp_path)
  before = trees.leftovers(tmp_path)
  with pytest.raises(
    errors.PublishError, match='albert_preprocess/1: already exists in .* with other bytes.*option preprocessor'
  ):
    _another_encoder(tmp_path, 'other')
  assert trees.leftovers(tmp_path) == before


@pytest.mark.parametrize('number', range(8))
def test_a_failing_rename_takes_everything_back(tmp_path, monkeypatch, number):
  replace, calls = pathlib.Path.replace, []

  def failing(self, target):
    calls.append(target)
    if len(calls) == number + 1:
      raise OSError(errno.ENOSPC, 'No space left on device')
    return replace(self, target)

  monkeypatch.setattr(pathlib.Path, 'replace', failing)
  with pytest.raises(errors.PublishError, match='No space left on device.*nothing was published'):
    _publish(tmp_path)
  assert trees.leftovers(tmp_path) == []


def test_the_encoders_directory_comes_last(tmp_path, monkeypatch):
  order = []
  replace = pathlib.Path.replace
  monkeypatch.setattr(
    pathlib.Path, 'replace', lambda self, target: (order.append(target.name), replace(self, target))[1]
  )
  _publish(tmp_path)
  assert order == [f'{version}{suffix}' for version in (1, 2) for suffix in (*spec.COMPANIONS, '')]


def test_a_failed_export_leaves_no_root_that_was_not_there(tmp_path):
  root = tmp_path / 'new' / 'dist'
  with pytest.raises(RuntimeError), publish.staging(root) as staged:
    _stage(staged)
    raise RuntimeError
  assert not (tmp_path / 'new').exists()


def test_an_interrupt_while_moving_comes_too_late(tmp_path, monkeypatch):
  replace = pathlib.Path.replace

  def interrupted(self, target):
    os.kill(os.getpid(), signal.SIGINT)
    return replace(self, target)

  monkeypatch.setattr(pathlib.Path, 'replace', interrupted)
  assert _publish(tmp_path) == [COMPANION, ENCODER]
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_killed_export_left_beside_a_version_is_replaced(tmp_path):
  (tmp_path / 'tensorflow/albert').mkdir(parents=True)
  (tmp_path / (ENCODER + '.tar.gz')).write_text('half')
  _publish(tmp_path)
  assert (tmp_path / (ENCODER + '.tar.gz')).read_text() == ENCODER


def test_a_root_that_cannot_be_written_is_refused(tmp_path):
  (tmp_path / 'file').write_text('')
  with (
    pytest.raises(errors.PublishError, match='file/dist: cannot be written .*option export_root'),
    publish.staging(tmp_path / 'file' / 'dist'),
  ):
    pass


@pytest.mark.parametrize('name', ['file', 'file/dist', 'link'])
def test_such_a_root_is_refused_before_any_work(tmp_path, name):
  (tmp_path / 'file').write_text('')
  (tmp_path / 'link').symlink_to('nothing')
  publish.check_writable(tmp_path / 'new/dist')
  place = name.partition('/')[0]
  message = f'{name}: cannot be written .*{place} is not a directory.; give another option export_root'
  with pytest.raises(errors.PublishError, match=message):
    publish.check_writable(tmp_path / name)


@pytest.mark.parametrize(
  'error',
  [
    OSError(errno.ENOSPC, 'No space left on device', 'saved_model.pb'),
    tf.errors.ResourceExhaustedError(None, None, 'a/saved_model.pb; No space left on device'),
    RuntimeError('write failed: No space left on device'),
  ],
  ids=lambda error: type(error).__name__,
)
def test_a_full_disk_is_named_whoever_writes(tmp_path, error):
  message = f'{tmp_path}/dist: cannot be written .No space left on device.; give another option export_root'
  with pytest.raises(errors.PublishError, match=message), publish.staging(tmp_path / 'dist'):
    raise error


def test_a_full_disk_of_temporary_files_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr('tempfile.tempdir', '/somewhere')
  monkeypatch.setattr(disk_faults, '_free', lambda place: 0 if place == '/somewhere' else 1 << 30)
  with (
    pytest.raises(errors.PublishError, match='^/somewhere: No space left on device; free some, or set TMPDIR'),
    disk_faults.named(str(tmp_path), 'export_root'),
  ):
    raise OSError(errno.ENOSPC, 'No space left on device')


def test_what_a_killed_export_left_is_swept_and_what_a_running_one_has_is_not(tmp_path):
  dead, alive, other = (
    tmp_path / f'.staging-{name}' for name in ('dead1234.scratch', 'alive123.scratch', 'of somebody')
  )
  for path in (dead, alive, other):
    (path / 'model').mkdir(parents=True)
  handle = os.open(alive, os.O_RDONLY)
  try:
    fcntl.flock(handle, fcntl.LOCK_EX)
    with publish.staging(tmp_path):
      assert not dead.exists() and (alive / 'model').exists() and (other / 'model').exists()
  finally:
    os.close(handle)
