"""OpenSSF model signatures of a release, made and checked with a key in a file: nothing is asked of any server.

Two of them stand beside a release. '2.sig' is of the directory '2', and `model_signing verify key` of the model-signing
package checks it as well. '2.release.json.sig' is of the record, which has the digests of archive and card.
"""

import pathlib
from collections.abc import Callable
from typing import Any

from converters import errors
from export.store import publish


def check_private_key(path: pathlib.Path) -> None:
  """Raises UsageError when a file holds no elliptic curve key that can sign."""
  _key('--sign_key', path, lambda: _signing().use_elliptic_key_signer(private_key=path))


def check_public_key(path: pathlib.Path) -> None:
  """Raises UsageError when a file holds no elliptic curve key that can verify."""
  _key('--public_key', path, lambda: _verifying().use_elliptic_key_verifier(public_key=path))


def _key(flag: str, path: pathlib.Path, use: Callable[[], Any]) -> None:
  kind = 'private' if flag == '--sign_key' else 'public'
  try:
    use()
  except Exception as e:  # cryptography and model_signing each raise their own
    raise errors.UsageError(
      f'{flag}={path}: no {kind} key of an elliptic curve in PEM without a password ({e}): make one with openssl '
      'ecparam -name prime256v1 -genkey, and its public half with openssl ec -pubout'
    ) from e


def sign(release: pathlib.Path, private_key: pathlib.Path) -> None:
  """Writes both signatures of a release that is otherwise complete.

  Args:
    release: its directory, '.../2'.
    private_key: a file with an elliptic curve key in PEM.

  Raises:
    PublishError: they cannot be made.
  """
  for model, signature in _signed(release):
    try:
      _signing().use_elliptic_key_signer(private_key=private_key).sign(model, signature)
    except Exception as e:
      raise errors.PublishError(f'cannot sign {release.name} with {private_key} ({e}): check --sign_key') from e


def verify(release: pathlib.Path, public_key: pathlib.Path) -> None:
  """Checks both signatures of a release.

  Args:
    release: its directory, '.../2'.
    public_key: a file with an elliptic curve's public key in PEM.

  Raises:
    IntegrityError: one is missing, of another key, or not of these files: a changed, missing or additional one
      included.
  """
  for model, signature in _signed(release):
    if not signature.is_file():
      raise errors.IntegrityError(f'no signature {signature}: this release was not signed, or not with this key')
    try:
      _verifying().use_elliptic_key_verifier(public_key=public_key).verify(model, signature)
    except Exception as e:
      raise errors.IntegrityError(
        f'{signature} is no signature of {model} by {public_key} ({_short(e)}): this is not what was signed, '
        'fetch it again'
      ) from e


def _signed(release: pathlib.Path) -> list[tuple[pathlib.Path, pathlib.Path]]:
  record, *signatures = (
    release.with_name(release.name + suffix) for suffix in (publish.RECORD, publish.SIGNATURE, publish.RECORD_SIGNATURE)
  )
  return list(zip((release, record), signatures, strict=True))


def _short(fault: Exception) -> str:
  text = ' '.join(str(fault).split()) or type(fault).__name__
  return text if len(text) <= 200 else f'{text[:200]} ...'


def _hashing() -> Any:
  from model_signing import hashing

  # Every file: what a version control system would skip is no less part of a directory that is loaded.
  return hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)


def _signing() -> Any:
  from model_signing import signing  # takes half a second, and only who signs needs it

  return signing.Config().set_hashing_config(_hashing())


def _verifying() -> Any:
  from model_signing import verifying

  return verifying.Config().set_hashing_config(_hashing())
