"""A preprocessor exported alone equals the one of an encoder's export, and needs no steps of encoders."""

import subprocess

import pytest
from support import commands

from converters import errors
from converters.readers import tf1_hub
from export.release import integrity
from export.release import signature

pytestmark = pytest.mark.real_processes

NAME = 'tensorflow/albert_en_demo_preprocess'


def test_nothing_that_an_encoder_needs_is_touched(release, module, monkeypatch):
  def refuse(*arguments, **options):
    raise AssertionError

  monkeypatch.setattr(tf1_hub.Module, 'tensor', refuse)
  monkeypatch.setattr(subprocess, 'Popen', refuse)
  path, outcome = release.preprocessor(module, 3)
  assert (outcome.published, outcome.kept, len(outcome.pieces)) == ([f'{NAME}/3'], [], 1)
  assert integrity.check(path, integrity.read_record(path)) == 0


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
