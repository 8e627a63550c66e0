"""Exports in the process of the tests, and signing keys."""

import contextlib
import pathlib

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from converters import source as source_lib
from export.release import catalog as catalog_lib
from export.release import encoder_artifacts
from export.release import pipeline as release_pipeline
from export.release import request as request_lib
from export.source import policy as source_policy
from export.ui import console as console_lib
from export.validation import encoder_certificate
from support import source_runs


class Release:
  """Exports in this process, which is fast, but cannot be used to compare bytes.

  Attributes:
    root: the export root.
    source_results: directory for `source_runs.RecordedChild`; None to run every source's graph.
  """

  def __init__(self, root: pathlib.Path | str, source_results: pathlib.Path | None = None):
    self.root = root
    self.source_results = source_results
    self.catalog = catalog_lib.Catalog()

  def __call__(
    self,
    module,
    name='albert_en_tiny',
    version=2,
    mlm=None,
    sop=None,
    reading=source_lib.Reading(),
    trust=source_policy.Trust(),
    breaking=False,
    report=None,
    sign_key=None,
    with_text=False,
    **options,
  ):
    options.setdefault('preprocessor', 'albert_en_tiny_preprocess/3')
    encoder = self.catalog.encoder(name, version, **options)
    request = request_lib.Request(
      encoder,
      str(module),
      self.root,
      reading,
      trust,
      mlm,
      sop,
      breaking,
      report,
      sign_key,
      self.catalog.collection,
      self.catalog.text(encoder) if with_text else None,
    )
    return self._run(request)

  def preprocessor(self, module, version, name='albert_en_demo_preprocess', breaking=False, sign_key=None, **options):
    """Exports a preprocessor of the catalog without an encoder."""
    return self._run(
      request_lib.Request(
        self.catalog.preprocessor(name, version, **options),
        str(module),
        self.root,
        breaking=breaking,
        sign_key=sign_key,
        collection=self.catalog.collection,
      )
    )

  def _run(self, request):
    child = source_runs.RecordedChild(self.source_results, request.trust) if self.source_results is not None else None
    outcome = release_pipeline.run(request, console_lib.Console(), child=child)
    return pathlib.Path(self.root) / request.release.path, outcome


def save_encoder(
  module,
  directory: pathlib.Path,
  child: source_runs.RecordedChild | None = None,
  prove=False,
  mlm=None,
  sop=None,
  version=2,
  reading=source_lib.Reading(),
  **options,
):
  """Saves the encoder of a module in a directory, without preprocessor, record or archive.

  Args:
    module: directory of the module.
    directory: an existing directory.
    child: subprocess for the module's graph; None to start one if `prove` is true.
    prove: whether to compare the encoder with its source.
    mlm, sop, version, reading: arguments of `Release`.
    **options: attributes of the catalog's entry.

  Returns:
    Path of the SavedModel, and the `encoder_certificate.Certificate`, None without proof.
  """
  release = catalog_lib.Catalog().encoder(
    'albert_en_tiny', version, **{'preprocessor': 'albert_en_tiny_preprocess/3', **options}
  )
  request = request_lib.Request(release, str(module), directory, reading, mlm=mlm, sop=sop)
  with contextlib.ExitStack() as stack:
    source = stack.enter_context(source_lib.open_source(str(module), reading))
    parts = request_lib.parts(request, source)
    examination = stack.enter_context(encoder_certificate.examine(source, parts, child=child)) if prove else None
    encoder = encoder_artifacts.Encoder(release, str(module), source, parts, examination, console_lib.Console())
    encoder.save(directory)
    encoder.forget()
    if prove:
      encoder.prove(directory)
  return directory / release.path, encoder.certificate


def make_keys(directory: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes a private key and its public half to a directory, and returns their paths."""
  private = ec.generate_private_key(ec.SECP256R1())
  paths = key_paths(directory)
  paths[0].write_bytes(
    private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
  )
  paths[1].write_bytes(
    private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
  )
  return paths


def key_paths(directory: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """Returns the paths that `make_keys` writes."""
  return directory / 'private.pem', directory / 'public.pem'
