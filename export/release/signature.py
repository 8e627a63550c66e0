"""Signs and verifies releases with OpenSSF model signatures and a key in a file, without any server.

A signed release has two signature files. '2.sig' signs the directory '2'; `model_signing verify key` of the
model-signing package also verifies it. '2.release.json.sig' signs the record, which has the digests of archive and
card.
"""

import pathlib
from collections.abc import Callable
from typing import Any

from converters import errors
from export import spec


def check_private_key(path: pathlib.Path) -> None:
  """Raises UsageError if the file is not an elliptic curve private key."""
  _key('sign_key', path, lambda: _signing().use_elliptic_key_signer(private_key=path))


def check_public_key(path: pathlib.Path) -> None:
  """Raises UsageError if the file is not an elliptic curve public key."""
  _key('public_key', path, lambda: _verifying().use_elliptic_key_verifier(public_key=path))


def _key(option: str, path: pathlib.Path, use: Callable[[], Any]) -> None:
  kind = 'private' if option == 'sign_key' else 'public'
  try:
    use()
  except Exception as e:  # cryptography and model_signing raise errors of many types
    raise errors.UsageError(
      f'option {option}={path}: not an elliptic curve {kind} key in PEM without a password ({e}); make one with '
      'openssl ecparam -name prime256v1 -genkey, and its public key with openssl ec -pubout'
    ) from e


def sign(release: pathlib.Path, private_key: pathlib.Path) -> None:
  """Writes both signatures of a release whose other files are complete.

  Args:
    release: directory of the release, '.../2'.
    private_key: PEM file with an elliptic curve private key.

  Raises:
    PublishError: signing fails.
  """
  for model, signature in _signed(release):
    try:
      _signing().use_elliptic_key_signer(private_key=private_key).sign(model, signature)
    except Exception as e:
      raise errors.PublishError(f'{release}: cannot be signed with {private_key} ({e}); check option sign_key') from e


def verify(release: pathlib.Path, public_key: pathlib.Path) -> None:
  """Verifies both signatures of a release.

  Args:
    release: directory of the release, '.../2'.
    public_key: PEM file with an elliptic curve public key.

  Raises:
    IntegrityError: a signature is missing or from another key, or a file is changed, missing or unexpected.
  """
  for model, signature in _signed(release):
    if not signature.is_file():
      raise errors.IntegrityError(f'{signature}: missing, so the release is not signed; fetch a signed release')
    try:
      _verifying().use_elliptic_key_verifier(public_key=public_key).verify(model, signature)
    except Exception as e:
      raise errors.IntegrityError(
        f'{signature}: not a valid signature of {model} by {public_key} ({_short(e)}); fetch the release again'
      ) from e


def _signed(release: pathlib.Path) -> list[tuple[pathlib.Path, pathlib.Path]]:
  record, *signatures = (
    release.with_name(release.name + suffix) for suffix in (spec.RECORD, spec.SIGNATURE, spec.RECORD_SIGNATURE)
  )
  return list(zip((release, record), signatures, strict=True))


def _short(fault: Exception) -> str:
  text = ' '.join(str(fault).split()) or type(fault).__name__
  return text if len(text) <= 200 else f'{text[:200]} ...'


def _hashing() -> Any:
  from model_signing import hashing

  # Git files count too: a SavedModel directory is loaded whole.
  return hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)


def _signing() -> Any:
  from model_signing import signing  # the import takes half a second

  return signing.Config().set_hashing_config(_hashing())


def _verifying() -> Any:
  from model_signing import verifying

  return verifying.Config().set_hashing_config(_hashing())
