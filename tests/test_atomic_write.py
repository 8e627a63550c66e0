import pathlib
import stat

import pytest

from converters.io import atomic_write


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
  path = tmp_path / 'a[b]*.txt'
  atomic_write.write(path, b'one', 0o600)
  assert stat.S_IMODE(path.stat().st_mode) == 0o600
  atomic_write.write(path, b'two')
  assert path.read_bytes() == b'two' and list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_content(tmp_path, monkeypatch):
  path = tmp_path / 'file'
  path.write_bytes(b'old')

  def full(self, target):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(pathlib.Path, 'replace', full)
  with pytest.raises(OSError, match='No space'):
    atomic_write.write(path, b'new')
  assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]


def test_a_prepared_file_appears_when_it_is_put(tmp_path):
  path = tmp_path / 'file'
  with atomic_write.prepared(path, b'new') as put:
    assert not path.exists()
    put()
    assert path.read_bytes() == b'new'
  with atomic_write.prepared(path, b'newer'):
    pass
  assert path.read_bytes() == b'new' and list(tmp_path.iterdir()) == [path]


def test_the_next_process_removes_what_a_killed_one_left(tmp_path):
  path = tmp_path / 'a[b]'
  left = tmp_path / '.a[b].abcdefgh.scratch'
  left.mkdir()
  (left / 'unfinished').write_bytes(b'half')
  atomic_write.write(path, b'whole')
  assert list(tmp_path.iterdir()) == [path]
