"""A corpus is compared line by line, with the same results for any workers and after dead processes."""

import dataclasses
import gc
import gzip
import io
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
import types
import zlib

import numpy as np
import pytest
import tensorflow as tf

from converters import errors
from converters import source as source_lib
from converters import tokenization
from export.beam import filesystems
from export.beam import runner as beam_runner
from export.corpus import child as child_lib
from export.corpus import comparison
from export.corpus import lines as lines_lib
from export.corpus import page
from export.corpus import protocol
from export.corpus import run as run_lib
from export.corpus import summary as summary_lib
from export.corpus import verdict
from export.source import policy as source_policy
from export.source import sandbox
from export.ui import console as console_lib
from export.validation import preprocessor_certificate

SENTENCES = pathlib.Path('assets/demo/corpus.txt').read_bytes().splitlines()


@pytest.fixture(scope='module')
def texts(tmp_path_factory):
  """A directory with unusual lines, plain and compressed."""
  directory = tmp_path_factory.mktemp('texts')
  awkward = [text.replace('\n', ' ').encode()[:2000] for text in preprocessor_certificate.texts(4)]
  (directory / 'plain.txt').write_bytes(
    b'\r\n'.join([*SENTENCES, b'', b'no \xff UTF-8 \xc3', b' \t ', b'1,000 of <b>them</b>'])
  )
  (directory / 'packed.txt.gz').write_bytes(
    gzip.compress(b'\n'.join(awkward)) + gzip.compress(b'\n' + b'\n'.join(SENTENCES[:40]) + b'\n')
  )
  return directory


def _request(texts, module, history, place, **changes):
  request = run_lib.Request(
    corpus=(f'{texts}/*.txt,{texts}/*.gz', f'{texts}/plain*'),
    source=str(module),
    reading=source_lib.Reading(),
    trust=source_policy.Trust(),
    release=str(history / 'tensorflow/albert_en_demo/4'),
    preprocessor_release=None,
    output=str(place),
    seq_length=64,
    batch_tokens=512,
    worst=5,
    threads=1,
  )
  return dataclasses.replace(request, **changes)


@pytest.fixture
def one_worker(monkeypatch):
  monkeypatch.setattr('converters.cli.others_flags', lambda: ['--direct_num_workers=1'])


@pytest.fixture(scope='module')
def command(texts, module, history, tmp_path_factory, python_module):
  """The whole command as a user runs it, with two workers."""
  output = tmp_path_factory.mktemp('results') / 'out'
  process = subprocess.run(
    python_module(
      'export.golden',
      f'--corpus={texts}/*.txt,{texts}/*.gz',
      f'--corpus={texts}/plain*',
      f'--source={module}',
      f'--release={history / "tensorflow/albert_en_demo/4"}',
      f'--output={output}',
      '--seq_length=64',
      '--batch_tokens=512',
      '--worst=5',
      '--threads=1',
      '--direct_num_workers=2',
    ),
    capture_output=True,
    text=True,
  )
  return process, output


def test_a_corpus_on_the_command_line(command, texts):
  process, output = command
  assert process.returncode == 0, process.stderr
  assert sorted(path.name for path in output.iterdir()) == ['README.md', 'index.html', 'results.json']
  results = json.loads((output / 'results.json').read_text())
  awkward = len(preprocessor_certificate.texts(4))
  assert (
    results['lines'] == len(SENTENCES) + 4 + awkward + 40 and results['passed']
  )  # a file that two patterns match counts once
  assert (
    results['different'] == results['unoriginal'] == results['not_compared'] == 0
    and results['blank'] == 4
    and results['cut'] > 2
  )
  assert list(results['outputs']) == ['pooled_output', 'sequence_output', 'mlm_logits', 'sop_log_probs']
  assert results['outputs']['sequence_output']['values'] == 16 * results['tokens']
  assert results['outputs']['pooled_output']['values'] == 16 * results['lines']
  assert 0 < results['outputs']['mlm_logits']['values'] < 2 * 200 * results['lines']
  for name, differences in results['outputs'].items():
    assert (
      0 < differences['rms'] < results['allowed'][name]['rms']
      and differences['largest'] == differences['worst'][0]['largest']
    )
    assert len(differences['worst']) == 5 and differences['not_finite'] == 0
    histogram = differences['histogram']
    assert sum(histogram['counts']) + histogram['below'] + histogram['above'] == differences['values']
  worst = results['outputs']['sequence_output']['worst'][0]
  if worst['path'].endswith('.txt'):
    assert (
      (texts / 'plain.txt').read_bytes()[worst['offset'] :].decode('utf-8', 'replace').startswith(worst['text'][:20])
    )
  assert (
    results['run']['restarts'] == 0
    and 0 < results['run']['share_of_encoder'] < 1
    and results['run']['lines_per_second'] > 0
  )
  assert {'export', 'source', 'worker'} == results['run']['memory'].keys() and results['run']['memory_per_worker'] < 3e9
  for word in ('sequence_output', 'lines per second', 'of the encoder\'s throughput'):
    assert word in process.stdout and word in (output / 'README.md').read_text()


@pytest.mark.slow
def test_a_dead_process_loses_nothing_and_workers_make_no_difference(
  command, texts, module, history, tmp_path, monkeypatch, one_worker
):
  """One worker, whose processes are killed during batches, has the same results as two workers."""
  sent = itertools.count()

  def write(stream, arrays, figures):
    protocol.write(stream, arrays, figures)
    if next(sent) == 5:
      for pid, words in _children():
        if any('export.corpus' in word for word in words):
          os.kill(pid, 9)

  monkeypatch.setattr(child_lib, 'protocol', _With(protocol, write=write))
  run_lib.run(_request(texts, module, history, tmp_path / 'out'), console_lib.Console())
  results, right = (json.loads((path / 'results.json').read_text()) for path in (tmp_path / 'out', command[1]))
  assert results['run']['restarts'] >= 2
  assert results.pop('run') != right.pop('run') and results == right
  assert not [words for _, words in _children() if any('export.corpus' in word for word in words)]


class _With:
  """A module with replaced attributes, for a module that imports it."""

  def __init__(self, module, **changes):
    self.__dict__.update(vars(module) | changes)


def _children():
  """Process ids and command lines of the children of this process."""
  for path in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      if path.joinpath('stat').read_text().rpartition(')')[2].split()[1] == str(os.getpid()):
        yield int(path.name), path.joinpath('cmdline').read_bytes().decode().split('\0')
    except (OSError, IndexError):
      pass


@pytest.mark.slow
def test_wrong_weights_and_wrong_ids_are_noticed(texts, module, history, tmp_path, one_worker):
  """One wrong value of a weight, and a preprocessor of version 3 as 4: the results have the places."""
  root = pathlib.Path(shutil.copytree(history, tmp_path / 'dist'))
  _add_to_a_weight(root / 'tensorflow/albert_en_demo/4/variables/variables', 1e-3)
  shutil.rmtree(root / 'tensorflow/albert_en_demo_preprocess/4')
  shutil.copytree(root / 'tensorflow/albert_en_demo_preprocess/3', root / 'tensorflow/albert_en_demo_preprocess/4')
  with pytest.raises(
    errors.ParityError,
    match=r'no parity on this corpus \(\d+ of \d+ lines have wrong token ids or packing, the first at byte \d+ of '
    r'.*; sequence_output differs by rms .* \(tolerances .*\), worst at byte \d+ of .*\); see ',
  ) as caught:
    run_lib.run(_request(texts, module, root, tmp_path / 'out'), console_lib.Console())
  assert '\n' not in str(caught.value)
  results = json.loads((tmp_path / 'out/results.json').read_text())
  assert not results['passed'] and 0 < results['different'] < results['lines'] and len(results['unlike']) == 5
  assert results['unlike'][0]['right'] != results['unlike'][0]['actual']
  assert 'Mismatched token ids' in (tmp_path / 'out/index.html').read_text()


def _add_to_a_weight(prefix, what):
  reader = tf.train.load_checkpoint(str(prefix))
  values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
  name = next(name for name in sorted(values) if getattr(values[name], 'shape', ()) == (200, 8))
  values[name][3, 0] += what  # [SEP], in every line
  tf.raw_ops.SaveV2(
    prefix=str(prefix),
    tensor_names=list(values),
    shape_and_slices=[''] * len(values),
    tensors=[tf.constant(v) for v in values.values()],
  )


@pytest.mark.parametrize(
  'changes, error, message',
  [
    ({'corpus': ('',)}, errors.UsageError, r'option corpus=: empty'),
    ({'corpus': ('/nowhere/*.txt',)}, errors.SourceError, r'/nowhere/\*\.txt: no file matches; give'),
    ({'corpus': ('assets',)}, errors.SourceError, r'assets: no file matches; give'),
    (
      {'corpus': ('nowhere://a/*.txt',)},
      errors.SourceError,
      r'nowhere://a/\*\.txt: cannot be matched \(.*\); check the path',
    ),
    ({'source': '/nowhere'}, errors.SourceError, '/nowhere: no such file or directory'),
    ({'seq_length': 512}, errors.UsageError, 'option seq_length=512: too large .the model has 128 positions'),
    (
      {'release': 'PREPROCESSOR'},
      errors.GoldenError,
      'not an encoder .kind preprocessor.; give the directory of an encoder',
    ),
    ({'release': '/nowhere/4'}, errors.IntegrityError, '/nowhere/4.release.json: no release record'),
    ({'preprocessor_release': 'ENCODER'}, errors.GoldenError, 'not made from the SentencePiece model'),
    (
      {'source': 'OTHER'},
      errors.GoldenError,
      r'not made from .* \(made from sha256:\w+, given sha256:\w+\); give its source',
    ),
    ({'output': '/dev/null/results'}, errors.PublishError, '/dev/null/results: cannot be made'),
  ],
)
def test_what_cannot_be_meant_is_said_first(texts, module, make_module, history, tmp_path, changes, error, message):
  named = {
    'PREPROCESSOR': history / 'tensorflow/albert_en_demo_preprocess/4',
    'ENCODER': history / 'tensorflow/albert_en_demo/4',
    'OTHER': make_module(seed=3) if 'OTHER' in changes.values() else '',
  }
  changes = {key: str(named[value]) if value in list(named) else value for key, value in changes.items()}
  with pytest.raises(error, match=message):
    run_lib.run(_request(texts, module, history, tmp_path / 'out', **changes), console_lib.Console())
  assert not (tmp_path / 'out').exists()


def test_nothing_compared_is_no_success(module, history, tmp_path, one_worker):
  (tmp_path / 'empty.txt').touch()
  with pytest.raises(errors.ParityError, match=r'no parity on this corpus \(no line was compared\)'):
    run_lib.run(
      _request(tmp_path, module, history, tmp_path / 'out', corpus=(f'{tmp_path}/empty.txt',)), console_lib.Console()
    )
  assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['README.md', 'index.html', 'results.json']


def test_a_source_without_a_graph_is_refused(texts, module, history, tmp_path, monkeypatch):
  real = source_lib.open_source

  def without(*given):
    import contextlib

    @contextlib.contextmanager
    def opened():
      with real(*given) as source:
        source.graph = None
        yield source

    return opened()

  monkeypatch.setattr(run_lib.source_lib, 'open_source', without)
  with pytest.raises(
    errors.GoldenError,
    match='no graph to compare with .*; compare this source with the reference by python -m export.verify',
  ):
    run_lib.run(_request(texts, module, history, tmp_path / 'out'), console_lib.Console())


@pytest.mark.parametrize(
  'flags, message',
  [
    (['--corpus=x', '--check'], '--record, --check, --corpus: none or several given'),
    (['--corpus=x', '--source=x', '--release=y'], '--output: missing or empty'),
    (['--corpus=x', '--output=z', '--source=x', '--release=y', '--wurst=5'], '--wurst: unknown flag'),
    (['--record', '--wurst=5'], 'wurst'),
  ],
)
def test_flags_that_cannot_be_meant(python_module, flags, message):
  process = subprocess.run(python_module('export.golden', *flags), capture_output=True, text=True)
  assert (
    process.returncode == 2
    and process.stderr.startswith('error: ')
    and message in process.stderr
    and process.stderr.count('\n') == 1
  )


def test_without_beam_one_line_says_what_to_install(tmp_path, python_module):
  (tmp_path / 'apache_beam.py').write_text('raise ImportError("No module named apache_beam")')
  root = str(pathlib.Path(__file__).parents[1])
  for flags, status, word in (
    (['--corpus=x', '--source=x', '--release=y', '--output=z'], 2, 'pip install "albert-hub-export[beam]"'),
    (['--check', '--golden=x', f'--release={tmp_path}'], 1, 'no release record'),
  ):
    process = subprocess.run(
      python_module('export.golden', *flags),
      capture_output=True,
      text=True,
      env=os.environ | {'PYTHONPATH': f'{tmp_path}:{root}'},
    )
    assert process.returncode == status and process.stderr.startswith('error: ') and word in process.stderr, (
      process.stderr
    )


# Reading.


@pytest.mark.parametrize('size', [1, 7, 64, 1 << 20])
@pytest.mark.parametrize('suffix', ['', '.gz', '.xz', '.bz2'])
def test_the_pieces_of_a_file_are_its_lines(tmp_path, monkeypatch, size, suffix):
  monkeypatch.setattr(lines_lib, '_PIECE', size)
  monkeypatch.setattr(lines_lib, '_CHUNK', 5)
  monkeypatch.setattr(lines_lib, 'WINDOW', 3)
  rng = random.Random(size)
  for content in (
    b'',
    b'\n',
    b'a',
    b'a\n',
    b'\n\nb\r\n\rc',
    b'\n'.join(b'x' * rng.choice([0, 1, 6, 7, 8, 40]) for _ in range(60)),
  ):
    path = tmp_path / f'text{suffix}'
    path.write_bytes(_packed(suffix, content) if suffix else content)
    found = [
      line
      for piece in lines_lib.pieces(str(path), path.stat().st_size)
      for window in lines_lib.windows(piece)
      for line in window
    ]
    found.sort(key=lambda line: line.offset)
    right = content.split(b'\n')
    assert [line.content for line in found] == [
      line.removesuffix(b'\r') for line in (right if right[-1] else right[:-1])
    ]
    assert all(
      content[line.offset :].startswith(line.content)
      and (line.offset == 0 or content[line.offset - 1 : line.offset] == b'\n')
      for line in found
    )


def _packed(suffix, content):
  file = io.BytesIO()
  with lines_lib._PACKED[suffix](file, 'wb') as packed:
    packed.write(content)
  return file.getvalue()


@pytest.mark.parametrize(
  'name, damage',
  [
    ('a.gz', lambda content: content[:-9]),
    ('A.GZ', lambda content: content[:-9]),
    ('a.gz', lambda content: content[:40] + b'x' + content[41:]),
    ('a.gz', lambda content: content[:20_000]),
    ('a.bz2', lambda content: content[:-9]),
    ('a.bz2', lambda content: content[:-8000] + b'x' * 8000),
    ('a.xz', lambda content: content[:-9]),
    ('a.gz', lambda content: b'plain'),
    ('a.gz', lambda content: b''),
    ('a.bz2', lambda content: b''),
    ('a.xz', lambda content: b''),
    ('a.txt', None),
  ],
)
def test_what_cannot_be_read_is_one_fault_and_no_end(tmp_path, monkeypatch, name, damage):
  """Also if several pieces of a compressed file read it."""
  monkeypatch.setattr(lines_lib, 'WINDOW', 10)
  monkeypatch.setattr(lines_lib, '_CHUNK', 100)
  rng = random.Random(1)
  lines = [b' '.join(rng.choices(b' '.join(SENTENCES).split(), k=rng.randint(1, 20))) for _ in range(2000)]
  if damage:
    (tmp_path / name).write_bytes(damage(_packed(name[1:].lower(), b'\n'.join(lines))))
  results = [comparison.compare(piece, _Fake()) for piece in lines_lib.pieces(str(tmp_path / name), 50_000)]
  assert len(results) == (1 if damage is None else 3)
  (fault,) = (fault for result in results for fault in result.faults)
  assert (
    sum(result.not_compared for result in results) == 1
    and 'cannot be read' in fault.why
    and fault.place.path.endswith(name)
  )
  compared = sum(result.lines for result in results)
  assert (
    len(b''.join(line + b'\n' for line in lines[:compared])) == fault.place.offset
  )  # every line before it was compared
  found = {**_plain_results(), **next(result for result in results if result.faults).as_json()}
  assert name in verdict.faults(found)[0] and 'cannot be read' in verdict.faults(found)[0]


def test_every_line_before_a_break_is_compared(tmp_path):
  rng = random.Random(1)
  content = b'\n'.join(b' '.join(rng.choices(b' '.join(SENTENCES).split(), k=9)) for _ in range(3000))
  cut = _packed('.gz', content)[:20_000]
  (tmp_path / 'a.gz').write_bytes(cut)
  result = comparison.compare(lines_lib.Piece(str(tmp_path / 'a.gz'), stripes=1), _Fake())
  assert result.lines == zlib.decompressobj(31).decompress(cut).count(b'\n') > 100 and result.not_compared == 1


def test_what_one_piece_cannot_read_is_its_fault(tmp_path, monkeypatch):
  """A file system fails at a time and not at a place, so other pieces are unaffected."""
  (tmp_path / 'a.gz').write_bytes(_packed('.gz', b'\n'.join(SENTENCES * 40)))
  opened = filesystems.opened

  class Failing(io.BufferedReader):
    def read(self, size=-1):
      if self.tell() > 100:
        raise OSError(5, 'Input/output error')
      return super().read(size)

  monkeypatch.setattr(lines_lib.filesystems, 'opened', lambda path: Failing(io.FileIO(path)))
  for stripe in (0, 1):  # one of them has the next line
    failed = comparison.compare(lines_lib.Piece(str(tmp_path / 'a.gz'), stripe=stripe, stripes=2), _Fake())
    assert failed.not_compared == 1 and 'Input/output error' in failed.faults[0].why
  for where in ('/nowhere/a.gz', '/nowhere/a.txt'):
    monkeypatch.setattr(lines_lib.filesystems, 'opened', opened)
    assert comparison.compare(lines_lib.Piece(where, 0, 9, stripe=3, stripes=4), _Fake()).not_compared == 1


@pytest.mark.parametrize('suffix', ['.txt', '.gz'])
def test_lines_that_are_too_long_are_named_once_each_and_the_others_compared(tmp_path, suffix):
  longest = 1 << 20
  content = b'\n'.join(
    [b'a', b'x' * longest, b'y' * (longest + 1), b'b', b'z' * 3 * longest, b'c', b'w' * (longest + (1 << 17))]
  )
  path = tmp_path / f'a{suffix}'
  path.write_bytes(content if suffix == '.txt' else _packed(suffix, content))
  results = [
    comparison.compare(piece, _Fake())
    for piece in lines_lib.pieces(str(path), len(content) if suffix == '.txt' else 10_000)
  ]
  faults = sorted(fault for result in results for fault in result.faults)
  assert [fault.place.offset for fault in faults] == [content.index(b'y'), content.index(b'z'), content.index(b'w')]
  assert all('begins a line of more than 1048576 bytes' in fault.why for fault in faults)
  assert (
    sum(result.not_compared for result in results) == 3 and sum(result.lines for result in results) == 4
  )  # no reason to give up


@pytest.mark.parametrize('place', ['ram://corpus', 'file://', ''])
def test_files_are_anywhere(tmp_path, place):
  directory = place if place.startswith('ram') else f'{place}{tmp_path}'
  filesystems.make(f'{directory}/deep')
  for name in ('a.txt', 'b.txt', 'c.md'):
    filesystems.write(f'{directory}/deep/{name}', b'one\ntwo')
  filesystems.write(f'{directory}/deep/a.txt', b'three')  # replaces the existing file
  found = filesystems.matched(f'{directory}/deep/*.txt')
  assert [(path.rpartition('/')[2], size) for path, size in found] == [('a.txt', 5), ('b.txt', 7)]
  assert [line.content for piece in lines_lib.pieces(*found[1]) for line in lines_lib.read(piece)] == [b'one', b'two']
  assert filesystems.read(found[0][0]) == b'three'
  filesystems.remove(found[0][0])
  assert len(filesystems.matched(f'{directory}/deep/*.txt')) == 1 and not list(tmp_path.rglob('.*'))


def test_a_file_has_one_path_however_it_is_spelled(tmp_path, monkeypatch):
  (tmp_path / 'texts/deep').mkdir(parents=True)
  (tmp_path / 'texts/a.txt').write_bytes(b'a')
  monkeypatch.chdir(tmp_path)
  spellings = [
    'texts/a.txt',
    './texts/*',
    f'{tmp_path}/texts/a.txt',
    f'file://{tmp_path}/texts/a.*',
    'texts/deep/../a.txt',
    '../*/texts/a.txt',
  ]
  right = [(f'{tmp_path}/texts/a.txt', 1)]  # the process that opens it may have another working directory
  assert [filesystems.matched(pattern) for pattern in spellings] == [right] * len(spellings)
  (tmp_path / 'link').symlink_to(tmp_path / 'texts/deep')
  assert filesystems.matched('link/../a.txt') == filesystems.matched(f'{tmp_path}/link/../a.txt') == right


# Comparing.


class _Fake:
  """A pair of fake models: both follow the rule, and `change` alters an answer of the export."""

  def __init__(self, change=lambda ours: None):
    self.job = type(
      'Job',
      (),
      dict(keep=9, version=4, seq_length=32, batch_tokens=256, signatures=('tokens',), hidden=4, words=8, pooler=True),
    )
    self.source = self.export = self
    self.setting = tokenization.DEFAULT
    self.restarts, self.change = 0, change

  class processor:
    """A processor whose pieces are words, with their length as id."""

    encode = staticmethod(lambda text, out_type=None: text.split())
    piece_to_id = staticmethod(len)
    id_to_piece = staticmethod(str)
    get_score = staticmethod(float)
    is_control = is_unused = staticmethod(lambda number: False)

  def ask(self, arrays, figures, expected, tries):
    if 'text' not in arrays:
      return {name: np.zeros(shape, np.float32) for name, (_, shape) in expected.items()}, {
        'microseconds': 5,
        'memory': 7,
      }
    texts = [
      arrays['text'].tobytes()[begin:end].decode('utf-8', 'replace')
      for begin, end in itertools.pairwise([0, *arrays['ends'].tolist()])
    ]
    ids = [comparison.preprocessor_certificate.ids(self.processor, text, 4) for text in texts]
    ours = {'ids': np.array([i for row in ids for i in row], np.int32), 'splits': np.cumsum([0, *map(len, ids)])}
    for prefix, length in (('', figures['length']), ('whole/', 128)):
      ours |= {prefix + name: value for name, value in comparison.packed(ids, length).items()}
    pooled = ['pooled_output'] if self.job.pooler else []
    assert ('pooled_output' in expected) == bool(pooled)
    ours |= {name: np.zeros(expected[name][1], np.float32) for name in (*pooled, 'sequence_output')}
    self.change(ours)
    return ours, {'preprocessor': 1, 'encoder': 2, 'memory': 3}


def _file(tmp_path, lines):
  (tmp_path / 'text').write_bytes(b'\n'.join(lines))
  return lines_lib.Piece(str(tmp_path / 'text'), 0, 1 << 40)


def _plain_results():
  return {'allowed': {name: {'rms': 1.0, 'largest': 1.0} for name in ('pooled_output', 'sequence_output')}}


def test_memory_does_not_grow_with_the_corpus(tmp_path, monkeypatch):
  monkeypatch.setattr(lines_lib, 'WINDOW', 50)
  monkeypatch.setattr(lines_lib, '_CHUNK', 1000)

  def peak(lines):
    piece = _file(tmp_path, SENTENCES * (lines // 100))
    gc.collect()  # garbage of earlier tests would be counted
    tracemalloc.start()
    try:
      result = comparison.compare(piece, _Fake())
      return tracemalloc.get_traced_memory()[1], result.lines
    finally:
      tracemalloc.stop()

  peak(300)
  (few, _), (many, lines) = peak(300), peak(6000)
  assert lines == 6000 and many - few < 6000 * 100, (few, many)  # one line takes about 200 bytes


def _set(name, at, value):
  def change(ours):
    ours[name][at] = value

  return change


@pytest.mark.parametrize(
  'change, message',
  [
    (_set('sequence_output', (0, 2, 1), 2.0), r'sequence_output differs by rms .*, largest 2 '),
    (_set('sequence_output', (0, 2, 1), np.nan), r'1 values of sequence_output are not finite'),
    (_set('pooled_output', (0, 0), np.inf), r'1 values of pooled_output are not finite'),
    (_set('ids', 0, 99), '1 of 1 lines have wrong token ids or packing'),
    (_set('input_word_ids', (0, 0), 3), '1 of 1 lines have wrong token ids or packing'),
    (_set('input_mask', (0, 7), 1), '1 of 1 lines have wrong token ids or packing'),
    (_set('whole/input_type_ids', (0, 127), 1), '1 of 1 lines have wrong token ids or packing'),
    (_set('sequence_output', (0, 7, 1), 5.0), None),
  ],
  ids=['apart', 'nan', 'inf', 'ids', 'packing', 'mask', 'types', 'padding'],
)
def test_every_kind_of_difference_is_noticed(tmp_path, change, message):
  found = comparison.compare(_file(tmp_path, [b'one two three four']), _Fake(change)).as_json()
  faults = verdict.faults({**_plain_results(), **found})
  assert not faults if message is None else re.search(message, faults[0]), faults
  json.dumps(found, allow_nan=False)


def test_an_encoder_without_pooler_is_compared_by_its_outputs(tmp_path):
  fake = _Fake()
  fake.job.pooler = False
  found = comparison.compare(_file(tmp_path, [b'one two']), fake)
  assert found.lines == 1 and list(found.as_json()['outputs']) == ['sequence_output']


def test_batches_hold_every_line_once_and_are_of_a_size():
  rows = [comparison.Row(lines_lib.Line('f', number, b''), [5] * (number * 7 % 45)) for number in range(300)]
  batches = list(comparison.batches(rows, 32, 256))
  assert sorted(row.line.offset for _, batch in batches for row in batch) == list(range(300))
  for length, batch in batches:
    assert length % 8 == 0 and length <= 32 and (length * len(batch) <= 256 or len(batch) == 1)
    assert length == min(32, -(-max(len(row.ids) + 2 for row in batch) // 8) * 8)


def test_a_line_that_kills_its_process_again_and_again_is_named_and_costs_no_other(tmp_path):
  def die(ours):
    if 6 in ours['ids']:
      raise child_lib.Died('ended by signal 9')

  result = comparison.compare(_file(tmp_path, [b'a b c d', b'lethal', *[b'a b c'] * 40]), _Fake(die))
  assert result.lines == 41 and result.not_compared == 1
  assert verdict.faults({**_plain_results(), **result.as_json()}) == [
    f'1 places not compared, the first at byte 8 of {tmp_path}/text, which crashes the model\'s subprocess '
    'repeatedly (ended by signal 9)'
  ]


def test_lines_that_are_too_long_do_not_count_as_deadly(tmp_path, monkeypatch):
  monkeypatch.setattr(lines_lib, 'LONGEST', 20)

  def die(ours):
    if 6 in ours['ids']:
      raise child_lib.Died('ended by signal 9')

  result = comparison.compare(_file(tmp_path, [b'x' * 21] * 5 + [b'lethal', b'a b c d']), _Fake(die))
  assert result.lines == 1 and result.not_compared == 6


def test_a_model_that_always_dies_is_given_up(tmp_path):
  asked = []

  def die(ours):
    asked.append(ours)
    raise child_lib.Died('ended by signal 9')

  result = comparison.compare(_file(tmp_path, SENTENCES), _Fake(die))
  assert result.lines == 0 and result.not_compared == 4 and len(asked) < 20
  assert 'abandoned (ended by signal 9)' in str([fault.why for fault in result.faults])


# Combining.


def _summary(number):
  rng = np.random.default_rng(number)
  result = summary_lib.Summary(4)
  result.lines, result.different = number + 1, number % 2
  for name in ('pooled_output', 'mlm_logits')[number % 2 :]:
    differences = 10.0 ** rng.uniform(-14, 3, 50)
    differences[0] = (np.nan, 0.0, np.inf, 1e-7)[number % 4]
    result.output(name).fill(
      differences,
      [
        summary_lib.Worst(1.0, summary_lib.Place('file', number), 'tie'),
        summary_lib.Worst(float(number % 3), summary_lib.Place('file', 100 + number), 'text'),
      ],
    )
    result.at_length(8 * (number % 3), 1, 2, summary_lib.Spread.of(differences[1:]))
  result.note(
    [summary_lib.Unlike(summary_lib.Place('f', 50 - number), 't', (1,), (2,))],
    [summary_lib.Fault(summary_lib.Place('g', 50 - number), 'why')],
  )
  result.took('encoder', 2.0**-number)
  result.held('source', number)
  return result


def test_summaries_are_put_together_in_any_order():
  def together(parts):
    total = summary_lib.Summary(4)
    for part in parts:
      total.add(part)
    return total

  parts = [_summary(number) for number in range(12)]
  right = together(parts).as_json()
  for seed in range(20):
    shuffled = parts.copy()
    random.Random(seed).shuffle(shuffled)
    cut = seed % 11 + 1
    assert together([together(shuffled[:cut]), together(shuffled[cut:])]).as_json() == right
  assert [part.as_json() for part in parts] == [_summary(number).as_json() for number in range(12)]  # unchanged
  assert [line['offset'] for line in right['outputs']['mlm_logits']['worst']] == [102, 105, 108, 111] and right[
    'lines'
  ] == 78
  assert right['outputs']['mlm_logits']['not_finite'] == 6 and right['run']['memory'] == {'source': 11}


def test_figures_are_those_of_all_values():
  rng = np.random.default_rng(0)
  values = np.abs(rng.standard_normal(100_000)) * 1e-6
  parts = np.array_split(values, 7)
  total = summary_lib.Summary()
  for part in parts:
    one = summary_lib.Summary()
    one.output('pooled_output').fill(part, ())
    total.add(one)
  found = total.as_json()['outputs']['pooled_output']
  assert found['largest'] == values.max() and found['values'] == values.size
  np.testing.assert_allclose(found['rms'], np.sqrt(np.mean(values**2)), rtol=1e-12)
  for share, value in found['quantiles'].items():
    assert 1 <= value / np.quantile(values, float(share)) < 10 ** (1 / 20) * 1.01


def test_the_bounds_are_those_of_the_certificate():
  check = {'values': 1000, 'scale': 0.5, 'float32': {'allowed': {'rms': 4e-7, 'largest': 1e-6}}}
  record = types.SimpleNamespace(certificate={'outputs': {'x': check}})
  assert verdict.allowed(record, 'x', 1000) == pytest.approx({'rms': 4e-7, 'largest': 4e-6})
  assert verdict.allowed(record, 'x', 10**9)['largest'] == pytest.approx(4e-6 * 3**0.5)


def test_the_page_shows_text_as_text(command):
  results = json.loads((command[1] / 'results.json').read_text())
  results['outputs']['pooled_output']['worst'][0]['text'] = '<script>alert(1)</script>'
  results |= {
    'passed': False,
    'verdict': 'no <b>',
    'faults': [{'path': 'f', 'offset': 1, 'why': 'because'}],
    'unlike': [{'path': 'f', 'offset': 1, 'text': '<i>a\0b\tc\x7f é', 'right': [1], 'actual': [2]}],
  }
  html = page.html(results)
  assert (
    '<script' not in html
    and '&lt;script&gt;' in html
    and '<i>' not in html
    and 'no &lt;b&gt;' in html
    and html.count('<polyline') == 6
  )
  assert 'http' not in html and 'because' in html
  assert 'a␀b␉c␡ é' in html  # invalid in a page
  empty = dict(results, lines=0, outputs={}, lengths={})
  assert '<polyline' not in page.html(empty) and page.markdown(empty)


# Processes.


@pytest.fixture
def recipe(tmp_path, monkeypatch):
  """A recipe of a process that answers at once and follows orders."""
  (tmp_path / 'talker.py').write_text(
    textwrap.dedent('''
      import os, sys, time
      import numpy as np
      from export.corpus import child, protocol
      from export.source import sandbox
      sandbox.die_with_parent()
      output = protocol.own_output()
      print('chatter')
      if child.job(sys.argv[1])['model'] == 'refused':
        print('node x is not allowed', file=sys.stderr)
        sys.exit(sandbox.REFUSED)
      if child.job(sys.argv[1])['model'] == 'starved':
        sys.exit('some.package.MemoryError: 5 GiB')
      if child.job(sys.argv[1])['model'] == 'broken':
        sys.exit('no such model')
      protocol.write(output, {}, {})
      while (message := protocol.read(sys.stdin.buffer, None)) is not None:
        arrays, figures = message
        what = figures['what']
        if what == 9 or (what == 1 and not os.path.exists(child.job(sys.argv[1])['mark'])):
          open(child.job(sys.argv[1])['mark'], 'w').close()
          os.kill(os.getpid(), 9)
        if what == 2:
          time.sleep(60)
        if what == 3:
          output.write(b'\\x80\\x04pickle' * 9)
          output.flush()
        protocol.write(output, {'x': arrays['x'] * (1 if what != 4 else 1.0)}, {'pid': os.getpid()})
      ''')
  )
  monkeypatch.syspath_prepend(str(tmp_path))
  limits = sandbox.Limits(1 << 33, 1000, 1 << 20)
  return child_lib.Recipe('talker', {'model': 'm', 'mark': str(tmp_path / 'mark')}, 1, False, limits, 30)


def _ask(child, what=0, tries=child_lib.TRIES):
  x = np.arange(6, dtype=np.int32).reshape(2, 3)
  answer, figures = child.ask({'x': x}, {'what': what}, {'x': (np.int32, (2, None))}, tries)
  np.testing.assert_array_equal(answer['x'], x)
  return figures['pid']


@pytest.mark.parametrize('apart', [False, True])
def test_a_process_is_started_once_and_again_when_it_dies(recipe, tmp_path, apart):
  child = child_lib.Child(dataclasses.replace(recipe, apart=apart, job={**recipe.job, 'mark': str(tmp_path / 'mark')}))
  try:
    first = _ask(child)
    assert _ask(child) == first and child.restarts == 0
    if not apart:  # with a sandbox, it cannot write elsewhere
      second = _ask(child, 1)
      assert second != first and child.restarts == 1 and _ask(child) == second
    with pytest.raises(child_lib.Died, match='ended by signal 9 .SIGKILL'):
      _ask(child, 9)
    assert _ask(child) and child.restarts == (3 if apart else 4)
    child.end()
    with pytest.raises(child_lib.Ended):
      _ask(child)
  finally:
    child.close()


@pytest.mark.parametrize(
  'what, seconds, message',
  [
    (2, 1.0, 'no answer within 1 s, the value of option max_run_seconds'),
    (3, 30, 'invalid answer: invalid mark or header length'),
    (4, 30, r'invalid answer: x is float64 \[2, 3\] instead of int32'),
  ],
)
def test_no_answer_is_waited_for_for_ever_and_none_is_believed(recipe, what, seconds, message):
  child = child_lib.Child(dataclasses.replace(recipe, seconds=seconds))
  try:
    with pytest.raises(child_lib.Died, match=message):
      _ask(child, what, tries=1)
  finally:
    child.close()


@pytest.mark.parametrize(
  'model, error, message',
  [
    ('refused', errors.UntrustedGraphError, 'node x is not allowed'),
    (
      'broken',
      errors.SourceError,
      r'broken: cannot be loaded \(no such model\); check it with python -m export.verify$',
    ),
    (
      'starved',
      errors.SourceError,
      r'starved: cannot be loaded \(MemoryError: 5 GiB\); .*, or raise option max_run_gib above 8$',
    ),
  ],
)
def test_a_model_that_cannot_be_run_is_said_once(recipe, model, error, message):
  child = child_lib.Child(dataclasses.replace(recipe, job={**recipe.job, 'model': model}, apart=model == 'starved'))
  with pytest.raises(error, match=message):
    _ask(child)
  child.close()


def test_a_process_outlives_the_thread_that_asked_first_and_not_its_parent(recipe, tmp_path):
  """The system kills a child when the thread that started it ends, and Beam's threads end early."""
  child = child_lib.Child(recipe)
  pids = list[int]()
  for _ in range(2):
    thread = threading.Thread(target=lambda: pids.append(_ask(child)))
    thread.start()
    thread.join()
    time.sleep(0.1)
  assert pids[0] == pids[1] and child.restarts == 0
  child.close()
  arguments = dataclasses.asdict(dataclasses.replace(recipe, limits=None))
  code = f'''
import sys, time; sys.path[:0] = {sys.path!r}
import numpy as np
from export.corpus import child
from export.source import sandbox
c = child.Child(child.Recipe(**{arguments!r} | dict(limits=sandbox.{recipe.limits!r})))
print(c.ask(dict(x=np.zeros([2, 3], np.int32)), dict(what=0), dict(x=(np.int32, (2, 3))))[1]['pid'], flush=True)
time.sleep(60)
'''
  with subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True) as parent:
    pid = int(parent.stdout.readline())
    assert pathlib.Path(f'/proc/{pid}').exists()
    parent.kill()
  for _ in range(50):
    if not pathlib.Path(f'/proc/{pid}').exists() or ') Z ' in pathlib.Path(f'/proc/{pid}/stat').read_text():
      return
    time.sleep(0.1)
  pytest.fail('it is still there')


@pytest.mark.parametrize(
  'damage, message',
  [
    (lambda m: m[:4], 'truncated message'),
    (lambda m: b'XXXX' + m[4:], 'invalid mark or header length'),
    (lambda m: m[:4] + b'\xff' * 4 + m[8:], 'invalid mark or header length'),
    (lambda m: m[:8] + b'[' + m[9:], 'invalid header .'),
    (lambda m: m[:-1], 'truncated message'),
    (lambda m: m.replace(b'<i4', b'|O8'), 'is not an array of numbers'),
    (lambda m: m.replace(b'[2, 3]', b'[2,-3]'), 'is not an array of numbers'),
    (lambda m: m.replace(b'[2, 3]', b'[3, 3]'), r'x is int32 \[3, 3\] instead of'),
    (lambda m: m.replace(b'"x"', b'"y"'), 'unexpected array names'),
    (lambda m: m.replace(b'"f": 1', b'"f":-1'), 'invalid integer in the header'),
  ],
)
def test_a_message_is_what_is_expected_or_none(damage, message):
  stream = io.BytesIO()
  protocol.write(stream, {'x': np.zeros([2, 3], np.int32)}, {'f': 1})
  expected = {'x': (np.int32, (2, 3))}
  arrays, figures = protocol.read(io.BytesIO(stream.getvalue()), expected)
  assert arrays['x'].shape == (2, 3) and figures == {'f': 1} and protocol.read(io.BytesIO(), expected) is None
  with pytest.raises(protocol.Garbled, match=message):
    protocol.read(io.BytesIO(damage(stream.getvalue())), expected)


def test_workers_of_the_embedded_runner_share_one_process(monkeypatch):
  monkeypatch.setattr('converters.cli.others_flags', lambda: [])
  options = beam_runner.options()
  assert run_lib.workers_of_a_process(options) == run_lib.workers_of_a_run(options) == len(os.sched_getaffinity(0))
  monkeypatch.setattr('converters.cli.others_flags', lambda: ['--runner=FlinkRunner', '--direct_num_workers=3'])
  options = beam_runner.options()
  assert run_lib.workers_of_a_process(options) == 1 and run_lib.workers_of_a_run(options) == 3
