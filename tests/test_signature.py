"""A signature fails after any change: every changed byte, every added file and every other key."""

import pathlib
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric import rsa
from support import commands
from support import releases

from converters import errors
from export import record as record_lib
from export.release import integrity
from export.release import signature

ENCODER, PREPROCESSOR, TEXT = (
  'tensorflow/albert_en_demo/3',
  'tensorflow/albert_en_demo_preprocess/3',
  'tensorflow/albert_en_demo_text/3',
)


@pytest.fixture
def signed(history, tmp_path):
  """The encoder's directory in a copy of the signed releases."""
  for model in (ENCODER, PREPROCESSOR, TEXT):
    (tmp_path / model).parent.mkdir(parents=True)
    shutil.copytree(history / model, tmp_path / model)
    for path in (history / model).parent.glob('3.*'):
      shutil.copy(path, (tmp_path / model).parent)
  return tmp_path / ENCODER


def _check(release, public):
  """Verifies a release like export.verify --public_key."""
  signature.verify(release, public)
  return integrity.check(release, record_lib.read(release))


def test_both_models_are_signed(signed, keys):
  assert _check(signed, keys[1]) == 32
  assert _check(signed.parents[1] / 'albert_en_demo_preprocess/3', keys[1]) == 0
  assert _check(signed.parents[1] / 'albert_en_demo_text/3', keys[1]) == 25


def test_the_upstream_command_takes_the_signature(signed, keys):
  command = [
    str(pathlib.Path(shutil.which('model_signing', path=commands.BIN))),
    'verify',
    'key',
    str(signed),
    '--signature',
    f'{signed}.sig',
    '--public_key',
    str(keys[1]),
  ]
  assert subprocess.run(command, capture_output=True).returncode == 0
  (signed / 'saved_model.pb').write_bytes(b'')
  assert subprocess.run(command, capture_output=True).returncode != 0


def _files(release):
  return sorted(p for p in (*release.rglob('*'), *release.parent.glob('3.*')) if p.is_file())


def test_every_changed_byte_is_noticed(signed, keys):
  assert len(_files(signed)) == 12
  for path in _files(signed):
    content = path.read_bytes()
    for position in (0, len(content) // 2, len(content) - 2):
      changed = bytearray(content)
      changed[position] ^= 1
      path.write_bytes(changed)
      with pytest.raises(errors.IntegrityError):
        _check(signed, keys[1])
    path.unlink()
    with pytest.raises(errors.IntegrityError):
      _check(signed, keys[1])
    path.write_bytes(content)
  assert _check(signed, keys[1]) == 32


@pytest.mark.parametrize(
  'name', ['new', 'assets/new', '.gitignore', '.git/config', 'variables/variables.data-00001-of-00002']
)
def test_an_added_file_is_noticed(signed, keys, name):
  (signed / name).parent.mkdir(exist_ok=True)
  (signed / name).write_text('x')
  with pytest.raises(errors.IntegrityError, match='3.sig: not a valid signature of'):
    signature.verify(signed, keys[1])


def test_a_link_is_noticed(signed, keys, tmp_path):
  (signed / 'saved_model.pb').rename(tmp_path / 'elsewhere')
  (signed / 'saved_model.pb').symlink_to(tmp_path / 'elsewhere')
  with pytest.raises(errors.IntegrityError):
    signature.verify(signed, keys[1])


def test_another_key_is_noticed(signed, tmp_path):
  with pytest.raises(errors.IntegrityError, match='3.sig: not a valid signature of .* by .*public.pem'):
    signature.verify(signed, releases.make_keys(tmp_path)[1])


def test_a_release_without_signature(history, keys):
  with pytest.raises(errors.IntegrityError, match=r'2\.sig: missing, so the release is not signed'):
    signature.verify(history / 'tensorflow/albert_en_demo/2', keys[1])


def test_signatures_of_another_release_are_noticed(signed, history, keys, tmp_path):
  """A release is moved to another version's place, with its record and both signatures."""
  for path in signed.parent.glob('3*'):
    path.rename(path.with_name(path.name.replace('3', '7', 1)))
  moved = signed.with_name('7')
  signature.verify(moved, keys[1])
  with pytest.raises(errors.IntegrityError, match='the record names tensorflow/albert_en_demo/3'):
    _check(moved, keys[1])


@pytest.fixture
def wrong_keys(tmp_path, keys):
  private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
  locked = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b'secret')
  )
  of_rsa = rsa.generate_private_key(65537, 2048)
  content = {
    'rsa': of_rsa.private_bytes(serialization.Encoding.PEM, *private),
    'rsa_public': of_rsa.public_key().public_bytes(
      serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ),
    'locked': locked,
    'empty': b'',
    'text': b'hello',
    'private': keys[0].read_bytes(),
    'public': keys[1].read_bytes(),
  }
  for name, value in content.items():
    (tmp_path / name).write_bytes(value)
  return tmp_path


@pytest.mark.parametrize('name', ['rsa', 'rsa_public', 'locked', 'empty', 'text', 'public', 'missing'])
def test_what_cannot_sign_is_a_wrong_flag(wrong_keys, name):
  with pytest.raises(errors.UsageError, match=f'option sign_key=.*{name}: not an elliptic curve private key'):
    signature.check_private_key(wrong_keys / name)


@pytest.mark.parametrize('name', ['rsa', 'rsa_public', 'empty', 'text', 'private', 'missing'])
def test_what_cannot_verify_is_a_wrong_flag(wrong_keys, name):
  with pytest.raises(errors.UsageError, match=f'option public_key=.*{name}: not an elliptic curve public key'):
    signature.check_public_key(wrong_keys / name)


@pytest.mark.slow
def test_verify_on_the_command_line(signed, keys, tmp_path, python_module):
  def run(*flags):
    return subprocess.run(python_module('export.verify', f'--release={signed}', *flags), capture_output=True, text=True)

  right = run(f'--public_key={keys[1]}')
  assert right.returncode == 0 and right.stderr == '' and f'{ENCODER} is signed with {keys[1]}' in right.stdout
  for status, public in ((1, releases.make_keys(tmp_path)[1]), (2, keys[0]), (2, tmp_path / 'missing')):
    wrong = run(f'--public_key={public}')
    assert wrong.returncode == status and wrong.stderr.startswith('error: ') and wrong.stderr.count('\n') == 1, (
      wrong.stderr
    )
    assert 'is signed with' not in wrong.stdout
  (signed / 'new').write_text('')
  wrong = run(f'--public_key={keys[1]}')
  assert wrong.returncode == 1 and '3.sig: not a valid signature of' in wrong.stderr

  # The signature of one model is invalid for another model of the same signer.
  (signed / 'new').unlink()
  moved = signed.parent.rename(signed.parent.with_name('albert_en_large')) / '3'
  wrong = subprocess.run(
    python_module('export.verify', f'--release={moved}', f'--public_key={keys[1]}'), capture_output=True, text=True
  )
  assert wrong.returncode == 1 and f'{moved}: the signed release is {ENCODER}' in wrong.stderr, wrong.stderr
