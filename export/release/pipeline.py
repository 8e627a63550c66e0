"""One release, from a source to the tree: its models, their proofs, the cards, the archives, the records."""

import contextlib
import dataclasses
import gc
import importlib.metadata
import json
import os
import pathlib
import threading
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent import futures
from typing import Any

from converters import errors
from converters import source as source_lib
from export import spec
from export.model import preprocessor as preprocessor_model
from export.release import archive as release_archive
from export.release import artifacts
from export.release import collection
from export.release import integrity
from export.release import model_card
from export.release import request as request_lib
from export.release import signature
from export.release import upgrade_check
from export.source import process as source_process
from export.store import digests
from export.store import publish
from export.store import tree as tree_lib
from export.ui import console as console_lib
from export.ui import html_report
from export.validation import encoder_certificate

# The packages whose version can change what is published.
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
  """What was published.

  Attributes:
    published: the releases that are new in the tree.
    kept: those that were there already.
    pieces: the models, in the order of the request's releases, each with its proof.
    breaking: what users of the versions before will miss.
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
  """Makes a release.

  Beside it run, from the moment there is something to do for them: a process with the source's graph, a thread that
  computes the
  reference, and one that packs what was saved and verifies it.

  Args:
    request: what is asked for.
    console: says what is being done.
    on_published: called once it is published: from then on nothing is taken back.
    child: the process to run the source's graph in; None to start one if there is a graph to run.

  Raises:
    AlbertHubError: and nothing was published, nor is anything left behind.
  """
  tree = tree_lib.at(request.export_root)
  _check_kept_encoder(tree, request)
  with contextlib.ExitStack() as stack:
    with console.step('open the source'):
      source = stack.enter_context(source_lib.open_source(request.source, request.reading))
    made = _pieces(request, source, console, child, stack)
    staged = stack.enter_context(tree.staging())
    pack = stack.enter_context(_packer(staged, console))
    steps = [stack.enter_context(upgrade_check.of(tree, piece.release, request.breaking)) for piece in made]

    facts, packed = [], []
    for piece in made:
      facts.append(piece.save(staged))
      packed.append(pack(piece.release, facts[-1]))
    for piece in made:
      piece.forget()
    gc.collect()

    models = [staged / piece.release.path for piece in made]
    for step, model in zip(steps, models, strict=True):
      if step.old:
        with console.step(f'compare with {step.short}'):
          step.compare_interfaces(model)
    for piece, fact in zip(made, facts, strict=True):
      fact['certificate'] = piece.prove(staged)
    for step, model, fact in zip(steps, models, facts, strict=True):
      if step.old:
        with console.step(f'run {step.short} beside it'):
          step.compare_outputs(model, fact)
      fact['breaking'] = step.breaking
    seen = []
    with console.step('wait for the archives'):
      for piece, fact, future in zip(made, facts, packed, strict=True):
        parts_of_record, before = future.result()
        seen.append(before)
        _describe(staged, piece.release, fact | parts_of_record)
    if request.sign_key is not None:
      with console.step('sign'):
        for model in models:
          signature.sign(model, request.sign_key)
    put_report = None
    if request.report is not None:  # written before anything is published, so that it cannot fail afterwards
      put_report = stack.enter_context(
        html_report.prepared(integrity.read_record(staged / request.release.path), request.report)
      )
    with console.step('verify'):
      for model, before in zip(models, seen, strict=True):
        integrity.check_statement(model, integrity.read_record(model))
        if _see(model) != before:
          raise errors.IntegrityError(
            f'files of {model.relative_to(staged)} changed while they were compared in {staged}: nobody else may '
            'write there, try again'
          )
    paths = [piece.release.path for piece in made]
    with console.step('publish'):
      published = tree.publish(staged, paths)
    on_published()
    if put_report is not None:
      try:
        put_report()
      except OSError as e:  # somebody changed the place meanwhile; the release is published, and complete
        console.line(f'The report could not be put at {request.report}: {e.strerror}')
    if request.collection is not None:
      collection.renew(tree, request.release.publisher, request.collection, console)
  return Outcome(
    published,
    [path for path in paths if path not in published],
    made,
    [difference for step in steps for difference in step.breaking],
  )


def _check_kept_encoder(tree: tree_lib.Tree, request: request_lib.Request) -> None:
  """Raises PublishError if an encoder that is published, and now gets its model from text to vectors, goes with another preprocessor."""
  if request.text is None or not tree_lib.holds(tree, request.text.encoder.path):
    return
  companion = str(collection.read_record(tree, request.text.encoder.path).get('preprocessor'))
  if companion != request.preprocessor.path:
    raise errors.PublishError(
      f'{request.text.encoder.path} in {tree.root} goes with {companion}: give its model from text to vectors the same with '
      f'--preprocessor={companion.partition("/")[2]}'
    )


def _pieces(
  request: request_lib.Request,
  source: source_lib.Source,
  console: console_lib.Console,
  child: source_process.Child | None,
  stack: contextlib.ExitStack,
) -> list[artifacts.Piece]:
  """What is to be published, in the order in which it is made.

  Each is saved before any function of the next is made in this process: so its bytes do not depend on what it is
  published with.
  """
  preprocessor = artifacts.Preprocessor(request.preprocessor, source, console)
  if request.encoder is None:
    return [preprocessor]
  from export.release import encoder_artifacts  # tf-models takes a second, and a preprocessor does not need it

  parts = request_lib.parts(request, source)
  for lack in source_lib.lacks(source):
    console.line(f'  the source has {lack}')
  examination = stack.enter_context(encoder_certificate.examine(source, parts, request.trust, child, console.profile))
  encoder = encoder_artifacts.Encoder(request.encoder, request.source, source, parts, examination, console)
  if request.text is None:
    return [preprocessor, encoder]
  return [preprocessor, encoder, encoder_artifacts.Text(request.text, preprocessor, encoder, console)]


_Seen = dict[str, tuple[int, int, int]]


def _see(model: pathlib.Path) -> _Seen:
  """What shows that nobody has written to a staged model, or to its archive."""
  paths = [path for path in (*model.rglob('*'), model.with_name(model.name + publish.ARCHIVE)) if path.is_file()]
  return {os.fspath(path): (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path in paths if (stat := path.stat())}


class _GivenUp(Exception):
  """The release failed elsewhere."""


@contextlib.contextmanager
def _packer(
  staged: pathlib.Path, console: console_lib.Console
) -> Iterator[Callable[..., futures.Future[tuple[dict[str, Any], _Seen]]]]:
  """A function that packs a model which was saved, in a thread, and holds directory and archive against what will be its record.

  It takes the release and its facts, and gives `files` and `archive` of the record, and what `_see` saw before. The
  thread is gone when the context ends.
  """
  given_up = threading.Event()

  def check(count: int) -> None:
    if given_up.is_set():
      raise _GivenUp

  def pack(release: spec.Release, facts: Mapping[str, Any]) -> tuple[dict[str, Any], _Seen]:
    model = staged / release.path
    archive = model.with_name(model.name + publish.ARCHIVE)
    with console.profile.span(f'pack {release.path}'):
      made = release_archive.pack(model, archive, check)
    packed = {
      'files': {name: dataclasses.asdict(digest) for name, digest in made.files.items()},
      'archive': {**dataclasses.asdict(made.archive), 'tar_sha256': made.tar_sha256},
    }
    with console.profile.span(f'verify {release.path}'):
      seen = _see(model)
      integrity.check_content(model, {**facts, **packed})
    return packed, seen

  with futures.ThreadPoolExecutor(1, 'pack') as pool:
    try:
      yield lambda release, facts: pool.submit(pack, release, dict(facts))
    finally:
      given_up.set()


def _describe(staged: pathlib.Path, release: spec.Release, facts: Mapping[str, Any]) -> None:
  """Writes card and record beside a staged model and its archive."""
  model = staged / release.path
  beside = {suffix: model.with_name(model.name + suffix) for suffix in publish.COMPANIONS}
  record = {'release': release.path, **facts}
  card = model_card.render(
    record['kind'],
    release=release,
    record=record,
    asset_path=beside[publish.ARCHIVE].name,
    seq_length=preprocessor_model.DEFAULT_SEQ_LENGTH,
  )
  beside[publish.CARD].write_text(card, encoding='utf-8')
  record |= {'card': dataclasses.asdict(digests.of_file(beside[publish.CARD])), 'libraries': _library_versions()}
  beside[publish.RECORD].write_text(json.dumps(record, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')


def _library_versions() -> dict[str, str]:
  versions = {}
  for name in _LIBRARIES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[name] = importlib.metadata.version(name)
  return versions
