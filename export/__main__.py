"""Converts a pretrained ALBERT to TF2 SavedModels, proves parity, and publishes.

  python -m export --source=https://tfhub.dev/google/albert_large/3 --model=albert_en_large --version=2
  python -m export --source=albert_large.tar.gz --model=albert_en_large --version=3 --export_root=dist

Files below --export_root: the SavedModel PUBLISHER/MODEL/VERSION, and VERSION.tar.gz, VERSION.md and
VERSION.release.json in the same directory. The encoder's preprocessor has the same four, as has MODEL_text, a model of
both, with --with_text. The card of the collection, PUBLISHER/collections/NAME/1.md, lists all models of the tree. If
--model is a preprocessor of the catalog, only the preprocessor is published, exactly as with an encoder.
"""

import contextlib
import dataclasses
import gc
import pathlib
import re
import time
import typing
from typing import Any

from absl import flags

from converters import cli
from converters import errors
from converters import source as source_lib
from converters import source_flags
from export import assets_dir
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
  f'{source_flags.SOURCE_HELP} Default: the handle of --model in the catalog.',
)
_MODEL = flags.DEFINE_string(
  'model',
  None,
  'Name to publish under, as albert_en_large; it need not be in the catalog. Or a preprocessor of the catalog, as '
  'albert_en_preprocess.',
)
_VERSION = flags.DEFINE_integer(
  'version',
  None,
  'Version to publish: one in the catalog, or the next one, and higher than all in --export_root. Default: the '
  'newest one in the catalog; for a model that is not in the catalog, the next one in --export_root.',
)
_EXPORT_ROOT = flags.DEFINE_string(
  'export_root',
  'dist',
  'Root of the release tree, created if missing. A directory, or a path that tf.io.gfile opens (gs://bucket/models).',
)
_PUBLISHER = flags.DEFINE_string('publisher', None, 'First part of the published path. Default: the catalog\'s.')
_IO = flags.DEFINE_enum(
  'io',
  None,
  ['dict', 'list'],
  'Input of the encoder: a dict of tensors, or a list of three tensors as in version 1. Default: the catalog\'s, else '
  'dict.',
)
_PREPROCESSOR = flags.DEFINE_string(
  'preprocessor',
  None,
  'NAME/VERSION of the encoder\'s preprocessor, version 1 to 4. Default: the catalog\'s, else MODEL_preprocess/4.',
)
_CHANGE = flags.DEFINE_multi_string(
  'change',
  None,
  'A change in this version, for the card. Repeat the flag for each change. Default: the catalog\'s, else '
  '"Initial release.".',
)
_LANGUAGE = flags.DEFINE_string(
  'language',
  None,
  'Language of the model as a BCP 47 tag (hi, pt-BR), for the card. Default: the catalog\'s, else none.',
)
_MLM = flags.DEFINE_bool('mlm', None, 'Include the masked language model head. Default: true if the source has it.')
_SOP = flags.DEFINE_bool('sop', None, 'Include the sentence order head. Default: true if the source has it.')
_WITH_TEXT = flags.DEFINE_bool(
  'with_text',
  False,
  'Also publish a third model, MODEL_text: the preprocessor and the encoder in one, from text to vectors.',
)

_BREAKING = flags.DEFINE_bool(
  'breaking',
  False,
  'Publish even if this version breaks users of the version before in --export_root. The card states it.',
)
_KEEP_EXISTING = flags.DEFINE_bool(
  'keep_existing',
  False,
  'Succeed if the version exists with the bytes of this export, and keep it. Without this flag, it is refused.',
)
_SIGN_KEY = flags.DEFINE_string(
  'sign_key', None, 'PEM file of an elliptic curve private key. Adds an OpenSSF model signature to the release.'
)
_CATALOG = flags.DEFINE_string('catalog', str(catalog_lib.PATH), 'YAML file of the catalog of models and versions.')
_DRY_RUN = flags.DEFINE_bool(
  'dry_run',
  False,
  'Run all checks that need no weights, print the files that an export would publish, and publish nothing.',
)
_PROFILE = flags.DEFINE_string(
  'profile',
  None,
  'JSON file to write with the time and cost of each step by process and thread; open it in chrome://tracing or '
  'ui.perfetto.dev.',
)
_REPORT = flags.DEFINE_string('report', None, 'HTML file to write with the parity report.')

_GROUPS = {
  'Most exports need': ('source', 'model', 'version', 'export_root'),
  'What is published': (
    *('with_text', 'mlm', 'sop', 'io', 'preprocessor', 'change', 'language', 'breaking', 'keep_existing'),
    *('publisher', 'sign_key', 'catalog'),
  ),
  'Plan, report and profile': ('dry_run', 'report', 'profile'),
  **source_flags.GROUPS,
  **policy_flags.GROUPS,
}


def main() -> dict[str, Any]:
  """Runs the command; see the module.

  Returns:
    For --json: `release` (path), `export_root`, and for an export `record` (path), `published` and `kept` (paths),
    `breaking` (sentences) and `seconds`; for --dry_run `planned`, the paths of all files.
  """
  start = time.monotonic()
  catalog = catalog_lib.Catalog(_CATALOG.value)
  request = _request(catalog)
  release = request.release
  tree = tree_lib.at(request.export_root)
  publish.check_new(tree.root, [r.path for r in request.releases], tree.versions, request.keep_existing)
  tree.check_writable()
  if request.sign_key is not None:
    signature.check_private_key(request.sign_key)
  profile_path = cli.file_path('--profile', _PROFILE.value)
  if profile_path is not None and profile_path == request.report:
    raise errors.UsageError(f'--profile={profile_path}: also the file of --report; give another file')
  source_lib.check_handle(request.source)
  profile = trace.Profile()
  console = console_lib.Console(profile)
  console.line(f'{release.path} from {request.source}')
  result = {'release': release.path, 'export_root': tree.root}
  if _DRY_RUN.value:
    return result | {'planned': dry_run.show(request, tree, console)}
  if request.encoder is not None:
    cli.check_tf_models()
  # Importing TensorFlow takes seconds: it follows the checks of the flags, and runs in both processes at once. A
  # preprocessor has no source graph to run.
  try:
    with source_process.prepare(request.trust) if request.encoder is not None else contextlib.nullcontext() as child:
      with console.step('import TensorFlow'):
        from export.release import pipeline as release_pipeline

        if request.encoder is not None:
          from export.release import encoder_artifacts  # noqa: F401
      gc.freeze()  # garbage collection skips the imported objects, which saves time
      outcome = release_pipeline.run(request, console, cli.finish, child)
  finally:
    if profile_path is not None:  # also for a release that fails
      _write_profile(profile, profile_path, console)
  _summarize(console, tree, request, outcome, start)
  if request.report:
    console.line(f'\nReport: {request.report}')
  return result | {
    'record': f'{tree.root}/{release.path}{spec.RECORD}',
    'published': outcome.published,
    'kept': outcome.kept,
    'breaking': outcome.breaking,
    'seconds': round(time.monotonic() - start, 1),
  }


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
    raise errors.UsageError('--export_root: empty; give a directory')
  if _VERSION.value is not None and not cli.VERSION.fullmatch(str(_VERSION.value)):
    raise errors.UsageError(f'--version={_VERSION.value}: not a valid version; give 1, 2, 3 and so on')
  newest = max(tree_lib.at(_EXPORT_ROOT.value).versions(f'{publisher}/{model}'), default=0)
  version = _VERSION.value or catalog.newest_version(model) or newest + 1
  if catalog.newest_version(model) is None and newest and version > newest + 1:
    raise errors.UsageError(
      f'--version={version}: not the next version (the newest in {_EXPORT_ROOT.value} is '
      f'{publisher}/{model}/{newest}); give --version={newest + 1}'
    )
  source = _SOURCE.value or catalog.source(model)
  if not source:
    raise errors.UsageError(
      f'--source: missing, and the catalog has none for {model}; give a directory, a .tar.gz or a handle'
    )
  if _CHANGE.value and not all(change.strip() for change in _CHANGE.value):
    raise errors.UsageError('--change: empty; describe the change')
  changes = [' '.join(change.split()) for change in _CHANGE.value or []]
  release: spec.Release
  text, reading = None, source_flags.reading()
  if catalog.is_preprocessor(model):
    _check_no_flags_of_encoders(model)
    reading = dataclasses.replace(reading, pooler=False)  # the vocabulary suffices
    release = catalog.preprocessor(model, version, publisher=publisher, changes=changes)
  else:
    cli.check_preprocessor(_PREPROCESSOR.value)
    if _LANGUAGE.value is not None and not re.fullmatch('[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*', _LANGUAGE.value):
      raise errors.UsageError(f'--language={_LANGUAGE.value[:40]}: not a BCP 47 tag; give one as hi or pt-BR')
    release = encoder = catalog.encoder(
      model,
      version,
      publisher=publisher,
      interface=_IO.value,
      preprocessor=_PREPROCESSOR.value,
      changes=changes,
      language=_LANGUAGE.value,
    )
    if _WITH_TEXT.value:
      text = catalog.text(encoder)
      if not cli.NAME.fullmatch(text.name):
        raise errors.UsageError(f'--with_text: the name {text.name} is too long; give a shorter --model')
  return request_lib.Request(
    release,
    source,
    _EXPORT_ROOT.value,
    reading,
    policy_flags.trust(),
    _MLM.value,
    _SOP.value,
    _BREAKING.value,
    cli.file_path('--report', _REPORT.value),
    pathlib.Path(_SIGN_KEY.value) if _SIGN_KEY.value is not None else None,
    catalog.collection,
    text,
    _KEEP_EXISTING.value,
  )


def _check_no_flags_of_encoders(model: str) -> None:
  """Raises UsageError if a flag for encoders is given with a preprocessor."""
  given = [
    f'--{"no" if flag.value is False else ""}{flag.name}'
    for flag in (_IO, _PREPROCESSOR, _LANGUAGE, _MLM, _SOP, _REPORT)
    if flag.value is not None
  ]
  if _WITH_TEXT.value:
    given.append(f'--{_WITH_TEXT.name}')
  if given:
    raise errors.UsageError(
      f'{", ".join(given)}: not available with --model={model}, which is a preprocessor; leave it out'
    )


def _summarize(
  console: console_lib.Console,
  tree: tree_lib.Tree,
  request: request_lib.Request,
  outcome: 'release_pipeline.Outcome',
  start: float,
) -> None:
  paths = [path for release in outcome.published for path in (release, *tree.beside(release))]
  if paths:
    rows = [[f'{tree.root}/{path}', console_lib.size(tree.size(path))] for path in paths]
    console.table('Published', ['path', 'size'], rows)
  for kept in outcome.kept:
    unsigned = request.sign_key is not None and kept + spec.SIGNATURE not in tree.beside(kept)
    console.line(f'Kept, with the same bytes: {tree.root}/{kept}' + (' (not signed)' if unsigned else ''))
  for breaking in outcome.breaking:
    console.line(f'Breaking: {breaking}')
  for piece in outcome.pieces:
    piece.tell()
  done = 'Published and proven' if outcome.published else 'Proven; the same bytes are published already'
  root = '' if request.export_root == _EXPORT_ROOT.default else request.export_root
  if assets_dir.INSTALLED:
    serve = 'albert-hub-export serve' + (f' --export_root={root}' if root else '')
  else:
    serve = 'make serve' + (f' EXPORT_ROOT={root}' if root else '')
  card = f'{tree.root}/{request.release.path}{spec.CARD}'
  console.line(f'\n{done} in {time.monotonic() - start:.0f} s. Try it: {serve}; card: {card}')


if __name__ == '__main__':
  cli.run(main, _GROUPS, result=True)
