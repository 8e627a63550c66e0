"""Entries 1 to 12: archives with no module or more than one."""

import gzip
import hashlib
import io
import os
import stat
import tarfile

import pytest
from support import craft

from converters import errors
from converters import source as source_lib
from converters.io import archive as archive_lib
from converters.io import digest


def _refused_with(refused, module, path, message, **fields):
  content = fields.pop('content', b'')
  craft.archive_with(module, path, (craft.header(size=len(content), **fields), content))
  refused(path, message, errors.ArchiveError)


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'module.tar.gz'


@pytest.mark.parametrize('name', ['../x', '/tmp/x', 'assets/../../x', '..'])
def test_01_member_that_leads_out(refused, module, path, name):
  _refused_with(refused, module, path, "module.tar.gz: member '.*' has an invalid path", name=name)


@pytest.mark.parametrize('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE], ids=['symbolic', 'hard'])
@pytest.mark.parametrize('target', ['saved_model.pb', '/etc/passwd'])
def test_02_link(refused, module, path, kind, target):
  _refused_with(
    refused,
    module,
    path,
    "member 'assets/x' is a link, not a regular file or directory; pack what it points to",
    name='assets/x',
    type=kind,
    linkname=target,
  )


@pytest.mark.parametrize('kind', [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.CONTTYPE, b'?'])
def test_03_member_that_is_no_file(refused, module, path, kind):
  _refused_with(
    refused,
    module,
    path,
    "not a regular file or directory|fetch the archive again|occurs twice",
    name='saved_model.pb',
    type=kind,
  )


def test_03_sparse_member(refused, module, path):
  # A 512-byte header that declares a file of 1 TB: old GNU format, and POSIX.
  old = bytearray(craft.header(name='assets/x', type=tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
  old[483:495] = f'{1 << 33:011o}\0'.encode()
  old[148:156] = b' ' * 8
  old[148:156] = f'{sum(old):06o}\0 '.encode()
  refused(craft.raw_archive(path, (bytes(old), b'')), 'not a regular file or directory', errors.ArchiveError)
  posix = craft.header(
    name='assets/x',
    size=512,
    pax_headers={
      'GNU.sparse.major': '1',
      'GNU.sparse.minor': '0',
      'GNU.sparse.name': 'assets/x',
      'GNU.sparse.realsize': str(1 << 33),
    },
  )
  refused(
    craft.raw_archive(path, (posix.tobuf(tarfile.PAX_FORMAT), b'1\n0\n512\n'.ljust(512, b'\0'))),
    'not a regular file or directory',
    errors.ArchiveError,
  )


def test_04_bomb(refused, tmp_path, path):
  zeros = tmp_path / 'zeros'
  with open(zeros, 'wb') as f:
    f.truncate(1 << 27)
  craft.archive(zeros, path, 'saved_model.pb')
  zeros.unlink()
  refused(path, 'bytes unpacked .no published ALBERT is so large.; raise option max_source_ratio', errors.ArchiveError)


@pytest.mark.parametrize(
  'option, caps',
  [
    ('option max_source_members', dict(members=9)),
    ('option max_source_file_bytes', dict(file_bytes=40_000)),
    ('option max_source_bytes', dict(total_bytes=90_000)),
  ],
)
def test_04_cap(refused, module, path, option, caps):
  craft.archive(module, path)
  refused(
    path,
    f'more than {next(iter(caps.values()))} .*{option}',
    errors.ArchiveError,
    reading=source_lib.Reading(caps=archive_lib.Caps(**caps)),
  )
  with source_lib.open_source(str(path)):
    pass  # below the default caps


def test_04_member_that_claims_too_much(refused, path):
  craft.raw_archive(path, (craft.header(name='saved_model.pb', size=9 << 30), b''))
  refused(path, "bytes in member 'saved_model.pb' .*option max_source_file_bytes", errors.ArchiveError)


@pytest.mark.parametrize('keep', [0, 1, 10, 0.5, 0.99])
def test_05_truncated(refused, module, path, keep):
  craft.archive(module, path)
  os.truncate(path, keep if keep in (0, 1, 10) else int(path.stat().st_size * keep))
  refused(path, 'module.tar.gz: .*; fetch the archive again', errors.ArchiveError)


@pytest.mark.parametrize('garbage', [b'x' * 100, gzip.compress(b'x' * 100)], ids=['plain', 'packed'])
def test_05_trailing_garbage(refused, module, path, garbage):
  craft.archive(module, path)
  with open(path, 'ab') as f:
    f.write(garbage)
  refused(path, 'module.tar.gz: .*; fetch the archive again', errors.ArchiveError)


HEADERS = {
  'negative': ([(craft.header(name='saved_model.pb', size=-512), b'')], 'header of -512 bytes'),
  'very negative': (
    [(craft.header(name='saved_model.pb', size=-(1 << 60)), b'')],
    'header of -1152921504606846976 bytes',
  ),
  'negative by an attribute': (
    [
      (craft.header(name='pax', type=tarfile.XHDTYPE, size=11), b'11 size=-5\n'),
      (craft.header(name='saved_model.pb', size=1), b'x'),
    ],
    'of -5 bytes',
  ),
  'no header': (
    [
      (craft.header(name='saved_model.pb', size=1), b'x'),
      (b'A' * 512, b''),
      (craft.header(name='assets/x', size=1), b'x'),
    ],
    'ReadError: ',
  ),
  'headers of headers': (
    [(craft.header(name='pax', type=tarfile.XHDTYPE, size=10), b'10 a=bbbb\n')] * 5000,
    'RecursionError',
  ),
  'names of names': (
    [(craft.header(name='././@LongLink', type=tarfile.GNUTYPE_LONGNAME, size=4), b'abc\0')] * 5000,
    'RecursionError',
  ),
  'long attributes': (
    [(craft.header(name='pax', type=tarfile.XHDTYPE, size=1 << 20), bytes(1 << 20))],
    'header of 1048576 bytes',
  ),
  'long name': (
    [(craft.header(name='././@LongLink', type=tarfile.GNUTYPE_LONGNAME, size=(1 << 20) + 1), b'x' * ((1 << 20) + 1))],
    'header of 1048577 bytes',
  ),
  'no sparse map': (
    [
      (craft.header(name='pax', type=tarfile.XHDTYPE, size=22), b'22 GNU.sparse.map=1,x\n'),
      (craft.header(name='x', size=1), b'x'),
    ],
    'ValueError',
  ),
  'attribute longer than all': (
    [(craft.header(name='pax', type=tarfile.XHDTYPE, size=27), b'99999999999999999999999 a=\n')],
    'Error',
  ),
  'too many': (
    [(craft.header(name=f'd{i}', type=tarfile.DIRTYPE), b'') for i in range(1001)],
    'more than 1000 members',
  ),
  'no files': ([(craft.header(name='d', type=tarfile.DIRTYPE), b'')], 'no files'),
}


@pytest.mark.parametrize('case', HEADERS)
def test_06_header(refused, path, case):
  members, fault = HEADERS[case]
  refused(craft.raw_archive(path, *members), f'module.tar.gz: .*{fault}', errors.ArchiveError)


@pytest.mark.parametrize(
  'name, fault',
  [
    ('saved_model.pb', 'occurs twice'),
    ('./saved_model.pb', 'occurs twice'),
    ('SAVED_MODEL.PB', 'the same on some file systems'),
    ('Assets/x', 'the same on some file systems'),
    ('ｓaved_model.pb', 'the same on some file systems'),
    ('assets/30K-clean.model', 'the same on some file systems'),
  ],
)
def test_07_duplicate_name(refused, module, path, name, fault):
  _refused_with(refused, module, path, fault, name=name)


def test_07_names_of_another_unicode_form(refused, path):
  members = [(craft.header(name=f'assets/{name}'), b'') for name in ('caf\u00e9', 'cafe\u0301')]
  refused(craft.raw_archive(path, *members), 'the same on some file systems', errors.ArchiveError)


@pytest.mark.parametrize(
  'name, fault',
  [
    ('assets/a\nb', 'has an invalid path'),
    ('assets/a\x1b[2J', 'has an invalid path'),
    ('..\\x', 'has an invalid path'),
    ('assets\\x', 'has an invalid path'),
    ('assets/' + 'x' * 256, 'name of 263 characters'),
    ('/'.join(['assets'] * 200), 'name of 1399 characters'),
    ('assets/\u202ex', 'has an invalid path'),
  ],
)
def test_08_name(refused, module, path, name, fault):
  _refused_with(refused, module, path, f'module.tar.gz: .*{fault}', name=name)


@pytest.mark.parametrize(
  'name',
  ['setup.py', 'keras_metadata.pb', 'assets/x/y', 'variables/variables.data-1', 'variables/checkpoint', '.DS_Store'],
)
def test_09_file_that_no_module_has(module, tmp_path, path, name):
  """Such a file is skipped, as in a directory: neither unpacked nor part of the digest."""
  craft.archive(module, path)
  with tarfile.open(path) as tar:
    members = [(member, tar.extractfile(member).read() if member.isfile() else b'') for member in tar]
  with tarfile.open(path, 'w:gz') as tar:
    for member, content in [*members, (tarfile.TarInfo(name), b'x')]:
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  with source_lib.open_source(str(path)) as source, source_lib.open_source(str(module)) as right:
    assert source.digest == right.digest
    unpacked = {file.relative_to(source.path).as_posix() for file in source.path.rglob('*') if file.is_file()}
    assert name not in unpacked or name in ('keras_metadata.pb', 'variables/checkpoint')  # files of other formats


def test_10_modes_and_owners_are_normalised(module, tmp_path, path):
  def odd(info):
    info.mode, info.uid, info.gid, info.uname, info.mtime = (
      0o7777 if info.isreg() else 0,
      12345,
      54321,
      'mallory',
      2**33,
    )
    return info

  with tarfile.open(path, 'w:gz') as tar:
    tar.add(module, '.', filter=odd)
  (tmp_path / 'unpacked').mkdir()
  archive_lib.unpack(path, tmp_path / 'unpacked')
  for file in (tmp_path / 'unpacked').rglob('*'):
    status = file.stat()
    assert stat.S_IMODE(status.st_mode) & 0o7111 == (0o111 if file.is_dir() else 0) and status.st_uid == os.getuid()
    assert status.st_mode & 0o700 == (0o700 if file.is_dir() else 0o600)
  assert digest.of_tree(tmp_path / 'unpacked') == digest.of_tree(module)


def test_11_extra_directory(module, own_module, path):
  craft.archive(module, path, 'albert')
  for handle in (path, own_module.parent):
    with source_lib.open_source(str(handle)) as source, source_lib.open_source(str(module)) as right:
      assert source.digest == right.digest


def test_12_another_digest(refused, module, path, tmp_path):
  path.write_bytes(b'what nobody should try to unpack')
  wanted = hashlib.sha256(b'something else').hexdigest()
  message = (
    f'module.tar.gz: SHA-256 is {hashlib.sha256(path.read_bytes()).hexdigest()}, but option source_sha256 is {wanted}'
  )
  refused(path, message, errors.DigestError, reading=source_lib.Reading(sha256=wanted))
  wrong = source_lib.Reading(sha256='sha256:' + '0' * 64)
  refused(
    module, 'albert_tiny: SHA-256 is .*, but option source_sha256 is sha256:0000', errors.DigestError, reading=wrong
  )
  craft.archive(module, path)
  for handle, found in ((path, digest.of_file(path)), (module, digest.of_tree(module))):
    for wanted in (found, found.upper(), f'sha256:{found}'):
      with source_lib.open_source(str(handle), source_lib.Reading(sha256=wanted)) as source:
        assert source.digest == f'sha256:{digest.of_tree(module)}'
