"""Shared modules and releases: tiny, made by code, once a session."""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile

os.environ['TF_USE_LEGACY_KERAS'] = '1'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# A shell ignores this signal for background processes, and their descendants inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import tensorflow as tf
from support import commands
from support import craft
from support import fork_server
from support import modules
from support import releases
from support import shared
from support import source_runs
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from converters import albert_config
from converters import errors
from converters import interface
from converters import source as source_lib
from converters import weight_map
from converters.reference import inputs as proof_inputs
from converters.reference import outputs as reference_outputs
from export.demo import tf1_module
from export.demo import vocabulary
from export.source import policy as source_policy
from export.source import process as source_process
from export.validation import encoder_certificate

# MirroredStrategy needs two devices. They can be set only before TensorFlow's first operation.
tf.config.set_logical_device_configuration(
  tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


def pytest_addoption(parser):
  parser.addoption('--kills', type=int, default=5, help='how many exports to kill at random moments')
  parser.addoption('--fuzz_seconds', type=float, default=0, help='how long to fuzz each reader with new inputs')
  parser.addoption('--interop_python', help='Python of an environment with PyTorch, Transformers and KerasHub')
  parser.addoption('--optimum_python', help='Python of an environment with Optimum and LiteRT')
  parser.addoption('--node_modules', help='directory with transformers.js')
  parser.addoption('--seed', type=int, default=1, help='for what is random')


_FORK_SERVER = 'ALBERT_TESTS_FORK_SERVER'


def pytest_sessionstart(session):
  """Starts one fork server for all workers of pytest-xdist, which inherit its address by the environment."""
  if 'PYTEST_XDIST_WORKER' not in os.environ and not session.config.option.collectonly:
    stack = contextlib.ExitStack()
    session.config.add_cleanup(stack.close)
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix='fork_'))
    os.environ[_FORK_SERVER] = stack.enter_context(fork_server.running(pathlib.Path(directory)))


@pytest.fixture(scope='session', autouse=True)
def forking_python():
  """Sets `sys.executable` to start processes with TensorFlow imported, in this process and its descendants."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, 'executable', os.environ[_FORK_SERVER])
    yield


@pytest.fixture(autouse=True)
def _real_python(request, monkeypatch):
  if request.node.get_closest_marker('real_processes'):
    monkeypatch.setattr(sys, 'executable', commands.PYTHON)


@pytest.fixture(scope='session')
def sp_model(tmp_path_factory) -> bytes:
  def make(path):
    lines = vocabulary.CORPUS.read_text(encoding='utf-8').splitlines()
    (path / '30k-clean.model').write_bytes(vocabulary.train(lines, modules.TINY.vocab_size))

  return (shared.directory(tmp_path_factory, 'vocabulary', make) / '30k-clean.model').read_bytes()


@pytest.fixture(scope='session')
def make_module(tmp_path_factory, sp_model):
  """A function from changes of modules.TINY to a module's directory, which is the same for equal changes."""
  made = {}

  def make(**changes) -> pathlib.Path:
    spec = dataclasses.replace(modules.TINY, **changes)

    def write(path):
      model = (
        sp_model
        if spec.vocab_size == modules.TINY.vocab_size
        else vocabulary.train(vocabulary.CORPUS.read_text(encoding='utf-8').splitlines(), spec.vocab_size)
      )
      tf1_module.write(path / 'albert_tiny', spec, model, vocabulary.as_text(model))

    if spec not in made:
      name = f'module_{hashlib.sha256(repr(spec).encode()).hexdigest()[:16]}'
      made[spec] = shared.directory(tmp_path_factory, name, write) / 'albert_tiny'
    return made[spec]

  return make


@pytest.fixture(scope='session')
def module(make_module) -> pathlib.Path:
  """A TF1 Hub module with all four signatures. Not to be changed."""
  return make_module()


@pytest.fixture
def what_runs(tmp_path):
  """A function that calls another one, and returns the names and operations of the nodes that TensorFlow ran."""

  def of(call) -> set[tuple[str, ...]]:
    with tf.profiler.experimental.Profile(str(tmp_path / 'profile')):
      call()
    trace = xplane_pb2.XSpace.FromString(next(tmp_path.rglob('*.xplane.pb')).read_bytes())
    # 'add_1:_MklNativeFusedMatMul'
    return {
      tuple(event.name.split(':'))
      for plane in trace.planes
      for event in plane.event_metadata.values()
      if event.name.count(':') == 1
    }

  return of


@pytest.fixture
def own_module(module, tmp_path) -> pathlib.Path:
  """A copy that a test may damage."""
  return pathlib.Path(shutil.copytree(module, tmp_path / 'own_module'))


@pytest.fixture
def source(module):
  with source_lib.open_source(str(module)) as opened:
    yield opened


@pytest.fixture(scope='session')
def source_results(tmp_path_factory) -> pathlib.Path:
  """Directory for `source_runs.RecordedChild`."""
  return shared.directory(tmp_path_factory, 'source_results', lambda path: None)


@pytest.fixture
def recorded_child(source_results) -> source_runs.RecordedChild:
  """A child that reuses results of source graphs that ran before in this session."""
  return source_runs.RecordedChild(source_results)


@pytest.fixture(scope='session')
def ran(module, source_results) -> source_runs.Recorded:
  """Results of the module's graph."""
  with (
    source_lib.open_source(str(module)) as opened,
    encoder_certificate.examine(opened, opened.parts, child=source_runs.RecordedChild(source_results)) as examination,
  ):
    return examination.run


@pytest.fixture
def config(module):
  return albert_config.read(module / 'assets/albert_config.json')


@pytest.fixture
def batch(config):
  return proof_inputs.make(config)


@pytest.fixture
def start_run(config, batch):
  """A function that starts a run of a module's signatures."""

  def run(module, signatures=tuple(interface.SIGNATURES), batch=batch, trust=source_policy.Trust()):
    parts = {part for part in weight_map.Part if interface.signatures([part])[0] in signatures}
    return source_process.start(module, batch, signatures, proof_inputs.make_scalar(config, parts), trust)

  return run


@pytest.fixture
def examination(source, ran):
  return encoder_certificate.Examination(source, source.parts, ran)


@pytest.fixture(scope='session')
def expecting(module):
  """A batch, and the reference's results for it."""
  with source_lib.open_source(str(module)) as opened:
    batch, scalar, _ = encoder_certificate.given(opened, opened.parts)
    return batch, reference_outputs.Expected(opened, opened.parts, batch, scalar)


@pytest.fixture
def release(request, tmp_path) -> releases.Release:
  """Exports into an empty export root. Tests marked `real_processes` run the source's graph every time."""
  real = request.node.get_closest_marker('real_processes')
  return releases.Release(tmp_path / 'dist', None if real else request.getfixturevalue('source_results'))


@pytest.fixture
def prove(tmp_path, recorded_child):
  """A function from a module to its encoder's path and certificate, without a release.

  It has the arguments of `releases.save_encoder`.
  """
  return functools.partial(releases.save_encoder, directory=tmp_path, child=recorded_child, prove=True)


@pytest.fixture
def refused(release, tmp_path_factory, monkeypatch):
  """A function that exports a source, which must fail with one line of error and leave no file."""
  temporary = tmp_path_factory.mktemp('temporary')

  def check(source, message, error=errors.SourceError, **options):
    with monkeypatch.context() as patch:
      patch.setattr('tempfile.tempdir', str(temporary))
      with pytest.raises(error, match=message) as caught:
        release(source, **options)
    assert len(str(caught.value)) < 5000 and ': ' in str(caught.value)
    assert not release.root.exists()
    # TensorFlow's caches stay until this process ends.
    assert [p.name for p in temporary.iterdir() if not p.name.startswith('__autograph_generated_file')] == []

  return check


@pytest.fixture(scope='session')
def released(tmp_path_factory, module) -> releases.Release:
  """An export root with tensorflow/albert_en_tiny/2 and its preprocessor. Not to be changed."""
  return releases.Release(shared.directory(tmp_path_factory, 'released', lambda path: releases.Release(path)(module)))


@pytest.fixture(scope='session')
def with_dropout(tmp_path_factory, make_module, source_results) -> pathlib.Path:
  """An export root with tensorflow/albert_en_tiny/2 of a module with dropout, its preprocessor and its text model.

  Not to be changed.
  """

  def make(path):
    releases.Release(path, source_results)(make_module(hidden_dropout=0.1, attention_dropout=0.1), with_text=True)

  return shared.directory(tmp_path_factory, 'with_dropout', make)


@pytest.fixture(scope='session')
def keys(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
  """A private key and its public half."""
  return releases.key_paths(shared.directory(tmp_path_factory, 'keys', releases.make_keys))


@pytest.fixture(scope='session')
def history(tmp_path_factory, module, keys, source_results) -> pathlib.Path:
  """An export root with the demo's versions 1 to 4 in the catalog, their preprocessors, and text models from 2 on.

  Not to be changed."""

  def make(path):
    made = releases.Release(path, source_results)
    for version in (1, 2, 3, 4):
      made(
        module,
        name='albert_en_demo',
        version=version,
        preprocessor=f'albert_en_demo_preprocess/{version}',
        breaking=version in (2, 4),
        sign_key=keys[0] if version == 3 else None,
        with_text=version > 1,
      )

  return shared.directory(tmp_path_factory, 'history', make)


@pytest.fixture
def export(tmp_path):
  return functools.partial(commands.run_export, cwd=tmp_path)


@pytest.fixture
def convert(python_module, tmp_path):
  """A function that runs `python -m converters`, with an additional directory of modules if `path` is given."""

  def run(*flags, path=None):
    paths = [str(commands.ROOT)] if path is None else [path, str(commands.ROOT)]
    return subprocess.run(
      python_module('converters', *flags),
      cwd=tmp_path,
      env=os.environ | {'PYTHONPATH': os.pathsep.join(paths)},
      capture_output=True,
      text=True,
      timeout=300,
    )

  return run


@dataclasses.dataclass
class Twice:
  """The same release made by two processes; see `twice`."""

  here: pathlib.Path
  there: pathlib.Path
  first: subprocess.CompletedProcess
  second: subprocess.CompletedProcess
  traces: list[str]


@pytest.fixture(scope='session')
def twice(module, tmp_path_factory) -> Twice:
  """One release made by two processes that differ in everything that must not matter.

  They differ in source form, directory, time zone, locale, umask, hash seed, user and host. Not to be changed."""
  path = shared.directory(
    tmp_path_factory,
    'twice',
    lambda path: (path / 'twice.pickle').write_bytes(pickle.dumps(_export_twice(module, path))),
  )
  return pickle.loads((path / 'twice.pickle').read_bytes())


def _export_twice(module, tmp_path) -> Twice:
  archive = craft.archive(module, tmp_path / 'albert_tiny.tar.gz')
  first = commands.run_export(
    f'--source={module}', '--version=2', '--export_root=here', '--with_text', cwd=tmp_path, PYTHONHASHSEED='0', TZ='UTC'
  )
  other = tmp_path / 'some where' / 'else'
  other.mkdir(parents=True)
  mask = os.umask(0o077)
  try:
    second = commands.run_export(
      f'--source={archive}',
      '--version=2',
      f'--export_root={tmp_path}/there',
      '--with_text',
      cwd=other,
      PYTHONHASHSEED='99',
      TZ='Asia/Tokyo',
      LC_ALL='tr_TR.UTF-8',
      HOME=str(other),
      USER='mallory-the-builder',
      LOGNAME='mallory-the-builder',
      HOSTNAME='the-building-host',
    )
  finally:
    os.umask(mask)
  traces = [
    str(tmp_path),
    str(module),
    '.staging',
    'albert_source_',
    commands.ROOT,
    sys.prefix,
    sys.base_prefix,
    'mallory-the-builder',
    'the-building-host',
    '/root/',
    '/home/',
    '/tmp/',
  ]
  return Twice(tmp_path / 'here', tmp_path / 'there', first, second, traces)


@pytest.fixture(scope='session')
def encoder_path(released) -> str:
  return str(released.root / 'tensorflow' / 'albert_en_tiny' / '2')


@pytest.fixture(scope='session')
def text_path(history) -> str:
  """The text model of version 3 of the demo."""
  return str(history / 'tensorflow' / 'albert_en_demo_text' / '3')


@pytest.fixture(scope='session')
def preprocessor_path(released) -> str:
  return str(released.root / 'tensorflow' / 'albert_en_tiny_preprocess' / '3')


@pytest.fixture(scope='session')
def python_module():
  """The command line of `python -m NAME ...` in the environment that runs the tests."""
  return lambda name, *flags: [sys.executable, '-m', name, *map(str, flags)]
