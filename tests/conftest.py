"""Shared modules and releases. Everything is made by code, tiny, and once a session."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

os.environ['TF_USE_LEGACY_KERAS'] = '1'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import pytest
import tensorflow as tf
from attacks import craft
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from converters import config as config_lib
from converters import errors
from converters import source as source_lib
from converters import weight_map
from export import catalog as catalog_lib
from export import console as console_lib
from export import release as release_lib
from export import request as request_lib
from export import trust as trust_lib
from export.demo import tf1_module
from export.demo import vocabulary
from export.proof import batch as batch_lib
from export.proof import certificate
from export.proof import expected
from export.proof import source_graph
from export.proof import source_run

# For MirroredStrategy: two devices on any machine. Only possible before TensorFlow's first operation.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2)

# Where the environment's commands are.
ROOT = str(pathlib.Path(__file__).parents[1])
BIN = os.path.dirname(sys.executable)

TINY = tf1_module.Spec(**tf1_module.SIZES['tiny'])


def pytest_addoption(parser):
  parser.addoption('--kills', type=int, default=5, help='how many exports to kill at random moments')
  parser.addoption('--fuzz_seconds', type=float, default=3, help='how long to fuzz each reader')
  parser.addoption('--interop_python', help='Python of an environment with PyTorch, Transformers and KerasHub')
  parser.addoption('--seed', type=int, default=1, help='for what is random')


@pytest.fixture(scope='session')
def sp_model() -> bytes:
  return vocabulary.train(vocabulary.CORPUS.read_text(encoding='utf-8').splitlines(), TINY.vocab_size)


@pytest.fixture(scope='session')
def make_module(tmp_path_factory, sp_model):
  """A function from changes of the TINY spec to a module's directory; the same changes give the same directory."""
  made = {}

  def make(**changes) -> pathlib.Path:
    spec = dataclasses.replace(TINY, **changes)
    if spec not in made:
      made[spec] = tmp_path_factory.mktemp('module') / 'albert_tiny'
      model = sp_model if spec.vocab_size == TINY.vocab_size else vocabulary.train(
          vocabulary.CORPUS.read_text(encoding='utf-8').splitlines(), spec.vocab_size)
      tf1_module.write(made[spec], spec, model, vocabulary.as_text(model))
    return made[spec]

  return make


@pytest.fixture(scope='session')
def module(make_module) -> pathlib.Path:
  """A TF1 Hub module with all four signatures. Not to be changed."""
  return make_module()


@pytest.fixture
def what_runs(tmp_path):
  """A function that calls something, and returns what TensorFlow runs for it: names of nodes and their operations."""
  def of(call) -> set[tuple[str, ...]]:
    with tf.profiler.experimental.Profile(str(tmp_path / 'profile')):
      call()
    trace = xplane_pb2.XSpace.FromString(next(tmp_path.rglob('*.xplane.pb')).read_bytes())
    # 'add_1:_MklNativeFusedMatMul'
    return {tuple(event.name.split(':')) for plane in trace.planes for event in plane.event_metadata.values() if event.name.count(':') == 1}
  return of


@pytest.fixture
def own_module(module, tmp_path) -> pathlib.Path:
  """A copy that a test may damage."""
  return pathlib.Path(shutil.copytree(module, tmp_path / 'own_module'))


@pytest.fixture
def source(module):
  with source_lib.open_source(str(module)) as opened:
    yield opened


@dataclasses.dataclass
class Ran:
  """Stands for `source_run.Run`: what a module's graph has given before."""
  in_float32: dict
  in_float64: dict
  given_gradient: dict
  in_training: dict

  def outputs(self):
    return dict(self.in_float32), dict(self.in_float64)

  def gradient(self):
    return self.given_gradient

  def training_outputs(self):
    return self.in_training


@pytest.fixture(scope='session')
def ran(module):
  """What the module's own graph gives."""
  with source_lib.open_source(str(module)) as opened, certificate.examine(opened, opened.parts) as examination:
    run = examination._run
    return Ran(*run.outputs(), dict(run.gradient()), run.training_outputs())


@pytest.fixture
def config(module):
  return config_lib.read(module / 'assets/albert_config.json')


@pytest.fixture
def batch(config):
  return batch_lib.make(config)


@pytest.fixture
def start_run(config, batch):
  """A function that starts running signatures of a module."""
  def run(module, signatures=tuple(source_graph.SIGNATURES), batch=batch, trust=trust_lib.Trust()):
    parts = {part for part in weight_map.Part if source_graph.signatures([part])[0] in signatures}
    return source_run.start(module, batch, signatures, batch_lib.make_scalar(config, parts), trust)
  return run


@pytest.fixture
def examination(source, ran):
  return certificate.Examination(source, source.parts, ran)


@pytest.fixture(scope='session')
def expecting(module):
  """A batch, and the reference's results for it."""
  with source_lib.open_source(str(module)) as opened:
    batch, scalar, _ = certificate.given(opened, opened.parts)
    return batch, expected.Expected(opened, opened.parts, batch, scalar)


class Release:
  """Exports in this process: quick, and good for everything but comparing bytes."""

  def __init__(self, root: pathlib.Path | str):
    self.root = root
    self.catalog = catalog_lib.Catalog()

  def __call__(self, module, name='albert_en_tiny', version=2, mlm=None, sop=None, reading=source_lib.Reading(), trust=trust_lib.Trust(), breaking=False, report=None, sign_key=None,
               with_text=False, **options):
    options.setdefault('preprocessor', 'albert_en_tiny_preprocess/3')
    encoder = self.catalog.encoder(name, version, **options)
    request = request_lib.Request(
        encoder, str(module), self.root, reading, trust, mlm, sop, breaking, report, sign_key,
        self.catalog.collection, self.catalog.text(encoder) if with_text else None)
    return self._run(request)

  def preprocessor(self, module, version, name='albert_en_demo_preprocess', breaking=False, sign_key=None, **options):
    """Exports a preprocessor of the catalog on its own."""
    return self._run(request_lib.Request(
        self.catalog.preprocessor(name, version, **options), str(module), self.root, breaking=breaking, sign_key=sign_key,
        collection=self.catalog.collection))

  def _run(self, request):
    outcome = release_lib.run(request, console_lib.Console())
    return pathlib.Path(self.root) / request.release.path, outcome


@pytest.fixture
def release(tmp_path) -> Release:
  return Release(tmp_path / 'dist')


@pytest.fixture
def refused(release, tmp_path_factory, monkeypatch):
  """A function that exports a source, which must be refused with one line, and leave nothing."""
  temporary = tmp_path_factory.mktemp('temporary')

  def check(source, message, error=errors.SourceError, **options):
    with monkeypatch.context() as patch:
      patch.setattr('tempfile.tempdir', str(temporary))
      with pytest.raises(error, match=message) as caught:
        release(source, **options)
    assert len(str(caught.value)) < 5000 and ': ' in str(caught.value)
    assert not release.root.exists()
    # TensorFlow's own translations stay until this process ends.
    assert [p.name for p in temporary.iterdir() if not p.name.startswith('__autograph_generated_file')] == []

  return check


@pytest.fixture(scope='session')
def released(tmp_path_factory, module) -> Release:
  """An export root with tensorflow/albert_en_tiny/2 and its preprocessor. Not to be changed."""
  made = Release(tmp_path_factory.mktemp('released'))
  made(module)
  return made


@pytest.fixture(scope='session')
def keys(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
  """A private key and its public half."""
  return make_keys(tmp_path_factory.mktemp('keys'))


@pytest.fixture(scope='session')
def history(tmp_path_factory, module, keys) -> pathlib.Path:
  """An export root with the demo's versions 1 to 4 as the catalog has them, all four preprocessors, and from version 2 on the models from text
  to vectors. Not to be changed."""
  made = Release(tmp_path_factory.mktemp('history'))
  for version in (1, 2, 3, 4):
    made(module, name='albert_en_demo', version=version, preprocessor=f'albert_en_demo_preprocess/{version}', breaking=version in (2, 4),
         sign_key=keys[0] if version == 3 else None, with_text=version > 1)
  return made.root


def run_export(*flags, cwd=None, **environment) -> subprocess.CompletedProcess:
  """`python -m export` of albert_en_tiny, as a user runs it."""
  return run(export_command(*flags), cwd=cwd, **environment)


def run(command, cwd=None, **environment) -> subprocess.CompletedProcess:
  """Any command that runs this project's modules."""
  return subprocess.run(command, cwd=cwd, env=os.environ | {'PYTHONPATH': ROOT} | environment, capture_output=True, text=True, check=False)


def export_command(*flags) -> list[str]:
  return [sys.executable, '-m', 'export', '--model=albert_en_tiny', '--preprocessor=albert_en_tiny_preprocess/3', *map(str, flags)]


def fails(process: subprocess.CompletedProcess, status: int, *words: str) -> None:
  """Checks that a command ended with a status and one line of error that has these words."""
  assert process.returncode == status, process.stderr
  lines = process.stderr.splitlines()
  assert len(lines) == 1 and lines[0].startswith('error: '), process.stderr
  for word in words:
    assert word in lines[0]


@pytest.fixture
def export(tmp_path):
  return functools.partial(run_export, cwd=tmp_path)


@dataclasses.dataclass
class Twice:
  """The same release made in two processes; see there."""
  here: pathlib.Path
  there: pathlib.Path
  first: subprocess.CompletedProcess
  second: subprocess.CompletedProcess
  told: list[str]


@pytest.fixture(scope='session')
def twice(module, tmp_path_factory) -> Twice:
  """One release made by two processes that differ in all that must not matter: source form, directory, time zone, locale, umask, hash seed,
  user and host. Not to be changed."""
  tmp_path = tmp_path_factory.mktemp('twice')
  archive = craft.archive(module, tmp_path / 'albert_tiny.tar.gz')
  first = run_export(f'--source={module}', '--version=2', '--export_root=here', '--with_text', cwd=tmp_path, PYTHONHASHSEED='0', TZ='UTC')
  other = tmp_path / 'some where' / 'else'
  other.mkdir(parents=True)
  mask = os.umask(0o077)
  try:
    second = run_export(f'--source={archive}', '--version=2', f'--export_root={tmp_path}/there', '--with_text', cwd=other, PYTHONHASHSEED='99', TZ='Asia/Tokyo',
                        LC_ALL='tr_TR.UTF-8', HOME=str(other), USER='mallory-the-builder', LOGNAME='mallory-the-builder', HOSTNAME='the-building-host')
  finally:
    os.umask(mask)
  told = [str(tmp_path), str(module), '.staging', 'albert_source_', ROOT, sys.prefix, sys.base_prefix, 'mallory-the-builder', 'the-building-host', '/root/', '/home/', '/tmp/']
  return Twice(tmp_path / 'here', tmp_path / 'there', first, second, told)


@pytest.fixture(scope='session')
def encoder_path(released) -> str:
  return str(released.root / 'tensorflow' / 'albert_en_tiny' / '2')


@pytest.fixture(scope='session')
def text_path(history) -> str:
  """From text to vectors: version 3 of the demo."""
  return str(history / 'tensorflow' / 'albert_en_demo_text' / '3')


@pytest.fixture(scope='session')
def preprocessor_path(released) -> str:
  return str(released.root / 'tensorflow' / 'albert_en_tiny_preprocess' / '3')


@pytest.fixture(scope='session')
def python_module():
  """The command line of `python -m NAME ...` in the environment that runs the tests."""
  return lambda name, *flags: [sys.executable, '-m', name, *map(str, flags)]


def make_keys(directory: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  private = ec.generate_private_key(ec.SECP256R1())
  paths = directory / 'private.pem', directory / 'public.pem'
  paths[0].write_bytes(private.private_bytes(
      serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
  paths[1].write_bytes(private.public_key().public_bytes(
      serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
  return paths


def edit_graph(module: pathlib.Path, edit, tags=()) -> pathlib.Path:
  """Changes a metagraph of a module, in place, and returns the path of its saved_model.pb."""
  path = module / 'saved_model.pb'
  saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
  edit(next(m for m in saved_model.meta_graphs if set(m.meta_info_def.tags) == set(tags)))
  path.write_bytes(saved_model.SerializeToString())
  return path


def tree_bytes(root: pathlib.Path) -> dict[str, bytes]:
  """The files below a directory."""
  return {p: (root / p).read_bytes() for p in leftovers(root) if (root / p).is_file()}


def leftovers(root: pathlib.Path) -> list[str]:
  """What is below an export root, hidden files included."""
  return sorted(str(p.relative_to(root)) for p in root.rglob('*')) if root.exists() else []


def record(release: pathlib.Path) -> dict:
  """What the record beside a published version's directory says."""
  return json.loads(release.with_name(f'{release.name}.release.json').read_text())
