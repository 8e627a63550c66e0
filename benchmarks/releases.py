"""Runs the commands of this tool and of tf-models that turn a TF1 Hub module into encoder and preprocessor."""

import dataclasses
import pathlib
import shutil

from benchmarks import measure
from converters import albert_config
from converters import errors
from converters.readers import encoder_yaml

# Users of tf-models and of hub.KerasLayer set these, since both need Keras 2.
TENSORFLOW = {'TF_USE_LEGACY_KERAS': '1', 'TF_CPP_MIN_LOG_LEVEL': '3'}


@dataclasses.dataclass(frozen=True)
class Paths:
  """Paths of a release.

  Attributes:
    root: directory of the whole release.
    encoder, preprocessor: directories of the SavedModels.
  """

  root: pathlib.Path
  encoder: pathlib.Path
  preprocessor: pathlib.Path


def ours(
  python: str, module: pathlib.Path, size: str, root: pathlib.Path, log: pathlib.Path, timeout: float
) -> tuple[Paths, dict[str, measure.Usage]]:
  """Releases a module with this tool, by one command that also proves, describes, packs and publishes.

  Args:
    python: interpreter of this tool's environment.
    module: directory of the module.
    size: size of the module, which names the model.
    root: directory of the release; existing content is deleted.
    log: path of the log files, as in `measure.run`.
    timeout: timeout of the command in seconds.

  Returns:
    Paths of the release, and the usage of each command by name.

  Raises:
    CommandError: the command fails, or publishes no encoder or no preprocessor.
  """
  clear(root)
  # The preprocessor of version 3 computes the same as that of tf-models.
  usage = measure.run(
    [python, '-m', 'export', f'--source={module}', f'--model=albert_en_{size}', '--version=3', f'--export_root={root}'],
    log,
    timeout,
  )
  encoder, preprocessor = None, None
  for path in sorted(root.glob('tensorflow/*/*/saved_model.pb')):
    if path.parents[1].name.endswith('_preprocess'):
      preprocessor = path.parent
    else:
      encoder = path.parent
  if encoder is None or preprocessor is None:
    raise measure.CommandError(f'export: encoder or preprocessor is missing (in {root.name}); see {log.name}.out')
  return Paths(root, encoder, preprocessor), {'export': usage}


def tf_models(
  python: str, module: pathlib.Path, root: pathlib.Path, log: pathlib.Path, timeout: float
) -> tuple[Paths, dict[str, measure.Usage]]:
  """Exports encoder and preprocessor with tf-models, by three commands.

  The encoder's command is --export_type=model. With model_with_mlm it fails, because it cannot match 24 objects of an
  ALBERT checkpoint.

  Args:
    python: interpreter of the environment of tf-models.
    module: directory of the module.
    root: directory of the release; existing content is deleted.
    log: path of the log files, as in `measure.run`; each command adds its name.
    timeout: timeout of each command in seconds.

  Returns:
    Paths of the release, and the usage of each command by name.

  Raises:
    CommandError: a command fails; later commands are not run.
  """
  clear(root)
  config_path = module / 'assets/albert_config.json'
  encoder_config = root / encoder_yaml.NAME
  encoder_config.write_text(encoder_yaml.text(albert_config.read(config_path)), encoding='utf-8')
  sp_model = next(module.glob('assets/*.model'))
  paths = Paths(root, root / 'encoder', root / 'preprocessor')
  commands = {
    'convert': [
      'tf2_albert_encoder_checkpoint_converter',
      f'--albert_config_file={config_path}',
      f'--checkpoint_to_convert={module / "variables/variables"}',
      f'--converted_checkpoint_path={root / "ckpt"}',
    ],
    'encoder': [
      'export_tfhub',
      '--export_type=model',
      f'--encoder_config_file={encoder_config}',
      f'--model_checkpoint_path={root / "ckpt-1"}',
      f'--sp_model_file={sp_model}',
      f'--export_path={paths.encoder}',
    ],
    'preprocessor': [
      'export_tfhub',
      '--export_type=preprocessing',
      f'--sp_model_file={sp_model}',
      f'--export_path={paths.preprocessor}',
    ],
  }
  usages = {}
  for name, (tool, *flags) in commands.items():
    # Runs outside this project's directory, from which Python would import modules.
    usages[name] = measure.run(
      [python, '-m', f'official.nlp.tools.{tool}', *flags],
      log.with_name(f'{log.name}_{name}'),
      timeout,
      root,
      TENSORFLOW,
    )
  return paths, usages


def size_of(directory: pathlib.Path) -> int:
  """Returns the size of all files in a directory tree, in bytes."""
  return sum(path.stat().st_size for path in directory.rglob('*') if path.is_file())


_SCRATCH = '.scratch'  # file in the directories that `clear` makes


def clear(root: pathlib.Path) -> None:
  """Makes an empty scratch directory, and deletes the one of an earlier run.

  Raises:
    UsageError: the directory was not made by this function; it may hold published releases.
  """
  if root.exists():
    if not (root / _SCRATCH).exists():
      raise errors.UsageError(f'{root}: not a scratch directory, and is not deleted; give another --work_dir')
    shutil.rmtree(root)
  root.mkdir(parents=True)
  (root / _SCRATCH).touch()
