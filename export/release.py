"""One release, from a source to the tree: the encoder, its preprocessor, the proof, the cards, the archives, the records."""

import contextlib
import dataclasses
import gc
import importlib.metadata
import json
import math
import os
import pathlib
import threading
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent import futures
from typing import Any

from converters import albert as albert_lib
from converters import errors
from converters import source as source_lib
from converters import weight_map
from export import catalog as catalog_lib
from export import collection
from export import console as console_lib
from export import encoder as encoder_lib
from export import integrity
from export import model_card
from export import package
from export import preprocessing
from export import publish
from export import report as report_lib
from export import request as request_lib
from export import saved_model
from export import signature
from export import succession
from export import tree as tree_lib
from export import warmup
from export.proof import certificate as certificate_lib
from export.proof import source_run
from export.proof import token_parity

# The packages whose version can change what is published.
_LIBRARIES = ('albert-hub-export', 'isal', 'numpy', 'sentencepiece', 'tensorflow-cpu', 'tensorflow', 'tensorflow-text',
              'tf-keras', 'tf-models-official')


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What was published.

  Attributes:
    published: the releases that are new in the tree.
    kept: the companion, if it was there already.
    parameters: how many numbers the encoder and its heads hold.
    certificate: the parity figures.
    breaking: what users of the versions before will miss.
  """
  published: list[str]
  kept: list[str]
  parameters: int
  certificate: certificate_lib.Certificate
  breaking: list[str]


def run(request: request_lib.Request, console: console_lib.Console, on_published: Callable[[], None] = lambda: None,
        child: source_run.Child | None = None) -> Outcome:
  """Makes a release.

  Beside it run, from the moment there is something to do for them: a process with the source's graph, a thread that computes the
  reference, and one that packs what was saved and verifies it.

  Args:
    request: what is asked for.
    console: says what is being done.
    on_published: called once it is published: from then on nothing is taken back.
    child: the process to run the source's graph in; None to start one.

  Raises:
    AlbertHubError: and nothing was published, nor is anything left behind.
  """
  release, companion = request.release, request.release.preprocessor
  tree = tree_lib.at(request.export_root)
  with contextlib.ExitStack() as stack:
    with console.step('open the source'):
      source = stack.enter_context(source_lib.open_source(request.source, request.reading))
    parts = request_lib.parts(request, source)
    for lack in source_lib.lacks(source):
      console.line(f'  the source has {lack}')
    examination = stack.enter_context(certificate_lib.examine(source, parts, request.trust, child, console.profile))
    staged = stack.enter_context(tree.staging())
    pack = stack.enter_context(_packer(staged, console))
    steps = [stack.enter_context(succession.of(tree, r, request.breaking)) for r in (companion, release)]

    # Saved first, and before any other function is made in this process: so the companion's bytes do not depend on the
    # encoder that it is published with.
    with console.step(f'save {companion.path}'):
      saved_model.write(*preprocessing.exportable(source.sp_model, companion.version), staged / companion.path)
      warmup.write(staged / companion.path, companion.name, warmup.OF_PREPROCESSOR)
    both = [(companion, _preprocessor_facts(companion, source))]
    packed = [pack(*both[0])]
    rows = weight_map.rows(source.config, parts)
    with console.step('load the weights', total=len(rows)) as advance:
      albert = albert_lib.build(source, parts, progress=lambda name: advance(1))
    with console.step(f'save {release.path}'):
      sp_model_file = stack.enter_context(_named_file(staged, source.sp_model_name, source.sp_model))
      saved_model.write(
          *encoder_lib.exportable(albert, str(sp_model_file), release.interface), staged / release.path)
      warmup.write(staged / release.path, release.name, warmup.of_encoder(source.config))
    keys = saved_model.checkpoint_keys(staged / release.path)
    ledger = [dataclasses.asdict(weight) | {'checkpoint_key': keys[weight.target]} for weight in albert.weights]
    both.append((release, _encoder_facts(request, source, parts, ledger)))
    packed.append(pack(*both[1]))
    del albert  # what is compared is what was written
    gc.collect()

    for step, (new, _) in zip(steps, both, strict=True):
      if step.old:
        with console.step(f'compare with {step.short}'):
          step.compare_interfaces(staged / new.path)
    with console.step('compare the tokens'):
      tokens = token_parity.check(staged / companion.path, source.sp_model, companion.version)
    certificate = examination.certify(staged / release.path, release.interface, console.step)
    for (_, facts), proof in zip(both, ({'tokens': {'values': tokens, 'different': 0}}, certificate.as_json()), strict=True):
      facts['certificate'] = proof
    for step, (new, facts) in zip(steps, both, strict=True):
      if step.old:
        with console.step(f'run {step.short} beside it'):
          step.compare_outputs(staged / new.path, facts)
      facts['breaking'] = step.breaking
    seen = dict[str, _Seen]()
    with console.step('wait for the archives'):
      for (new, facts), future in zip(both, packed, strict=True):
        parts_of_record, seen[new.path] = future.result()
        _describe(staged, new, facts | parts_of_record)
    if request.sign_key is not None:
      with console.step('sign'):
        for new, _ in both:
          signature.sign(staged / new.path, request.sign_key)
    put_report = None
    if request.report is not None:  # written before anything is published, so that it cannot fail afterwards
      put_report = stack.enter_context(report_lib.prepared(integrity.read_record(staged / release.path), request.report))
    with console.step('verify'):
      for new, _ in both:
        integrity.check_statement(staged / new.path, integrity.read_record(staged / new.path))
        if _see(staged / new.path) != seen[new.path]:
          raise errors.IntegrityError(f'files of {new.path} changed while they were compared in {staged}: nobody else may write there, try again')
    with console.step('publish'):
      published = tree.publish(staged, [companion.path, release.path])
    on_published()
    if put_report is not None:
      try:
        put_report()
      except OSError as e:  # somebody changed the place meanwhile; the release is published, and complete
        console.line(f'The report could not be put at {request.report}: {e.strerror}')
    if request.collection is not None:
      try:
        collection.write(tree, release.publisher, request.collection)
      except errors.AlbertHubError as e:  # the release is published, and complete
        console.line(f'The card of the collection is as it was: {e}')
  kept = [path for path in (companion.path, release.path) if path not in published]
  return Outcome(published, kept, _count(rows, source), certificate,
                 [difference for step in steps for difference in step.breaking])


_Seen = dict[str, tuple[int, int, int]]


def _see(model: pathlib.Path) -> _Seen:
  """What shows that nobody has written to a staged model, or to its archive."""
  paths = [path for path in (*model.rglob('*'), model.with_name(model.name + publish.ARCHIVE)) if path.is_file()]
  return {os.fspath(path): (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path in paths if (stat := path.stat())}


class _GivenUp(Exception):
  """The release failed elsewhere."""


@contextlib.contextmanager
def _packer(staged: pathlib.Path, console: console_lib.Console) -> Iterator[Callable[..., futures.Future[tuple[dict[str, Any], _Seen]]]]:
  """A function that packs a model which was saved, in a thread, and holds directory and archive against what will be its record.

  It takes the release and its facts, and gives `files` and `archive` of the record, and what `_see` saw before. The thread is gone when the context ends.
  """
  given_up = threading.Event()

  def check(count: int) -> None:
    if given_up.is_set():
      raise _GivenUp

  def pack(release: catalog_lib.Release, facts: Mapping[str, Any]) -> tuple[dict[str, Any], _Seen]:
    model = staged / release.path
    archive = model.with_name(model.name + publish.ARCHIVE)
    with console.profile.span(f'pack {release.path}'):
      made = package.pack(model, archive, check)
    packed = {'files': {name: dataclasses.asdict(digest) for name, digest in made.files.items()},
              'archive': {**dataclasses.asdict(made.archive), 'tar_sha256': made.tar_sha256}}
    with console.profile.span(f'verify {release.path}'):
      seen = _see(model)
      integrity.check_content(model, {**facts, **packed})
    return packed, seen

  with futures.ThreadPoolExecutor(1, 'pack') as pool:
    try:
      yield lambda release, facts: pool.submit(pack, release, dict(facts))
    finally:
      given_up.set()


@contextlib.contextmanager
def _named_file(directory: pathlib.Path, name: str, content: bytes) -> Any:
  """A temporary file: an asset keeps its name, and nothing else of where it came from."""
  path = directory / name
  path.write_bytes(content)
  yield path


def _count(rows: Iterable[weight_map.Row], source: source_lib.Source) -> int:
  return sum(math.prod(weight_map.shape(row.shape, source.config)) for row in rows)


def _encoder_facts(request: request_lib.Request, source: source_lib.Source, parts: frozenset[weight_map.Part],
                   ledger: list[dict[str, Any]]) -> dict[str, Any]:
  """For the record; the certificate takes its place there later."""
  release, companion = request.release, request.release.preprocessor
  return {
      'kind': 'encoder',
      'interface': release.interface,
      'heads': [p.value for p in weight_map.Part if p in parts and p is not weight_map.Part.ENCODER],
      'preprocessor': companion.path,
      'changes': release.changes[release.version],
      'config': dataclasses.asdict(source.config),
      'parameters': _count(weight_map.rows(source.config, {weight_map.Part.ENCODER}), source),
      # A path on this machine would tell nobody anything.
      'source': {'handle': request.source if '://' in request.source else None, 'digest': source.digest, 'format': source.format,
                 'lacks': source_lib.lacks(source)},
      'certificate': None,
      'weights': ledger,
  }


def _preprocessor_facts(release: catalog_lib.Release, source: source_lib.Source) -> dict[str, Any]:
  """Says nothing of the encoder: encoders of four sizes share a preprocessor."""
  return {
      'kind': 'preprocessor',
      'changes': release.changes[release.version],
      'vocab_size': source.config.vocab_size,
      'source': {'sp_model': {'name': source.sp_model_name, 'digest': source.sp_model_digest}},
      'certificate': None,
  }


def _describe(staged: pathlib.Path, release: catalog_lib.Release, facts: Mapping[str, Any]) -> None:
  """Writes card and record beside a staged model and its archive."""
  model = staged / release.path
  beside = {suffix: model.with_name(model.name + suffix) for suffix in publish.COMPANIONS}
  record = {'release': release.path, **facts}
  card = model_card.render(record['kind'], release=release, record=record, asset_path=beside[publish.ARCHIVE].name,
                           seq_length=preprocessing.DEFAULT_SEQ_LENGTH)
  beside[publish.CARD].write_text(card, encoding='utf-8')
  record |= {'card': dataclasses.asdict(package.digest(beside[publish.CARD])), 'libraries': _library_versions()}
  beside[publish.RECORD].write_text(json.dumps(record, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')


def _library_versions() -> dict[str, str]:
  versions = {}
  for name in _LIBRARIES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[name] = importlib.metadata.version(name)
  return versions
