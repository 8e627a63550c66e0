"""A preprocessor exported alone equals the one of an encoder's export, and needs no steps of encoders."""

import shutil
import subprocess

import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops)
from support import commands
from support import releases
from support import trees

from converters import errors
from converters import source as source_lib
from converters.readers import tf1_hub
from export import record as record_lib
from export.demo import vocabulary
from export.release import artifacts
from export.release import catalog as catalog_lib
from export.release import dry_run
from export.release import integrity
from export.release import preprocessor_check
from export.release import request as request_lib
from export.release import signature
from export.store import tree as tree_lib
from export.ui import console

pytestmark = pytest.mark.real_processes

NAME = 'tensorflow/albert_en_demo_preprocess'


def test_nothing_that_an_encoder_needs_is_touched(release, module, monkeypatch):
  def refuse(*arguments, **options):
    raise AssertionError

  monkeypatch.setattr(tf1_hub.Module, 'tensor', refuse)
  monkeypatch.setattr(subprocess, 'Popen', refuse)
  path, outcome = release.preprocessor(module, 3)
  assert (outcome.published, outcome.kept, len(outcome.pieces)) == ([f'{NAME}/3'], [], 1)
  assert integrity.check(path, record_lib.read(path)) == 0


@pytest.mark.slow
def test_a_process_that_makes_one_starts_no_other_and_imports_no_tf_models(module, python_module, tmp_path):
  code = (
    'from export.source import process; process.prepare = None; import sys; import runpy\n'
    'sys.argv = ["export", "--model=albert_en_demo_preprocess", f"--source={sys.argv[1]}", "--version=3"]\n'
    'try:\n  runpy.run_module("export", run_name="__main__")\n'
    'finally:\n  print("imported", [name for name in sys.modules if name.split(".")[0] == "official"])'
  )
  process = commands.run([*python_module('export')[:1], '-c', code, str(module)], cwd=tmp_path)
  assert process.returncode == 0 and 'imported []' in process.stdout, process.stderr
  assert (tmp_path / 'dist' / NAME / '3').is_dir()


@pytest.mark.slow
def test_it_is_signed_said_to_break_and_listed(release, module, keys):
  release.preprocessor(module, 3, sign_key=keys[0])
  with pytest.raises(errors.CompatibilityError, match='preprocess/4: breaks users of .*preprocess/3 .the ids of '):
    release.preprocessor(module, 4)
  path, outcome = release.preprocessor(module, 4, breaking=True, sign_key=keys[0], changes=['Commas are tokens.'])
  signature.verify(path, keys[1])
  card = path.with_name('4.md').read_text()
  assert outcome.breaking and '### Version 4 (breaking)\n\n* Commas are tokens.\n* Breaking: the ids of ' in card
  assert f'[{NAME}/4]' in (release.root / 'tensorflow/collections/albert/1.md').read_text()
  with pytest.raises(errors.PublishError, match=f'{NAME}/4: already exists'):
    release.preprocessor(module, 4)
  with pytest.raises(errors.UsageError, match=f'{NAME}/4 exists in'):
    release.preprocessor(module, 2)


def test_too_few_positions_for_text_are_named(refused, make_module):
  refused(
    make_module(max_position_embeddings=2), '2 positions, but a text needs 3 .*; give a model with more positions'
  )


@pytest.mark.slow
def test_a_preprocessor_is_no_longer_than_its_encoder(release, make_module):
  path, _ = release(
    make_module(max_position_embeddings=20), 'albert_short', version=1, preprocessor='albert_short_pre/4'
  )
  tree = path.parents[1]
  record = record_lib.read(tree / 'albert_short_pre/4')
  assert record.seq_length == 20
  preprocessor, encoder = (tf.saved_model.load(str(p)) for p in (tree / 'albert_short_pre/4', path))
  outputs = encoder(preprocessor(tf.constant(['the ferry was late, and nobody minded ' * 9])))
  assert outputs['sequence_output'].shape == (1, 20, 16)
  assert '[1, 20]' in (tree / 'albert_short_pre/4.md').read_text()


def test_a_pair_that_does_not_fit_is_not_published(release, make_module, monkeypatch):
  init = artifacts.Preprocessor.__init__

  def longer(self, *args):
    init(self, *args)
    self.seq_length = 128

  monkeypatch.setattr(artifacts.Preprocessor, '__init__', longer)
  with pytest.raises(errors.ParityError, match=r'encoder: it does not take what .*albert_short_pre/4 gives'):
    release(make_module(max_position_embeddings=20), 'albert_short', version=1, preprocessor='albert_short_pre/4')
  assert not (release.root / 'tensorflow').exists()


def test_a_published_preprocessor_that_does_not_suit_the_source_is_named(released, make_module, tmp_path):
  own = releases.Release(shutil.copytree(released.root, tmp_path / 'root'))
  before = trees.tree_bytes(own.root)
  message = (
    r'albert_en_tiny_preprocess/3: already exists in .*, and does not suit this source \(default length 128 instead of '
    r'20\); give another one with option preprocessor'
  )
  with pytest.raises(errors.PublishError, match=message):
    own(make_module(max_position_embeddings=20), 'albert_short', version=1)
  with pytest.raises(errors.PublishError, match=r'\(SentencePiece model sha256:\w+ instead of sha256:\w+\); give'):
    own(make_module(vocab_size=210), 'albert_other', version=1)
  assert trees.tree_bytes(own.root) == before


def test_a_dry_run_refuses_what_the_export_refuses(released, make_module):
  request = request_lib.Request(
    catalog_lib.Catalog().encoder('albert_short', 1, preprocessor='albert_en_tiny_preprocess/3'),
    str(make_module(max_position_embeddings=20)),
    str(released.root),
  )
  with pytest.raises(errors.PublishError, match='does not suit this source .default length 128 instead of 20'):
    dry_run.show(request, tree_lib.at(released.root), console.Console())


def test_a_vocabulary_without_a_comma_is_named_before_any_work(released, module):
  lines = [line.replace(',', '') for line in vocabulary.CORPUS.read_text(encoding='utf-8').splitlines()]
  catalog = catalog_lib.Catalog()
  for release, action in (
    (catalog.encoder('albert_new', 1, preprocessor='albert_new_preprocess/4'), 'preprocessor=NAME/3'),
    (catalog.preprocessor('albert_en_demo_preprocess', 4), 'version=3'),
  ):
    request = request_lib.Request(release, str(module), str(released.root))
    with source_lib.open_source(str(module)) as source:
      source.sp_model = vocabulary.train(lines, 150)
      message = f"30k-clean.model: no piece ',' .version 4 of the preprocessor splits .*; give option {action}$"
      with pytest.raises(errors.VocabularyError, match=message):
        preprocessor_check.check(tree_lib.at(released.root), request, source)
