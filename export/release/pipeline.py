"""Makes one release from a source: models, certificates, archives, cards, records, and their publication."""

import contextlib
import dataclasses
import gc
import os
import pathlib
import platform
import threading
from collections.abc import Callable
from collections.abc import Iterator
from concurrent import futures

from converters import errors
from converters import packages
from converters import source as source_lib
from export import record as record_lib
from export import spec
from export.release import archive as release_archive
from export.release import artifacts
from export.release import collection
from export.release import integrity
from export.release import model_card
from export.release import preprocessor_check
from export.release import request as request_lib
from export.release import signature
from export.release import upgrade_check
from export.source import process as source_process
from export.store import digests
from export.store import tree as tree_lib
from export.ui import console as console_lib
from export.ui import html_report
from export.validation import encoder_certificate

# Packages whose version can change the published bytes.
_LIBRARIES = (
  'albert-hub-export',
  'isal',
  'numpy',
  'sentencepiece',
  'tensorflow-cpu',
  'tensorflow',
  'tensorflow-text',
  'tf-keras',
  'tf-models-official',
)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Result of a release.

  Attributes:
    published: paths of the releases that are new in the tree.
    kept: paths of the releases that already existed.
    pieces: the models with their certificates, in the order of the request's releases.
    breaking: breaking differences from the previous versions.
  """

  published: list[str]
  kept: list[str]
  pieces: list[artifacts.Piece]
  breaking: list[str]


def run(
  request: request_lib.Request,
  console: console_lib.Console,
  on_published: Callable[[], None] = lambda: None,
  child: source_process.Child | None = None,
) -> Outcome:
  """Makes and publishes a release.

  Three helpers run concurrently: a subprocess with the source's graph, a thread that computes the reference, and a
  thread that packs and verifies the saved models.

  Args:
    request: the release request.
    console: shows the steps.
    on_published: called after the publication, which is not rolled back from then on.
    child: subprocess for the source's graph; None starts one if the source has a graph.

  Raises:
    AlbertHubError: the release failed; nothing is published, and no files are left.
  """
  tree = tree_lib.at(request.export_root)
  _check_kept_encoder(tree, request)
  with contextlib.ExitStack() as stack:
    with console.step('open the source'):
      source = stack.enter_context(source_lib.open_source(request.source, request.reading))
    preprocessor_check.check(tree, request, source)
    made = _pieces(request, source, console, child, stack)
    staged = stack.enter_context(tree.staging())
    pack = stack.enter_context(_packer(staged, console))
    steps = [stack.enter_context(upgrade_check.of(tree, piece.release, request.breaking)) for piece in made]

    records, packed = list[record_lib.Record](), []
    for piece in made:
      records.append(piece.save(staged))
      packed.append(pack(records[-1]))
    for piece in made:
      piece.forget()
    gc.collect()

    models = [staged / piece.release.path for piece in made]
    for step, model in zip(steps, models, strict=True):
      if step.old:
        with console.step(f'compare with {step.short}'):
          step.compare_interfaces(model)
    records = [
      dataclasses.replace(record, certificate=piece.prove(staged)) for piece, record in zip(made, records, strict=True)
    ]
    for step, model, record in zip(steps, models, records, strict=True):
      if step.old:
        with console.step(f'compare outputs with {step.short}'):
          step.compare_outputs(model, record)
    seen = []
    with console.step('wait for the archives'):
      for piece, step, record, future in zip(made, steps, records, packed, strict=True):
        archive, before = future.result()
        seen.append(before)
        _describe(
          staged,
          piece.release,
          dataclasses.replace(record, breaking=step.breaking, files=archive.files, archive=archive.archive),
        )
    if request.sign_key is not None:
      with console.step('sign'):
        for model in models:
          signature.sign(model, request.sign_key)
    put_report = None
    if request.report is not None:  # before the publication, so that a failure prevents it
      put_report = stack.enter_context(
        html_report.prepared(record_lib.read(staged / request.release.path), request.report)
      )
    with console.step('verify'):
      for model, before in zip(models, seen, strict=True):
        integrity.check_statement(model, record_lib.read(model))
        if _file_stats(model) != before:
          raise errors.IntegrityError(
            f'{staged}: files of {model.relative_to(staged)} changed during the comparison; let no other process write '
            'there, and try again'
          )
    paths = [piece.release.path for piece in made]
    with console.step('publish'):
      published = tree.publish(staged, paths, request.keep_existing)
    on_published()
    if put_report is not None:
      try:
        put_report()
      except OSError as e:  # the directory changed meanwhile; the release is complete
        console.line(f'The report was not written to {request.report}: {e.strerror}')
    if request.collection is not None:
      collection.renew(tree, request.release.publisher, request.collection, console)
  return Outcome(
    published,
    [path for path in paths if path not in published],
    made,
    [difference for step in steps for difference in step.breaking],
  )


def _check_kept_encoder(tree: tree_lib.Tree, request: request_lib.Request) -> None:
  """Raises PublishError if an encoder that is already published has another preprocessor than its new text model."""
  if request.text is None or not tree_lib.holds(tree, request.text.encoder.path):
    return
  companion = getattr(collection.read_record(tree, request.text.encoder.path), 'preprocessor', 'none')
  if companion != request.preprocessor.path:
    raise errors.PublishError(
      f'{request.text.encoder.path} in {tree.root}: its preprocessor is {companion}, not {request.preprocessor.path}; '
      f'give option preprocessor={companion.partition("/")[2]}'
    )


def _pieces(
  request: request_lib.Request,
  source: source_lib.Source,
  console: console_lib.Console,
  child: source_process.Child | None,
  stack: contextlib.ExitStack,
) -> list[artifacts.Piece]:
  """Returns the models to publish, in the order in which they are made.

  Each model is saved before the functions of the next are created, so its bytes do not depend on the other models.
  """
  preprocessor = artifacts.Preprocessor(request.preprocessor, source, console)
  if request.encoder is None:
    return [preprocessor]
  from export.release import encoder_artifacts  # imports tf-models, which takes a second

  parts = request_lib.parts(request, source)
  for lack in source_lib.lacks(source):
    console.line(f'  the source has {lack}')
  for note in source_lib.notes(source):
    console.line(f'  {note}')
  examination = stack.enter_context(encoder_certificate.examine(source, parts, request.trust, child, console.profile))
  encoder = encoder_artifacts.Encoder(request.encoder, request.source, source, parts, examination, console)
  if request.text is None:
    return [preprocessor, encoder]
  return [preprocessor, encoder, encoder_artifacts.Text(request.text, preprocessor, encoder, console)]


_FileStats = dict[str, tuple[int, int, int]]


def _file_stats(model: pathlib.Path) -> _FileStats:
  """Returns inode, size and mtime (ns) of each file of a staged model and of its archive, to detect writes."""
  paths = [path for path in (*model.rglob('*'), model.with_name(model.name + spec.ARCHIVE)) if path.is_file()]
  return {os.fspath(path): (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path in paths if (stat := path.stat())}


class _Cancelled(Exception):
  """The release has ended; packing stops."""


@contextlib.contextmanager
def _packer(
  staged: pathlib.Path, console: console_lib.Console
) -> Iterator[Callable[[record_lib.Record], futures.Future[tuple[release_archive.Packed, _FileStats]]]]:
  """Yields a function that packs a saved model in a thread, and verifies directory and archive.

  The function takes the record of a saved model. It returns a future of the digests for the record, and the
  `_file_stats` before the verification. The thread ends with the context.
  """
  cancelled = threading.Event()

  def check(count: int) -> None:
    if cancelled.is_set():
      raise _Cancelled

  def pack(record: record_lib.Record) -> tuple[release_archive.Packed, _FileStats]:
    model = staged / record.release
    archive = model.with_name(model.name + spec.ARCHIVE)
    with console.profile.span(f'pack {record.release}'):
      packed = release_archive.pack(model, archive, check)
    with console.profile.span(f'verify {record.release}'):
      stats = _file_stats(model)
      integrity.check_content(model, dataclasses.replace(record, files=packed.files, archive=packed.archive))
    return packed, stats

  with futures.ThreadPoolExecutor(1, 'pack') as pool:
    try:
      yield lambda record: pool.submit(pack, record)
    finally:
      cancelled.set()


def _describe(staged: pathlib.Path, release: spec.Release, record: record_lib.Record) -> None:
  """Writes card and record next to a staged model and its archive.

  Args:
    staged: staging directory.
    release: the release.
    record: its record without card and libraries.
  """
  model = staged / release.path
  companions = {suffix: model.with_name(model.name + suffix) for suffix in spec.COMPANIONS}
  card = model_card.render(
    record.kind,
    release=release,
    record=record,
    asset_path=companions[spec.ARCHIVE].name,
    seq_length=getattr(record, 'seq_length', spec.SEQ_LENGTH),
  )
  companions[spec.CARD].write_text(card, encoding='utf-8')
  record = dataclasses.replace(record, card=digests.of_file(companions[spec.CARD]), libraries=_library_versions())
  companions[spec.RECORD].write_text(record_lib.text(record), encoding='utf-8')


def _library_versions() -> dict[str, str]:
  return {'python': platform.python_version(), **packages.versions(_LIBRARIES)}
