"""A release is verified without TensorFlow, and every change is reported."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

import pytest

from converters import errors
from converters.readers import checkpoint_index
from export import record as record_lib
from export.release import archive as release_archive
from export.release import integrity
from export.store import digests
from export.validation import encoder_certificate

DATA = 'variables/variables.data-00000-of-00001'
WARMUP = 'assets.extra/tf_serving_warmup_requests'


@pytest.fixture
def published(released, tmp_path):
  """The encoder's directory in a copy of the releases that a test may damage."""
  shutil.copytree(released.root, tmp_path / 'dist')
  return tmp_path / 'dist' / 'tensorflow' / 'albert_en_tiny' / '2'


def _check(release):
  return integrity.check(release, record_lib.read(release))


def _edit_record(release, edit):
  path = release.with_name(release.name + '.release.json')
  record = json.loads(path.read_text())
  edit(record)
  path.write_text(json.dumps(record))


def _record_anew(release):
  """Makes files, archive and record agree again, like an attacker who hides a change."""
  archive = release.with_name(release.name + '.tar.gz')
  archive.unlink()
  tar_sha256 = release_archive.pack(release, archive).archive.tar_sha256

  def edit(record):
    record['files'] = {name: vars(digest) for name, digest in digests.of_directory(release).items()}
    record['archive'] = vars(digests.of_file(archive)) | {'tar_sha256': tar_sha256}

  _edit_record(release, edit)


def _flip(path, position=-1):
  content = bytearray(path.read_bytes())
  content[position] ^= 1
  path.write_bytes(content)


def test_what_was_published_passes(published):
  assert _check(published) == 32
  companion = published.parents[1] / 'albert_en_tiny_preprocess' / '3'
  assert _check(companion) == 0
  _record_anew(published)
  assert _check(published) == 32  # otherwise the tests below would fail for another reason


def test_a_release_from_before_warmup_requests_passes(published):
  (published / WARMUP).unlink()
  (published / WARMUP).parent.rmdir()
  with pytest.raises(errors.IntegrityError, match=f'{WARMUP} is missing'):
    _check(published)
  _record_anew(published)
  assert WARMUP not in record_lib.read(published).files and _check(published) == 32


def _beside(suffix):
  return lambda release: release.with_name(release.name + suffix)


DAMAGE = {
  'graph': (lambda r: _flip(r / 'saved_model.pb', 100), 'tiny/2: differs from its record .saved_model.pb has changed'),
  'weights': (lambda r: _flip(r / DATA, 1000), f'{DATA} has changed'),
  'fingerprint': (lambda r: _flip(r / 'fingerprint.pb'), 'fingerprint.pb has changed'),
  'missing file': (lambda r: (r / 'assets/30k-clean.model').unlink(), 'assets/30k-clean.model is missing'),
  'added file': (lambda r: (r / 'assets/x').write_text(''), 'assets/x is not in the record'),
  'warmup requests': (lambda r: _flip(r / WARMUP), f'{WARMUP} has changed'),
  'file beside the warmup requests': (
    lambda r: (r / 'assets.extra/x').write_text(''),
    'assets.extra/x is not in the record',
  ),
  'link': (
    lambda r: ((r / 'saved_model.pb').rename(r.parent / 'x'), (r / 'saved_model.pb').symlink_to(r.parent / 'x')),
    'saved_model.pb is a link',
  ),
  'fifo': (lambda r: os.mkfifo(r / 'assets/fifo'), 'assets/fifo is a link or an unexpected entry'),
  'directory': (lambda r: (r / 'extra').mkdir(), 'extra is a link or an unexpected entry'),
  'card': (lambda r: _flip(_beside('.md')(r)), '2.md has changed'),
  'no card': (lambda r: _beside('.md')(r).unlink(), '2.md is missing'),
  'archive': (lambda r: _flip(_beside('.tar.gz')(r), 3000), '2.tar.gz has changed'),
  'no archive': (lambda r: _beside('.tar.gz')(r).unlink(), '2.tar.gz is missing'),
  'another place': (
    lambda r: _edit_record(r, lambda record: record.update(release='tensorflow/albert_en_tiny/1')),
    'the record names tensorflow/albert_en_tiny/1',
  ),
}


@pytest.mark.parametrize('case', DAMAGE)
def test_every_change_is_named(published, case):
  damage, message = DAMAGE[case]
  damage(published)
  with pytest.raises(errors.IntegrityError, match=message):
    _check(published)


def test_all_changes_are_named_at_once(published):
  for damage in ('graph', 'missing file', 'card'):
    DAMAGE[damage][0](published)
  with pytest.raises(errors.IntegrityError) as caught:
    _check(published)
  for word in ('saved_model.pb has changed', '30k-clean.model is missing', '2.md has changed'):
    assert word in str(caught.value)


def test_archive_with_other_content_is_named(published):
  (published / 'assets/x').write_text('')
  _record_anew(published)
  (published / 'assets/x').unlink()
  _edit_record(published, lambda record: record['files'].pop('assets/x'))
  with pytest.raises(errors.IntegrityError, match=r'2.tar.gz differs from the directory \(assets/x\)'):
    _check(published)


def test_archive_with_another_order_is_named(published):
  archive = _beside('.tar.gz')(published)
  with tarfile.open(archive, 'w:gz') as tar:
    for path in sorted(published.rglob('*'), reverse=True):
      if path.is_file():
        tar.add(path, path.relative_to(published).as_posix())
  _edit_record(published, lambda record: record['archive'].update(vars(digests.of_file(archive))))
  with pytest.raises(errors.IntegrityError, match='the tar in 2.tar.gz has changed'):
    _check(published)


def test_weight_changed_with_all_digests_is_found_by_the_ledger(published):
  index = checkpoint_index.read(published / 'variables/variables.index')
  weights = {w.target: w for w in record_lib.read(published).weights}
  for target in ('transformer/self_attention/key/kernel', 'cls/seq_relationship/logits/kernel'):
    entry = index.entries[weights[target].checkpoint_key]
    _flip(published / DATA, entry.offset + 5)
    _record_anew(published)
    with pytest.raises(errors.IntegrityError, match=f"{target} differs from the source's {weights[target].source}"):
      _check(published)
    _flip(published / DATA, entry.offset + 5)


def test_ledger_with_impossible_entries_is_refused(published):
  for change, message in (
    (dict(shape=[3]), 'cannot be read'),
    (dict(transform='rot13'), 'cannot be read'),
    (dict(checkpoint_key='x'), 'the weights in the record are not the tensors of the checkpoint'),
    (dict(source='x'), 'the weights in the record are not those of this model'),
  ):
    before = _beside('.release.json')(published).read_text()
    _edit_record(published, lambda record, change=change: record['weights'][0].update(change))
    with pytest.raises(errors.IntegrityError, match=message):
      _check(published)
    _beside('.release.json')(published).write_text(before)


def test_ledger_with_a_part_left_out_is_refused(published):
  def without_mlm(record):
    record['heads'].remove('mlm')
    record['weights'] = [w for w in record['weights'] if not w['source'].startswith('mlm.')]

  for edit, message in (
    (lambda record: record.pop('weights'), 'encoder.weights: Field required'),
    (lambda record: record['weights'].pop(), 'the weights in the record are not those of this model'),
    (without_mlm, 'the weights in the record are not the tensors of the checkpoint'),
    (lambda record: record['config'].update(hidden_size=5), 'not a multiple of|cannot be read'),
  ):
    before = _beside('.release.json')(published).read_text()
    _edit_record(published, edit)
    with pytest.raises(errors.IntegrityError, match=message):
      _check(published)
    _beside('.release.json')(published).write_text(before)


def test_swapped_ledger_entries_are_found(published):
  def swap(record):
    query, key = (
      next(w for w in record['weights'] if w['source'] == f'attention.{n}.kernel') for n in ('query', 'key')
    )
    query['checkpoint_key'], key['checkpoint_key'] = key['checkpoint_key'], query['checkpoint_key']

  _edit_record(published, swap)
  with pytest.raises(
    errors.IntegrityError, match="query/kernel differs from the source's attention.query.kernel; .*key/kernel differs"
  ):
    _check(published)


RECORDS = {
  'missing': (lambda path: path.unlink(), '2.release.json: no release record'),
  'empty': (lambda path: path.write_text(''), 'not a release record'),
  'a list': (lambda path: path.write_text('[]'), 'not a release record'),
  'without files': (
    lambda path: path.write_text('{"release": "a/b/1", "kind": "encoder"}'),
    'encoder.changes: Field required',
  ),
  'with odd files': (
    lambda path: path.write_text(
      json.dumps({'release': 'tensorflow/albert_en_tiny/2', 'kind': 'encoder', 'files': [], 'archive': 3, 'card': None})
    ),
    'not a release record',
  ),
}


@pytest.mark.parametrize('case', RECORDS)
def test_broken_record_is_refused(published, case):
  damage, message = RECORDS[case]
  damage(_beside('.release.json')(published))
  with pytest.raises(errors.IntegrityError, match=message):
    _check(published)


CERTIFICATES = {
  'a figure that did not pass': (
    lambda c: c['outputs']['pooled_output'].update(reference=2e-9),
    'pooled_output did not pass',
  ),
  'a source that did not': (lambda c: c['outputs']['layer_1'].update(source=2e-9), 'layer_1 did not pass'),
  'a derivative that did not': (lambda c: c['gradient']['pooler.bias'].update(source=2e-8), 'pooler.bias did not pass'),
  'other bounds': (
    lambda c: (c['bounds'].update(outputs=1.0), c['outputs']['pooled_output'].update(source=0.5)),
    'pooled_output did not pass',
  ),
  'no number': (lambda c: c['gradient']['pooler.bias'].update(reference=float('nan')), 'pooler.bias did not pass'),
  'nothing compared': (lambda c: c['outputs']['pooled_output'].update(values=0), 'pooled_output did not pass'),
  'no source': (lambda c: c['outputs']['pooled_output'].update(source=None), 'distances to the graph are missing'),
  'float32 too far off': (
    lambda c: c['outputs']['layer_0']['float32']['export'].update(largest=0.01),
    'layer_0 in float32 did not pass',
  ),
  'no limit': (
    lambda c: c['outputs']['pooled_output']['float32']['allowed'].update(rms=float('inf')),
    'pooled_output in float32 did not pass',
  ),
  'an output left out': (
    lambda c: c['outputs'].pop('mlm_logits'),
    'the outputs in the certificate are not those of this model',
  ),
  'a layer left out': (
    lambda c: c['outputs'].pop('layer_2'),
    'the outputs in the certificate are not those of this model',
  ),
  'a weight left out': (
    lambda c: c['gradient'].pop('mlm.norm.beta'),
    'the gradient in the certificate are not those of this model',
  ),
  'other masks': (lambda c: c['padding_free'].update(kept=1e-3), 'the padding-free call did not pass'),
  'no controls': (lambda c: c['controls'].clear(), 'a negative control passed .*, or there are fewer than 4'),
  'a control that is no number': (
    lambda c: c['controls'].update({'query and key swapped': float('nan')}),
    'a negative control passed',
  ),
  'a control that passed': (
    lambda c: c['controls'].update({'query and key swapped': 1e-8}),
    'a negative control passed',
  ),
  'of an earlier version': (
    lambda c: c.clear(),
    'the certificate has the format of an earlier version of this tool: publish the next version',
  ),
}


@pytest.mark.parametrize('case', CERTIFICATES)
def test_a_certificate_that_certifies_nothing_is_refused(published, case):
  change, fault = CERTIFICATES[case]
  _edit_record(published, lambda record: change(record['certificate']))
  with pytest.raises(errors.IntegrityError, match=fault):
    _check(published)


@pytest.fixture
def text(history, tmp_path):
  """The text model's directory in a copy of version 3 of the demo that a test may damage."""
  for model in ('albert_en_demo', 'albert_en_demo_preprocess', 'albert_en_demo_text'):
    place = tmp_path / 'history/tensorflow' / model
    place.mkdir(parents=True)
    for path in (history / 'tensorflow' / model).glob('3*'):
      (shutil.copytree if path.is_dir() else shutil.copy)(path, place / path.name)
  return place / '3'


def test_text_is_checked_bit_for_bit(text):
  assert _check(text) == 25
  _flip(text / DATA, 1000)
  _record_anew(text)
  with pytest.raises(errors.IntegrityError, match="embeddings differs from the source's"):
    _check(text)


def _swap(record):
  record['weights'][2], record['weights'][3] = record['weights'][3], record['weights'][2]


OF_TEXT = {
  'a figure that did not pass': (
    lambda r: r['certificate']['outputs']['layer_1']['apart'].update(rms=9.0),
    'layer_1 did not pass',
  ),
  'no number': (
    lambda r: r['certificate']['outputs']['default']['apart'].update(largest=float('nan')),
    'default did not pass',
  ),
  'no limit': (
    lambda r: r['certificate']['outputs']['default']['allowed'].update(rms=float('inf')),
    'default did not pass',
  ),
  'a layer left out': (
    lambda r: r['certificate']['outputs'].pop('layer_2'),
    'the outputs in the certificate are not those of this model',
  ),
  'a signature left out': (
    lambda r: r['certificate']['outputs'].pop('serving_default/default'),
    'the outputs in the certificate are not those of this model',
  ),
  'a single text': (
    lambda r: r['certificate'].update(texts=1),
    'the outputs in the certificate are not those of this model',
  ),
  'a control that is no number': (
    lambda r: r['certificate']['outputs']['layer_0']['control'].update(rms=float('nan'), largest=float('nan')),
    'the negative control of layer_0 passed',
  ),
  'a control that passed': (
    lambda r: r['certificate']['outputs']['layer_0']['control'].update(rms=0.0, largest=0.0),
    'the negative control of layer_0 passed',
  ),
  'nothing': (lambda r: r['certificate'].clear(), 'not a release record'),
  'no encoder': (lambda r: r.pop('encoder'), 'not a release record'),
  'an encoder elsewhere': (lambda r: r.update(encoder='../../etc/1'), 'does not name an encoder and a preprocessor'),
  'one part for both': (lambda r: r.update(encoder=r['preprocessor']), 'does not name an encoder and a preprocessor'),
  'a weight left out': (lambda r: r['weights'].pop(), 'the weights in the record are not those of this model'),
  'weights in another order': (_swap, 'the weights in the record are not those of this model'),
  'a head': (lambda r: r.update(heads=['mlm']), 'the weights in the record are not those of this model'),
  'another kind': (lambda r: r.update(kind='preprocessor'), 'preprocessor.vocab_size: Field required'),
  'a kind that there is not': (lambda r: r.update(kind='texts'), 'not a release record'),
}


@pytest.mark.parametrize('case', OF_TEXT)
def test_a_record_of_text_that_is_none_is_refused(text, case):
  change, fault = OF_TEXT[case]
  _edit_record(text, change)
  with pytest.raises(errors.IntegrityError, match=fault):
    _check(text)


@pytest.mark.slow
def test_text_is_held_against_its_parts_and_the_source(text, module, make_module):
  done = _verify(f'--release={text}')
  assert done.returncode == 0 and '25 weights are as recorded' in done.stdout
  done = _verify(f'--release={text}', f'--source={module}')
  assert done.returncode == 0 and done.stderr == '', done.stderr
  for word in (
    'tokens are the same',
    'mlm_logits',
    'Text model on 23 texts',
  ):
    assert word in done.stdout, done.stdout
  done = _verify(f'--release={text}', f'--source={make_module(seed=1)}')
  assert done.returncode == 1 and 'made from sha256:' in done.stderr
  encoder = text.parents[1] / 'albert_en_demo/3'
  _flip(encoder / 'saved_model.pb', 100)
  done = _verify(f'--release={text}', f'--source={module}')
  assert done.returncode == 1 and f'{encoder}: differs from its record (saved_model.pb has changed' in done.stderr
  encoder.with_name('3.release.json').unlink()
  done = _verify(f'--release={text}', f'--source={module}')
  assert (
    done.returncode == 1
    and 'its encoder tensorflow/albert_en_demo/3 is not in the same tree' in done.stderr
    and 'leave --source out' in done.stderr
  )


def test_an_encoder_cannot_pass_for_a_preprocessor(published):
  encoder = json.loads(_beside('.release.json')(published).read_text())
  sp_model = {'sp_model': {'name': 'x.model', 'digest': encoder['source']['digest']}}
  _edit_record(published, lambda record: record.update(kind='preprocessor', vocab_size=200, source=sp_model))
  with pytest.raises(errors.IntegrityError, match='the files are not those of kind preprocessor'):
    _check(published)
  companion = published.parents[1] / 'albert_en_tiny_preprocess/3'
  assert _check(companion) == 0
  own = ('release', 'files', 'archive', 'card')
  _edit_record(companion, lambda record: record.update({k: v for k, v in encoder.items() if k not in own}))
  with pytest.raises(errors.IntegrityError, match='the files are not those of kind encoder'):
    _check(companion)


@pytest.mark.parametrize(
  'change, fault',
  [
    pytest.param(
      lambda record: record['config'].update(hidden_dropout_prob=0.5),
      'the recorded config differs from that of',
      marks=pytest.mark.slow,
    ),
    (
      lambda record: record['certificate']['outputs']['pooled_output'].update(scale=0.5),
      'outputs of the recorded certificate differ from the recomputed ones',
    ),
  ],
)
def test_with_the_source_config_and_certificate_are_held_against_it(published, module, change, fault):
  _edit_record(published, change)
  done = _verify(f'--release={published}', f'--source={module}')
  assert done.returncode == 1 and re.search(fault, done.stderr), done.stderr


def _verify(*flags):
  return subprocess.run(
    [sys.executable, '-m', 'export.verify', *flags],
    capture_output=True,
    text=True,
    check=False,
    env=os.environ | {'PYTHONPATH': str(pathlib.Path(__file__).parents[1])},
  )


def test_command_line_without_a_source_imports_no_tensorflow(encoder_path):
  code = (
    'import sys; sys.argv = ["verify", "--release=" + sys.argv[1]]\n'
    'import runpy\n'
    'try:\n  runpy.run_module("export.verify", run_name="__main__")\n'
    'except SystemExit as e:\n  assert not e.code\n'
    'print([m for m in sys.modules if m.split(".")[0] in ("tensorflow", "tf_keras", "keras")])'
  )
  process = subprocess.run(
    [sys.executable, '-c', code, encoder_path],
    capture_output=True,
    text=True,
    check=False,
    env=os.environ | {'PYTHONPATH': str(pathlib.Path(__file__).parents[1])},
  )
  assert process.stdout.splitlines()[-1] == '[]', process.stderr
  assert '32 weights are as recorded' in process.stdout


@pytest.mark.slow
def test_command_line_with_the_source(encoder_path, preprocessor_path, module, make_module):
  process = _verify(f'--release={encoder_path}', f'--source={module}')
  assert process.returncode == 0, process.stderr
  assert process.stderr == '' and 'sop_log_probs' in process.stdout
  assert _verify(f'--release={preprocessor_path}', f'--source={module}').returncode == 0
  process = _verify(f'--release={encoder_path}', f'--source={make_module(seed=1)}')
  assert process.returncode == 1 and process.stderr.startswith('error: ') and ' made from sha256:' in process.stderr


def test_command_line_fails_on_a_changed_byte_and_on_wrong_flags(published):
  _flip(published / DATA, 77)
  process = _verify(f'--release={published}')
  assert (process.returncode, process.stdout) == (1, '')
  assert (
    process.stderr.count('\n') == 1
    and f'error: {published}: differs from its record ({DATA} has changed)' in process.stderr
  )
  assert _verify().returncode == 2
  assert _verify('--release=nowhere/1').returncode == 1


def test_what_changes_after_it_was_verified_is_not_published(release, module, monkeypatch):
  certify = encoder_certificate.Examination.certify

  def meddled(self, path, *args, **kwargs):
    result = certify(self, path, *args, **kwargs)
    variables = path / 'variables/variables.index'
    variables.write_bytes(variables.read_bytes())  # the same directory, but a running process has it locked
    return result

  monkeypatch.setattr(encoder_certificate.Examination, 'certify', meddled)
  with pytest.raises(errors.IntegrityError, match='files of tensorflow/albert_en_tiny/2 changed during the comparison'):
    release(module)
