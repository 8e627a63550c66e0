"""`python -m export`: its output, its exit status, and equal bytes for equal input."""

import json
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import time

import pytest
from support import commands
from support import craft
from support import modules
from support import trees

import export as export_package
from export import command_line
from export import spec
from export.release import catalog as catalog_lib
from export.store import digests


def test_what_it_prints_and_records(export, module, tmp_path):
  first = export(
    f'--source={module}', '--version=2', '--export_root=here', '--with_text', PYTHONHASHSEED='0'
  )  # by the real interpreter
  assert first.returncode == 0 and first.stderr == ''
  # The output has every path and the figures.
  for word in (
    'tensorflow/albert_en_tiny/2 from',
    'here/tensorflow/albert_en_tiny/2.release.json',
    'kB',
    'parameters',
    'sequence_output',
    'query and key swapped',
    'here/tensorflow/albert_en_tiny_text/2.release.json',
    'Text model on 23 texts',
    ' s\n',
  ):
    assert word in first.stdout, first.stdout

  # The record is correct.
  root = tmp_path / 'here' / 'tensorflow'
  for model, version in (('albert_en_tiny', 2), ('albert_en_tiny_text', 2), ('albert_en_tiny_preprocess', 3)):
    record = json.loads((root / model / f'{version}.release.json').read_text())
    assert record['files'] == {n: vars(d) for n, d in digests.of_directory(root / model / str(version)).items()}
    packed = digests.of_directory(root / model)[f'{version}.tar.gz']
    assert (record['archive']['size'], record['archive']['sha256']) == (packed.size, packed.sha256)
    assert record['libraries']['tensorflow-text']
    assert record['libraries']['python'] == platform.python_version()
  assert record['release'] == 'tensorflow/albert_en_tiny_preprocess/3'

  # A second export of the same version is refused. Another encoder keeps the preprocessor.
  before = trees.tree_bytes(tmp_path / 'here')
  commands.fails(
    export(f'--source={module}', '--version=2', '--export_root=here'),
    1,
    'tensorflow/albert_en_tiny/2: already exists in here',
  )
  for version, words in (
    ('1', ('--version=1', 'tensorflow/albert_en_tiny/2 exists in here')),
    ('4', ('--version=4', 'give --version=3')),
  ):
    commands.fails(export(f'--source={module}', f'--version={version}', '--export_root=here'), 2, *words)
  assert trees.tree_bytes(tmp_path / 'here') == before
  plan = export(f'--source={module}', '--version=3', '--export_root=here', '--dry_run')
  assert plan.returncode == 0 and plan.stderr == '' and trees.tree_bytes(tmp_path / 'here') == before
  for word in (
    'already exists: kept if this export has the same bytes',
    'new; compared with tensorflow/albert_en_tiny/2',
    'dict in, dict out',
    '.mlm, .sop',
    '32 tensors',
    'Initial release.',
    'Dry run: nothing was written.',
    record['source']['sp_model']['name'],
  ):
    assert word in plan.stdout, plan.stdout
  third = export(f'--source={module}', '--version=3', '--export_root=here')
  assert (
    third.returncode == 0 and 'Kept, with the same bytes: here/tensorflow/albert_en_tiny_preprocess/3' in third.stdout
  )
  after = trees.tree_bytes(tmp_path / 'here')
  assert {n: c for n, c in after.items() if n in before and 'collections' not in n} == {
    n: c for n, c in before.items() if 'collections' not in n
  }
  # The plan named exactly the published files.
  planned = {line.strip().removeprefix('here/') for line in plan.stdout.splitlines() if line.startswith('  here/')}
  assert {n.partition('3/')[0] + '3/' if '/3/' in n else n for n in after if n not in before} == planned
  assert f'Rewritten: here/{COLLECTION}' in plan.stdout and after[COLLECTION] != before[COLLECTION]


def test_what_a_terminal_would_obey_is_shown_and_not_sent(export, own_module):
  modules.edit_graph(own_module, lambda m: m.graph_def.node.add(name='x', op='NoOp\x1b[2J\x07'))
  commands.fails(
    export(f'--source={own_module}'), 1, r'operation NoOp\x1b[2J\x07 at node', '; give --trust_source if you know'
  )
  path = own_module / 'variables/variables.index'
  pairs = craft.index_pairs(path)
  path.write_bytes(
    craft.index([craft.block([*pairs, (b'zz\xff\x1b[2J', pairs[-1][1][:-5] + craft.field(5, 1 << 40))])])
  )
  commands.fails(export(f'--source={own_module}'), 1, r'tensor zz\udcff\x1b[2J extends past the end of its data file')


COLLECTION = 'tensorflow/collections/albert/1.md'
USAGE = {
  'unknown flag': (['--sauce=x'], 'sauce'),
  'version 0': (['--version=0'], '--version=0'),
  'version 2.0': (['--version=2.0'], '2.0'),
  'negative version': (['--version=-1'], '--version=-1'),
  'a model with a slash': (['--model=a/b'], '--model=a/b'),
  'no model': (['--model='], '--model='),
  'publisher with dots': (['--publisher=..'], '--publisher=..'),
  'preprocessor without a version': (['--preprocessor=x'], '--preprocessor=x: not NAME/VERSION'),
  'preprocessor version 9': (['--preprocessor=x/9'], '--preprocessor=x/9: unknown version 9'),
  'preprocessor with the same name': (['--preprocessor=albert_en_tiny/1'], 'both are albert_en_tiny'),
  'no source': (['--source='], '--source: missing'),
  'long model name': (['--model=' + 'a' * 101], '--model=aaa'),
  'empty export root': (['--export_root='], '--export_root: empty'),
  'a version beyond the next': (['--model=albert_en_large', '--version=9', '--change=x'], 'give --version=5'),
  'the next version without a change': (['--model=albert_en_large', '--version=5'], '--change'),
  'empty change': (['--change= '], '--change: empty'),
  'no key': (['--sign_key=nothing'], '--sign_key=nothing'),
  'unknown interface': (['--io=tuple'], 'tuple'),
  'heads with the list interface': (['--io=list', '--mlm'], '--io=dict'),
  'a digest that is none': (['--source_sha256=abc'], '--source_sha256=abc: not a SHA-256; give 64 hexadecimal digits'),
  'a cap of nothing': (['--max_source_bytes=0'], 'max_source_bytes'),
  'text of lists': (['--io=list', '--with_text'], '--with_text: not available with the list interface'),
  'text of a long name': (['--model=' + 'a' * 96, '--with_text'], 'a_text is too long'),
  'text under the name of the preprocessor': (
    ['--preprocessor=albert_en_tiny_text/3', '--with_text'],
    '--preprocessor: albert_en_tiny_text is the name',
  ),
  'no flag': (['module'], "'module': not a flag"),
  'the name of a language': (['--language=english'], '--language=english: not a BCP 47 tag'),
}


@pytest.mark.parametrize('case', USAGE)
def test_flags_that_cannot_be_meant(export, tmp_path, case):
  flags, word = USAGE[case]
  commands.fails(export(f'--source={tmp_path}', *flags), 2, word)
  assert trees.leftovers(tmp_path) == []


DEMO, ALONE = '--model=albert_en_demo', '--model=albert_en_demo_preprocess'


@pytest.fixture
def of_demo(python_module, module, tmp_path):
  """Exports a version of the demo, or of its preprocessor, from the shared module."""

  def run(*flags, source=module):
    return commands.run(python_module('export', f'--source={source}', *flags), cwd=tmp_path)

  return run


@pytest.mark.parametrize(
  'flags, word',
  [
    (['--io=dict'], '--io: not'),
    (['--preprocessor=x/3'], '--preprocessor: not'),
    (['--mlm'], '--mlm: not'),
    (['--nomlm'], '--nomlm: not'),
    (['--sop'], '--sop: not'),
    (['--report=x.html'], '--report: not'),
    (['--with_text'], '--with_text: not'),
    (['--io=list', '--with_text'], '--io, --with_text: not available with --model=albert_en_demo_preprocess'),
    (['--version=5'], '--version=5: not in the catalog; give a version of albert_en_demo_preprocess (1, 2, 3, 4)'),
    (['--change= '], '--change: empty'),
  ],
)
def test_flags_that_say_nothing_of_a_preprocessor(of_demo, tmp_path, flags, word):
  commands.fails(of_demo(ALONE, *flags, source=tmp_path), 2, word)
  assert trees.leftovers(tmp_path) == []


@pytest.mark.slow
def test_what_is_published_together_has_the_same_bytes_as_alone(of_demo, tmp_path):
  for process in (
    of_demo(DEMO, '--version=3', '--export_root=encoder'),
    alone := of_demo(ALONE, '--version=3', '--export_root=one_by_one', '--profile=profile.json'),
    together := of_demo(DEMO, '--version=3', '--export_root=one_by_one', '--with_text'),
  ):
    assert process.returncode == 0 and process.stderr == '', process.stderr
  encoder, one_by_one = (trees.tree_bytes(tmp_path / root / 'tensorflow') for root in ('encoder', 'one_by_one'))
  assert {n for n in one_by_one if n not in encoder} and all('_text/' in n for n in one_by_one if n not in encoder)
  assert {n: c for n, c in encoder.items() if not n.startswith('collections')} == {
    n: c for n, c in one_by_one.items() if n in encoder and not n.startswith('collections')
  }
  # The preprocessor needs no weights and no subprocess.
  assert ' compared with the rule, 0 differ' in alone.stdout and 'weights' not in alone.stdout
  events = json.loads((tmp_path / 'profile.json').read_text())['traceEvents']
  assert [event['args']['name'] for event in events if event['name'] == 'process_name'] == ['export']
  assert 'Kept, with the same bytes: one_by_one/tensorflow/albert_en_demo_preprocess/3' in together.stdout
  # The text model can be published later; then nothing is left to publish.
  later = of_demo(DEMO, '--version=3', '--export_root=encoder', '--with_text')
  assert (
    later.returncode == 0 and later.stdout.count('Kept, with the same bytes: encoder/tensorflow/albert_en_demo') == 2
  )
  assert trees.tree_bytes(tmp_path / 'encoder') == trees.tree_bytes(tmp_path / 'one_by_one')
  commands.fails(
    of_demo(DEMO, '--version=3', '--export_root=encoder', '--with_text'),
    1,
    'tensorflow/albert_en_demo_text/3: already exists',
  )
  commands.fails(
    of_demo(ALONE, '--version=3', '--export_root=encoder'), 1, 'tensorflow/albert_en_demo_preprocess/3: already exists'
  )
  commands.fails(of_demo(ALONE, '--version=2', '--export_root=encoder'), 2, '--version=2')


def test_plans_of_a_preprocessor_and_of_text(of_demo, tmp_path, keys):
  plan = of_demo(ALONE, '--dry_run', '--change=Faster.', f'--sign_key={keys[0]}')  # the newest version
  assert plan.returncode == 0 and plan.stderr == ''
  planned = [line.strip() for line in plan.stdout.splitlines() if line.startswith('  dist/')]
  assert sorted(planned) == sorted(
    f'dist/tensorflow/albert_en_demo_preprocess/4{suffix}' for suffix in (*spec.COMPANIONS, '/')
  )
  for word in (
    'pieces in 30k-clean.model',
    'Faster.',
    'new, without a previous version',
    'Dry run: nothing was written.',
  ):
    assert word in plan.stdout
  assert 'layers' not in plan.stdout and 'heads' not in plan.stdout and 'L=' not in plan.stdout
  plan = of_demo(DEMO, '--version=3', '--with_text', '--dry_run')
  planned = [line.strip() for line in plan.stdout.splitlines() if line.startswith('  dist/')]
  assert [name for name in planned if name.endswith('/')] == [
    'dist/tensorflow/albert_en_demo_preprocess/3/',
    'dist/tensorflow/albert_en_demo/3/',
    'dist/tensorflow/albert_en_demo_text/3/',
  ]
  assert (
    'The encoder `tensorflow/albert_en_demo/3` with the preprocessor `tensorflow/albert_en_demo_preprocess/3`.'
    in plan.stdout
  )
  assert trees.leftovers(tmp_path) == []


def test_a_broken_catalog_is_found_before_any_work(export, tmp_path):
  catalog = tmp_path / 'catalog.yaml'
  text = (pathlib.Path(__file__).parents[1] / 'assets/catalog.yaml').read_text()
  for old, new, word in (
    ('      2: *encoder_2\n', '', 'version 3 instead of version 2'),
    ('albert_en_large:', 'albert_en_base:', 'duplicate'),
  ):
    catalog.write_text(text.replace(old, new, 1))
    commands.fails(
      export(f'--catalog={catalog}', f'--source={tmp_path}'), 1, f'{catalog}:', word, 'correct the catalog'
    )
  assert trees.leftovers(tmp_path) == ['catalog.yaml']


@pytest.fixture
def bump(python_module, tmp_path):
  """Runs export.bump on a copy of the catalog."""
  catalog = tmp_path / 'catalog.yaml'
  shutil.copy(pathlib.Path(__file__).parents[1] / 'assets/catalog.yaml', catalog)

  def run(*flags):
    return catalog, commands.run(python_module('export.bump', f'--catalog={catalog}', *flags))

  return run


def test_bump_adds_the_next_version_and_says_so(bump, export):
  catalog, process = bump('--model=albert_en_large', '--change=One.', '--change=Two:  more.')
  assert process.returncode == 0 and process.stderr == ''
  for word in (
    'albert_en_large/5 is in',
    'after albert_en_large/4',
    "- 'Two: more.'",
    '+      5:',
    'make export MODEL=albert_en_large VERSION=5\n',
  ):
    assert word in process.stdout, process.stdout
  _, process = bump(
    '--model=albert_en_large', '--change=Lists again.', '--io=list', '--preprocessor=albert_en_preprocess/2'
  )
  assert '+        breaking: true' in process.stdout and 'VERSION=6 FLAGS=--breaking' in process.stdout
  held = catalog_lib.Catalog(catalog)
  assert held.entry('albert_en_large', 5) == {
    'interface': 'dict',
    'preprocessor': 'albert_en_preprocess/4',
    'changes': ['One.', 'Two: more.'],
  }
  assert held.entry('albert_en_large', 6) == {
    'interface': 'list',
    'preprocessor': 'albert_en_preprocess/2',
    'breaking': True,
    'changes': ['Lists again.'],
  }
  # The export accepts the flags: it reaches the source.
  commands.fails(
    export(f'--catalog={catalog}', '--model=albert_en_large', '--version=6', '--source=nothing'),
    1,
    'nothing: no such file or directory',
  )


def test_bump_says_what_it_would_do(bump):
  catalog, process = bump('--model=albert_en_demo', '--change=One.', '--breaking', '--dry_run')
  assert (
    process.returncode == 0
    and 'albert_en_demo/5 would be in' in process.stdout
    and '+        breaking: true' in process.stdout
  )
  assert catalog_lib.Catalog(catalog).newest_version('albert_en_demo') == 4


@pytest.mark.parametrize(
  'flags, word',
  [
    (['--change=x'], '--model='),
    (['--model=albert_fr', '--change=x'], '--model=albert_fr'),
    (['--model=albert_en_base'], '--change: missing or empty'),
    (['--model=albert_en_base', '--change= '], '--change: missing or empty'),
    (['--model=albert_en_preprocess', '--change=x'], '--model=albert_en_preprocess'),
    (
      ['--model=albert_en_base', '--change=x', '--preprocessor=albert_en_preprocess/9'],
      '--preprocessor=albert_en_preprocess/9',
    ),
    (['--model=albert_en_base', '--change=x', '--preprocessor=3'], '--preprocessor=3'),
    (['--model=albert_en_base', '--change=x', '--io=tuple'], 'tuple'),
  ],
)
def test_bump_refuses_what_cannot_be_meant(bump, flags, word):
  catalog, process = bump(*flags)
  commands.fails(process, 2, word)
  assert catalog.read_bytes() == (pathlib.Path(__file__).parents[1] / 'assets/catalog.yaml').read_bytes()


def test_broken_module_is_one_line_and_nothing_is_left(export, own_module, tmp_path):
  (own_module / 'variables/variables.index').unlink()
  before = trees.leftovers(tmp_path)
  commands.fails(export(f'--source={own_module}', TMPDIR=str(tmp_path)), 1, 'variables.index', 'fetch the module again')
  assert trees.leftovers(tmp_path) == before


@pytest.mark.slow
def test_no_parity_is_one_line_and_nothing_is_left(export, own_module, tmp_path):
  # The graph is changed: the conversion is right, but the source's outputs differ.
  from tensorflow.core.protobuf import saved_model_pb2

  path = own_module / 'saved_model.pb'
  saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
  for node in saved_model.meta_graphs[1].graph_def.node:
    if node.op == 'Tanh' and 'tensor_content' not in node.name:
      node.op = 'Identity'
  path.write_bytes(saved_model.SerializeToString())
  before = trees.leftovers(tmp_path)
  commands.fails(
    export(f'--source={own_module}', TMPDIR=str(tmp_path)),
    1,
    'no parity',
    'tokens/pooled_output is',
    "from the source's graph in float64",
    'mlm/mlm_logits is',
  )
  assert trees.leftovers(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize(
  'number',
  [signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
)
@pytest.mark.real_processes
def test_interrupted_export_leaves_nothing(python_module, module, tmp_path, number):
  process = subprocess.Popen(
    python_module('export', f'--source={module}', '--model=albert_en_tiny', '--export_root=dist'),
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': str(pathlib.Path(__file__).parents[1]), 'TMPDIR': str(tmp_path)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  while process.poll() is None and not list(tmp_path.glob('dist/.staging-*/*')):
    time.sleep(0.01)
  process.send_signal(number)
  _, stderr = process.communicate()
  assert process.returncode == 1 and stderr == 'error: interrupted: nothing was published\n'
  assert trees.leftovers(tmp_path) == []


@pytest.mark.slow
def test_reader_that_goes_away_does_not_change_the_outcome(export, module, python_module, tmp_path):
  process = subprocess.Popen(
    python_module('export', f'--source={module}', '--model=albert_en_tiny', '--export_root=dist'),
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': str(pathlib.Path(__file__).parents[1])},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  process.stdout.readline()
  process.stdout.close()
  assert process.wait() == 0 and process.stderr.read() == b''
  assert (tmp_path / 'dist/tensorflow/albert_en_tiny/1').is_dir()


def test_missing_source_is_found_before_anything_is_imported(export):
  commands.fails(export('--source=nothing'), 1, 'nothing: no such file or directory')


def console(*words, path=commands.ROOT, missing='tensorflow', **environment) -> subprocess.CompletedProcess:
  """Runs `albert-hub-export` as an installed script does, without a package: importing it fails."""
  code = f"""
import sys
sys.modules[{missing!r}] = None
from export import command_line
sys.argv[:] = ['albert-hub-export', *sys.argv[1:]]
command_line.main()
"""
  return commands.run([commands.PYTHON, '-c', code, *map(str, words)], path, PYTHONPATH=str(path), **environment)


def test_the_console_command_answers_at_once():
  for words in (['--help'], ['-h'], ['--version']):
    process = console(*words)
    assert process.returncode == 0 and process.stderr == '', process.stderr
  assert process.stdout == f'albert-hub-export {export_package.__version__}\n'
  commands.fails(console(), 2, 'command: missing')
  commands.fails(console('exprot'), 2, "'exprot': not a command", ', '.join(command_line.COMMANDS))


@pytest.mark.parametrize('name', command_line.COMMANDS)
def test_each_command_groups_its_flags_in_help(name):
  module = command_line.COMMANDS[name][0]
  long = console(name, '--help')
  assert long.returncode == 0 and long.stderr == '', long.stderr
  assert f'albert-hub-export {name} --' in long.stdout and f'python -m {module} --' not in long.stdout
  titles = re.findall(r'^(\S.*)\n  --', long.stdout, re.M)
  assert titles[0] in ('Most exports need', 'Most need', 'One of three actions', 'Where'), titles
  assert titles[-1] == 'Output' and 'Other flags' not in titles, titles
  direct = commands.run([commands.PYTHON, '-m', module, '--help'])
  assert direct.returncode == 0 and f'python -m {module} --' in direct.stdout
  assert ('  --[no]json\n' in direct.stdout) == (name in ('export', 'verify', 'convert'))


def test_json_is_all_that_is_printed(export, python_module, released, module, tmp_path):
  source = f'--source={module}'
  plan = json.loads(export(source, '--dry_run', '--json').stdout)
  assert plan['release'] == 'tensorflow/albert_en_tiny/1' and 'dist/tensorflow/albert_en_tiny/1.md' in plan['planned']
  done = export(source, '--json', '--export_root=here')
  result = json.loads(done.stdout)
  assert done.returncode == 0 and done.stderr == '' and result['kept'] == result['breaking'] == []
  assert result['published'] == ['tensorflow/albert_en_tiny_preprocess/3', 'tensorflow/albert_en_tiny/1']
  assert (tmp_path / result['record']).is_file() and result['seconds'] > 0
  failed = export(source, '--json', '--export_root=here', '--version=1')
  commands.fails(failed, 1, 'already exists', 'give the next one with --version')
  assert failed.stderr == f'error: {json.loads(failed.stdout)["error"]}\n'

  release = released.root / 'tensorflow/albert_en_tiny/2'
  checked = commands.run(python_module('export.verify', f'--release={release}', '--json'))
  assert json.loads(checked.stdout) == {
    'release': 'tensorflow/albert_en_tiny/2',
    'files': len(json.loads(release.with_name('2.release.json').read_text())['files']),
    'weights': 32,
    'signed': False,
    'source': None,
  }
  output = tmp_path / 'converted'
  converted = json.loads(
    commands.run(python_module('converters', source, '--to=huggingface', f'--output={output}', '--json')).stdout
  )
  assert converted['output'] == str(output) and converted['format'] == 'TF1 Hub module' and converted['lacks'] == []


def test_quiet_prints_errors_alone(export, module):
  process = export(f'--source={module}', '--dry_run', '--quiet')
  assert process.returncode == 0 and process.stdout == process.stderr == ''
  process = export('--source=nothing', '--quiet')
  assert process.stdout == ''
  commands.fails(process, 1, 'nothing: no such file')


def test_bump_writes_nothing_into_an_installed_package(tmp_path):
  root = pathlib.Path(commands.ROOT)
  for source, target in (('export', 'export'), ('converters', 'converters'), ('assets', 'export/assets')):
    shutil.copytree(root / source, tmp_path / target, ignore=shutil.ignore_patterns('__pycache__'))
  catalog, own = tmp_path / 'export/assets/catalog.yaml', tmp_path / 'catalog.yaml'
  shutil.copy(catalog, own)
  bump = ('bump', '--model=albert_en_large', '--change=More.')
  before = catalog.read_bytes()
  for given in ((), (f'--catalog={catalog}',)):
    commands.fails(console(*bump, *given, path=tmp_path), 2, '--catalog', str(catalog), 'copy it')
  assert console(*bump, f'--catalog={own}', path=tmp_path).returncode == 0
  assert catalog.read_bytes() == before != own.read_bytes()


def test_faults_of_sources_are_told_before_tensorflow_is_imported(own_module, tmp_path):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'text.tar.gz').write_text('ALBERT')
  shutil.rmtree(own_module / 'variables')
  for source, word in (
    (tmp_path / 'nothing', 'no such file or directory'),
    (tmp_path / 'empty', 'no TF1 Hub module, checkpoint, release or model'),
    (tmp_path / 'text.tar.gz', 'not a .tar.gz'),
    (own_module, 'no variables; fetch the module again'),
    ('foo://albert', 'not the address of a .tar.gz'),
    ('https://nohost.invalid/google/albert_large/3', 'https://nohost.invalid: host not found, or no connection'),
  ):
    others = (
      ('convert', '--to=huggingface', f'--output={tmp_path / "out"}'),
      ('golden', '--record', f'--golden={tmp_path / "golden.json"}'),
    )
    for words in (('export', '--model=albert_en_tiny'), *(others if source == own_module else ())):
      process = console(*words, f'--source={source}', TFHUB_CACHE_DIR=str(tmp_path / 'empty'))
      commands.fails(process, 1, str(source).partition('/google')[0], word)


def test_a_missing_tf_models_is_told_with_the_command_that_installs_it(module, tmp_path):
  for words in (('export', '--model=albert_en_tiny'), ('convert', '--to=checkpoint', f'--output={tmp_path / "out"}')):
    process = console(*words, f'--source={module}', missing='official')
    commands.fails(
      process, 2, 'tf-models-official: not installed; run pip install --no-deps tf-models-official==2.20.0'
    )


def test_help_names_every_flag(export):
  process = export('--help')
  assert process.returncode == 0
  for flag in (
    'source',
    'model',
    'version',
    'export_root',
    'publisher',
    'io',
    'preprocessor',
    'change',
    'mlm',
    'sop',
    'albert_config',
    'source_sha256',
    'max_source_members',
    'max_source_file_bytes',
    'max_source_bytes',
    'max_source_ratio',
    'trust_source',
    'max_run_gib',
    'max_run_seconds',
  ):
    assert f'--{flag}' in process.stdout or f'--[no]{flag}' in process.stdout
  assert 'TF1 Hub module' in process.stdout


def test_verbosity_gives_the_traceback(export, own_module):
  shutil.rmtree(own_module / 'assets')
  process = export(f'--source={own_module}', '--verbosity=1')
  assert (
    process.returncode == 1 and 'Traceback' in process.stderr and process.stderr.splitlines()[-1].startswith('error: ')
  )


def test_demo_module_from_the_command_line(python_module, tmp_path):
  command = python_module('export.demo', f'--output={tmp_path}/new/module', '--nosop')
  environment = os.environ | {'PYTHONPATH': str(pathlib.Path(__file__).parents[1])}
  process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
  assert process.stderr == '' and 'made' in process.stdout
  assert trees.leftovers(tmp_path / 'new')[0] == 'module'
  assert (tmp_path / 'new/module/tfhub_module.pb').exists()
  commands.fails(
    subprocess.run(command, env=environment, capture_output=True, text=True, check=False), 1, 'exists', '--output'
  )
  commands.fails(
    subprocess.run(command[:3], env=environment, capture_output=True, text=True, check=False), 2, '--output'
  )


@pytest.mark.parametrize(
  'name', ['export', 'export.bump', 'export.golden', 'export.serve', 'export.verify', 'converters']
)
def test_a_command_imports_no_tensorflow_before_its_flags_are_read(name):
  module = f'{name}.__main__' if name in ('export', 'converters') else name
  code = f'import sys, {module}; sys.exit("tensorflow" in sys.modules)'
  assert subprocess.run([commands.PYTHON, '-c', code], cwd=commands.ROOT, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.real_processes
def test_the_demo_is_exported_again_and_nothing_published_is_removed(tmp_path):
  """`make export` with a prepared environment: twice the same, and mistyped flags between."""
  root = pathlib.Path(commands.ROOT)
  make = ['make', '--no-print-directory', 'export', f'EXPORT_ROOT={tmp_path / "dist"}', f'PY={commands.PYTHON}']
  make += ['-o', '.venv/.runtime', f'DEMO={tmp_path / "demo"}']

  def state():
    return {path: path.read_bytes() for path in sorted((tmp_path / 'dist').rglob('*')) if path.is_file()}

  first = commands.run(make, cwd=root)
  assert first.returncode == 0 and 'Published and proven in ' in first.stdout, first.stderr
  assert f' s. Try it: make serve EXPORT_ROOT={tmp_path}/dist; card: {tmp_path}/dist/tensorflow/' in first.stdout
  before = state()
  for flags in ('--dryrun', f'--report={tmp_path}/none/x.html', '--version=1'):
    refused = commands.run([*make, f'FLAGS={flags}'], cwd=root)
    assert refused.returncode == 2 and refused.stderr.startswith('error: '), refused
    assert re.search(r'^make(\[\d+\])?: .* Error [12]$', refused.stderr, re.M)  # the command's own status
    assert state() == before
  second = commands.run(make, cwd=root)
  assert second.returncode == 0 and 'Proven; the same bytes are published already in ' in second.stdout, second.stderr
  assert state() == before


def test_a_tilde_after_a_flag_is_the_home_directory(tmp_path):
  process = commands.run_export('--source=~/nothing', cwd=tmp_path, HOME=str(tmp_path))
  assert process.returncode == 1 and process.stderr.startswith(f'error: {tmp_path}/nothing: no such file'), (
    process.stderr
  )


def test_no_command_writes_into_a_published_version(module, tmp_path):
  release = tmp_path / 'dist/tensorflow/albert_en_demo/2'
  release.mkdir(parents=True)
  for name in ('2.release.json', '2.md', '2/saved_model.pb'):
    (release.parent / name).touch()
  export = ('export', '--model=albert_en_tiny', f'--source={module}')
  for words, output in (
    (export, f'--report={release}.md'),
    (export, f'--profile={release}.release.json'),
    (export, f'--report={release}/saved_model.pb'),
    (('golden', '--record', f'--source={module}'), f'--golden={release}.release.json'),
    (('golden', '--corpus=x.txt', f'--source={module}', f'--release={release}'), f'--output={release}'),
    (('convert', f'--source={module}', '--to=huggingface'), f'--output={release}/hf'),
    (('demo',), f'--output={release}/demo'),
  ):
    commands.fails(console(*words, output), 2, f'{output}: belongs to a published version')
  later = f'--output={release.parent}/3'
  process = console('convert', f'--source={module}', '--to=huggingface', later)
  commands.fails(process, 2, f'{later}: the place of a version that is not published yet; give another path')
  assert set(trees.leftovers(release.parent)) == {'2', '2.md', '2.release.json', '2/saved_model.pb'}


def test_no_target_of_make_deletes_what_it_did_not_make(tmp_path):
  shutil.copy(pathlib.Path(commands.ROOT) / 'Makefile', tmp_path)
  release = tmp_path / 'build/dist/tensorflow/albert_en_demo/2/saved_model.pb'
  corpus = tmp_path / 'assets/demo/corpus.txt'
  for path in (release, tmp_path / 'build/demo/module/tfhub_module.pb', tmp_path / 'venv/pyvenv.cfg', corpus):
    path.parent.mkdir(parents=True)
    path.touch()
  os.utime(release.parent, (0, 0))

  def make(*words):
    return commands.run(['make', '--no-print-directory', 'PY=false', *words], cwd=tmp_path)

  # An environment or a demo module in the place of a release.
  place = 'build/dist/tensorflow/albert_en_demo/2'
  assert make('clean', f'VENV={place}').returncode == 0 and release.exists()
  made = make(f'PYTHON={commands.PYTHON}', f'VENV={place}', f'{place}/.runtime')
  assert made.returncode == 2 and release.exists()
  made = make('-o', '.venv/.runtime', f'DEMO={place}', place)
  assert made.returncode == 2 and f'error: {place}: not a demo module' in made.stderr and release.exists()
  assert make('clean', 'VENV=venv').returncode == 0
  assert release.exists() and sorted(os.listdir(tmp_path)) == ['Makefile', 'assets', 'build']
  assert os.listdir(tmp_path / 'build') == ['dist']
