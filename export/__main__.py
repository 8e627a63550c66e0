"""Converts a pretrained ALBERT to TF2 SavedModels, proves parity, and publishes.

  python -m export --source=https://tfhub.dev/google/albert_large/3 --model=albert_en_large --version=2
  python -m export --source=albert_large.tar.gz --model=albert_en_large --version=3 --export_root=dist

Published below --export_root: PUBLISHER/MODEL/VERSION, a SavedModel; VERSION.tar.gz, .md and .release.json beside it;
and the same four for the preprocessor that goes with it, and with --with_text for a model of both, MODEL_text. The card
of the collection, PUBLISHER/collections/NAME/1.md, lists what the root holds. --model may also be a preprocessor of the
catalog: then it alone is published, as any encoder's export would.
"""

import contextlib
import gc
import pathlib
import typing

from absl import flags

from converters import cli
from converters import errors
from converters import source as source_lib
from converters import source_flags
from export import spec
from export.release import catalog as catalog_lib
from export.release import dry_run
from export.release import request as request_lib
from export.release import signature
from export.source import policy_flags
from export.source import process as source_process
from export.store import publish
from export.store import tree as tree_lib
from export.ui import console as console_lib
from export.ui import trace

if typing.TYPE_CHECKING:
  from export.release import pipeline as release_pipeline

for _module in (source_flags, policy_flags):
  flags.adopt_module_key_flags(_module)  # so that --help shows them
_SOURCE = flags.DEFINE_string(
  'source',
  None,
  'A TF1 Hub module, a checkpoint in the authors\' format, or a model of Hugging Face Transformers: a directory or a .tar.gz; '
  'or a hub handle (https://tfhub.dev/google/albert_large/3). '
  'Default: the handle that the catalog has for --model.',
)
_MODEL = flags.DEFINE_string(
  'model',
  None,
  'Name to publish under, as albert_en_large. The catalog may lack it. Or a preprocessor that the catalog has, as '
  'albert_en_preprocess.',
)
_VERSION = flags.DEFINE_integer(
  'version',
  None,
  'Version to publish: one in the catalog, or the next, and higher than all in --export_root. Default: the '
  'newest one in the catalog; for a model that it lacks, the next in --export_root.',
)
_EXPORT_ROOT = flags.DEFINE_string(
  'export_root',
  'dist',
  'Root of the release tree; made if need be. A directory, or what tf.io.gfile knows (gs://bucket/models).',
)
_PUBLISHER = flags.DEFINE_string('publisher', None, 'First part of the published path. Default: the catalog\'s.')
_IO = flags.DEFINE_enum(
  'io',
  None,
  ['dict', 'list'],
  'How the encoder is called: with a dict of tensors, or with a list of three as in '
  'version 1. Default: what the catalog says, else dict.',
)
_PREPROCESSOR = flags.DEFINE_string(
  'preprocessor', None, 'NAME/VERSION of the preprocessor that goes with the encoder. Default: the catalog\'s.'
)
_CHANGE = flags.DEFINE_multi_string(
  'change',
  None,
  'What is new in this version, for the card. Default: the catalog\'s, else "Initial release.". '
  'Give it once for every change.',
)
_MLM = flags.DEFINE_bool('mlm', None, 'Include the masked language model head. Default: if the source has it.')
_SOP = flags.DEFINE_bool('sop', None, 'Include the sentence order head. Default: if the source has it.')
_WITH_TEXT = flags.DEFINE_bool(
  'with_text',
  False,
  'Publish a third model too, MODEL_text: the preprocessor and the encoder in one, from text to vectors.',
)

_BREAKING = flags.DEFINE_bool(
  'breaking',
  False,
  'Publish it even if it breaks what users of the version before in --export_root rely on. The card says so.',
)
_SIGN_KEY = flags.DEFINE_string(
  'sign_key', None, 'A file with an elliptic curve key in PEM: an OpenSSF model signature is put beside the archive.'
)
_CATALOG = flags.DEFINE_string('catalog', str(catalog_lib.PATH), 'The catalog of models and versions.')
_DRY_RUN = flags.DEFINE_bool(
  'dry_run',
  False,
  'Check everything that can be checked without the weights, say what would be published, and publish nothing.',
)
_PROFILE = flags.DEFINE_string(
  'profile',
  None,
  'A JSON file to write, with what was done when, by which process and thread, at what cost: for chrome://tracing or '
  'ui.perfetto.dev.',
)
_REPORT = flags.DEFINE_string('report', None, 'An HTML file to write, with the proof as a page for people.')


def main() -> None:
  catalog = catalog_lib.Catalog(_CATALOG.value)
  request = _request(catalog)
  release = request.release
  tree = tree_lib.at(request.export_root)
  publish.check_new(tree.root, [r.path for r in request.releases], tree.versions)
  source_lib.check_handle(request.source)
  if request.sign_key is not None:
    signature.check_private_key(request.sign_key)
  profile_path = cli.file_path('--profile', _PROFILE.value)
  if profile_path is not None and profile_path == request.report:
    raise errors.UsageError(f'--profile and --report are both {profile_path}: give them two files')
  profile = trace.Profile()
  console = console_lib.Console(profile)
  console.line(f'{release.path} from {request.source}')
  if _DRY_RUN.value:
    dry_run.show(request, tree, console)
    return
  # Importing TensorFlow takes seconds: only now that the flags are in order, and in both processes at once. A
  # preprocessor has no source graph to run.
  try:
    with source_process.prepare(request.trust) if request.encoder is not None else contextlib.nullcontext() as child:
      with console.step('import TensorFlow'):
        from export.release import pipeline as release_pipeline

        if request.encoder is not None:
          from export.release import encoder_artifacts  # noqa: F401
      gc.freeze()  # what was imported stays: looking through it again and again takes time
      outcome = release_pipeline.run(request, console, cli.finish, child)
  finally:
    if profile_path is not None:  # of a release that fails, too
      _write_profile(profile, profile_path, console)
  _summarize(console, tree, request, outcome)
  if request.report:
    console.line(f'\nReport: {request.report}')


def _write_profile(profile: trace.Profile, path: pathlib.Path, console: console_lib.Console) -> None:
  try:
    profile.write(path)
    console.line(f'Profile: {path}')
  except OSError as e:
    console.line(f'The profile could not be written to {path}: {e.strerror}')


def _request(catalog: catalog_lib.Catalog) -> request_lib.Request:
  model = cli.check_name('--model', _MODEL.value)
  publisher = catalog.publisher if _PUBLISHER.value is None else cli.check_name('--publisher', _PUBLISHER.value)
  if not _EXPORT_ROOT.value:
    raise errors.UsageError('--export_root= is empty: give a directory')
  if _VERSION.value is not None and not cli.VERSION.fullmatch(str(_VERSION.value)):
    raise errors.UsageError(f'--version={_VERSION.value}: versions are 1, 2, 3 and so on')
  newest = max(tree_lib.at(_EXPORT_ROOT.value).versions(f'{publisher}/{model}'), default=0)
  version = _VERSION.value or catalog.newest_version(model) or newest + 1
  if catalog.newest_version(model) is None and newest and version > newest + 1:
    raise errors.UsageError(
      f'--version={version}: {publisher}/{model}/{newest} is the newest in {_EXPORT_ROOT.value}: give '
      f'--version={newest + 1}'
    )
  source = _SOURCE.value or catalog.source(model)
  if not source:
    raise errors.UsageError(
      f'no --source, and the catalog has none for {model}: give a directory, a .tar.gz or a handle'
    )
  if _CHANGE.value and not all(change.strip() for change in _CHANGE.value):
    raise errors.UsageError('--change= is empty: say what is new')
  changes = [' '.join(change.split()) for change in _CHANGE.value or []]
  release: spec.Release
  text = None
  if catalog.is_preprocessor(model):
    _check_no_flags_of_encoders(model)
    release = catalog.preprocessor(model, version, publisher=publisher, changes=changes)
  else:
    cli.check_preprocessor(_PREPROCESSOR.value)
    release = encoder = catalog.encoder(
      model, version, publisher=publisher, interface=_IO.value, preprocessor=_PREPROCESSOR.value, changes=changes
    )
    if _WITH_TEXT.value:
      text = catalog.text(encoder)
      if not cli.NAME.fullmatch(text.name):
        raise errors.UsageError(f'--with_text with --model={model}: {text.name} is too long a name, give a shorter one')
  return request_lib.Request(
    release,
    source,
    _EXPORT_ROOT.value,
    source_flags.reading(),
    policy_flags.trust(),
    _MLM.value,
    _SOP.value,
    _BREAKING.value,
    cli.file_path('--report', _REPORT.value),
    pathlib.Path(_SIGN_KEY.value) if _SIGN_KEY.value is not None else None,
    catalog.collection,
    text,
  )


def _check_no_flags_of_encoders(model: str) -> None:
  """Raises UsageError when a flag was given that says nothing of a preprocessor."""
  given = [
    f'--{"no" if flag.value is False else ""}{flag.name}'
    for flag in (_IO, _PREPROCESSOR, _MLM, _SOP, _REPORT)
    if flag.value is not None
  ]
  if _WITH_TEXT.value:
    given.append(f'--{_WITH_TEXT.name}')
  if given:
    raise errors.UsageError(
      f'{", ".join(given)} with --model={model}, which is a preprocessor: only encoders have that, leave it out'
    )


def _summarize(
  console: console_lib.Console, tree: tree_lib.Tree, request: request_lib.Request, outcome: 'release_pipeline.Outcome'
) -> None:
  paths = [path for release in outcome.published for path in (release, *tree.beside(release))]
  console.table(
    'Published', ['path', 'size'], [[f'{tree.root}/{path}', console_lib.size(tree.size(path))] for path in paths]
  )
  for kept in outcome.kept:
    unsigned = request.sign_key is not None and kept + publish.SIGNATURE not in tree.beside(kept)
    console.line(f'Kept, with the same bytes: {tree.root}/{kept}' + (' (not signed)' if unsigned else ''))
  for breaking in outcome.breaking:
    console.line(f'Breaking: {breaking}')
  for piece in outcome.pieces:
    piece.tell()


if __name__ == '__main__':
  cli.run(main)
