"""Property-based fuzzing of all readers of untrusted bytes: each input is read, or refused with a typed error.

The first few hundred inputs are always the same. New inputs follow for --fuzz_seconds (`make fuzz`: five minutes for
each reader). Hypothesis shrinks and prints a failing input; add that input to the seeds in this file.
"""

import contextlib
import copy
import gzip
import io
import json
import pathlib
import random
import shutil
import tarfile
import time

import hypothesis
import pytest
from hypothesis import strategies as st
from support import craft

from converters import albert_config
from converters import errors
from converters.io import archive as archive_lib
from converters.readers import checkpoint_index
from converters.readers import sentencepiece_model
from export import record as record_lib
from export.release import integrity

CHECKS = [
  hypothesis.HealthCheck.too_slow,
  hypothesis.HealthCheck.data_too_large,
  hypothesis.HealthCheck.function_scoped_fixture,
  hypothesis.HealthCheck.large_base_example,
  hypothesis.HealthCheck.filter_too_much,
]


@pytest.fixture
def fuzz(request):
  """A function that runs a reader on fixed inputs, then on new inputs until the time is over."""

  def run(strategy, read, *seeds):
    tried = 0

    def one(value):
      nonlocal tried
      tried += 1
      read(value)

    def batch(**settings):
      test = hypothesis.given(strategy)(one)
      return hypothesis.settings(deadline=None, database=None, suppress_health_check=CHECKS, **settings)(test)

    for value in seeds:
      one(value)
    batch(derandomize=True, max_examples=200)()
    end = time.monotonic() + request.config.getoption('fuzz_seconds')
    rng = random.Random(request.config.getoption('seed'))
    while time.monotonic() < end:
      hypothesis.seed(rng.getrandbits(64))(batch(max_examples=200))()
    print(f'{tried} inputs')

  return run


@st.composite
def mutations(draw, content: bytes):
  """Bytes with a few places overwritten, flipped, removed, doubled or inserted."""
  result = bytearray(content)
  for _ in range(draw(st.integers(1, 6))):
    place = draw(st.integers(0, max(0, len(result) - 1)))
    kind = draw(st.sampled_from(['set', 'flip', 'cut', 'insert', 'double', 'end']))
    if kind == 'set' and result:
      result[place] = draw(st.sampled_from([0, 1, 127, 128, 255, 32]) | st.integers(0, 255))
    elif kind == 'flip' and result:
      result[place] ^= 1 << draw(st.integers(0, 7))
    elif kind == 'cut':
      del result[place : place + draw(st.integers(1, 64))]
    elif kind == 'insert':
      result[place:place] = draw(st.binary(max_size=32))
    elif kind == 'double':
      result[place:place] = result[place : place + draw(st.integers(1, 600))]
    else:
      del result[place:]
  return bytes(result)


NAMES = st.sampled_from(
  [
    'saved_model.pb',
    './saved_model.pb',
    'assets/x',
    'Assets/X',
    'a/b',
    'a',
    '../x',
    '/x',
    '.',
    '',
    'cafe\u0301',
    'caf\u00e9',
    'a' * 300,
  ]
) | st.text(max_size=20)
MEMBERS = st.lists(
  st.builds(
    lambda name, kind, size, link, content, mode: (
      dict(name=name, type=kind, size=size, linkname=link, mode=mode),
      content,
    ),
    NAMES,
    st.sampled_from([b'0', b'\0', b'1', b'2', b'3', b'5', b'6', b'7', b'S', b'L', b'K', b'x', b'g', b'X', b'?']),
    st.sampled_from([0, 1, 5, 512, 513, 1 << 20, 1 << 33, -1, -512]),
    NAMES,
    st.sampled_from([b'', b'x', b'12 path=../x\n', b'22 GNU.sparse.map=1,x\n', b'9 size=-5\n', b'x' * 600])
    | st.binary(max_size=40),
    st.integers(0, 0o7777),
  ),
  max_size=8,
)


def _tar(members):
  written = io.BytesIO()
  for fields, content in members:
    info = craft.header(**fields)
    with contextlib.suppress(ValueError, UnicodeError):
      written.write(info.tobuf(tarfile.GNU_FORMAT, errors='surrogateescape') + content + bytes(-len(content) % 512))
  return written.getvalue() + bytes(1024)


def test_fuzz_archive(fuzz, tmp_path):
  caps = archive_lib.Caps(members=6, file_bytes=1 << 16, total_bytes=1 << 18, ratio=1000)
  archive, target = tmp_path / 'module.tar.gz', tmp_path / 'target'

  def read(packed):
    archive.write_bytes(packed)
    target.mkdir()
    try:
      archive_lib.unpack(archive, target, caps)
    except errors.ArchiveError as e:
      assert len(str(e)) < 3000
    found = list(target.rglob('*'))
    assert all(not path.is_symlink() and (path.is_file() or path.is_dir()) for path in found) and len(found) < 100
    assert sum(path.stat().st_size for path in found if path.is_file()) <= caps.total_bytes + (1 << 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
      'module.tar.gz',
      'target',
    ]  # no file outside the directory
    shutil.rmtree(target)

  honest = _tar([(dict(name='assets/x', size=3), b'abc'), (dict(name='saved_model.pb', size=600), b'y' * 600)])
  packed = gzip.compress(honest, 1)
  fuzz(
    st.one_of(
      MEMBERS.map(_tar).map(lambda tar: gzip.compress(tar, 1)),
      mutations(honest).map(lambda tar: gzip.compress(tar, 1)),
      mutations(packed),
      st.binary(max_size=200),
    ),
    read,
    packed,
    b'',
    packed[:-1],
  )


JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
  max_leaves=8,
)


def _edits(value):
  """The value with some parts at any depth replaced or removed."""

  @st.composite
  def edited(draw):
    result = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
      place = result
      while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
          break
        key = draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and draw(st.integers(0, 3)):
          place = place[key]
          continue
        if draw(st.booleans()):
          place[key] = draw(JSON)
        elif isinstance(place, dict):
          del place[key]
        else:
          place.append(draw(JSON))
        break
    return result

  return edited()


def test_fuzz_config(fuzz, module, tmp_path):
  path = tmp_path / 'albert_config.json'
  content = (module / 'assets/albert_config.json').read_bytes()

  def read(text):
    path.write_bytes(text)
    try:
      config = albert_config.read(path)
    except errors.ConfigError as e:
      assert len(str(e)) < 3000
    else:
      assert all(0 < size <= 1 << 20 for size in config.dimensions.values()) and config.num_hidden_layers <= 256

  as_bytes = lambda value: json.dumps(value).encode()  # noqa: E731
  fuzz(
    st.one_of(_edits(json.loads(content)).map(as_bytes), mutations(content), JSON.map(as_bytes)),
    read,
    content,
    b'{}',
    b'[' * 5000,
    b'\xff',
  )


def _index_with_right_checksums(pairs):
  return craft.index([craft.block(pairs)])


def test_fuzz_checkpoint_index(fuzz, module, tmp_path):
  path = tmp_path / 'variables.index'
  shutil.copy(module / craft.DATA, tmp_path / 'variables.data-00000-of-00001')
  content = (module / 'variables/variables.index').read_bytes()
  pairs = craft.index_pairs(module / 'variables/variables.index')

  def read(data):
    path.write_bytes(data)
    try:
      index = checkpoint_index.read(path)
      checkpoint_index.check_data_files(index, path.with_suffix(''))
    except errors.CheckpointError as e:
      assert len(str(e)) < 3000
    else:
      size = (tmp_path / 'variables.data-00000-of-00001').stat().st_size
      assert all(entry.offset + entry.size <= size and entry.shard == 0 for entry in index.entries.values())

  changed = st.integers(0, len(pairs) - 1).flatmap(
    lambda n: st.tuples(mutations(pairs[n][0] or b'x'), mutations(pairs[n][1])).map(
      lambda pair: _index_with_right_checksums([*pairs[:n], pair, *pairs[n + 1 :]])
    )
  )
  sealed = mutations(craft.block(pairs)[:-5]).map(lambda body: craft.index([craft.sealed(body)]))
  fuzz(st.one_of(changed, sealed, mutations(content), st.binary(max_size=300)), read, content, b'', content[:48])


def test_fuzz_release_record(fuzz, encoder_path, tmp_path):
  root = pathlib.Path(encoder_path).parent
  for path in root.iterdir():
    (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
  release, path = tmp_path / '2', tmp_path / '2.release.json'
  content = path.read_bytes()
  record = json.loads(content)
  integrity.check(release, record_lib.read(release))

  def read(text):
    path.write_bytes(text)
    try:
      read_record = record_lib.read(release)
      integrity.check(release, read_record)
    except errors.IntegrityError as e:
      assert str(e)
    else:
      # A valid signature is of the published content.
      for key in ('files', 'archive', 'card'):
        assert json.loads(record_lib.text(read_record))[key] == record[key], key

  as_bytes = lambda value: json.dumps(value).encode()  # noqa: E731
  fuzz(
    st.one_of(_edits(record).map(as_bytes), mutations(content), JSON.map(as_bytes)),
    read,
    content,
    b'{}',
    b'[' * 100_000,
    b'\xff',
  )


def test_fuzz_sentencepiece_model(fuzz, module):
  content = (module / 'assets/30k-clean.model').read_bytes()
  text = (module / 'assets/30k-clean.vocab').read_bytes()

  def read(model):
    try:
      sentencepiece_model.check(model, 200, 'x.model', text)
    except errors.VocabularyError as e:
      assert len(str(e)) < 3000

  pieces = mutations(content[:6000]).map(lambda start: start + content[6000:])
  fuzz(st.one_of(pieces, mutations(content), st.binary(max_size=300)), read, content, b'', content[:100])
