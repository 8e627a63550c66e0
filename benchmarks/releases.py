"""The two ways from a TF1 Hub module to an encoder and a preprocessor, as command lines."""

import dataclasses
import pathlib
import shutil

from benchmarks import measure
from converters import albert_config
from converters.writers import encoder_yaml

# What tf-models' and hub.KerasLayer's users set: they are Keras 2.
TENSORFLOW = {'TF_USE_LEGACY_KERAS': '1', 'TF_CPP_MIN_LOG_LEVEL': '3'}


@dataclasses.dataclass(frozen=True)
class Paths:
  """Where a release's two SavedModels are, and the directory that holds all of it."""

  root: pathlib.Path
  encoder: pathlib.Path
  preprocessor: pathlib.Path


def ours(
  python: str, module: pathlib.Path, size: str, root: pathlib.Path, log: pathlib.Path, timeout: float
) -> tuple[Paths, dict[str, measure.Usage]]:
  """This tool: one command, which proves, describes, packs and publishes as well.

  Raises:
    CommandError: it fails.
  """
  clear(root)
  # Version 3 has the preprocessor that does what tf-models' does.
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
    raise measure.CommandError('export published no encoder, or no preprocessor: look at what it printed')
  return Paths(root, encoder, preprocessor), {'export': usage}


def tf_models(
  python: str, module: pathlib.Path, root: pathlib.Path, log: pathlib.Path, timeout: float
) -> tuple[Paths, dict[str, measure.Usage]]:
  """tf-models: three commands, encoder and preprocessor only.

  --export_type=model, since model_with_mlm finds no place for 24 of the objects in an ALBERT's checkpoint, and fails.

  Raises:
    CommandError: one of them fails; the others are not run.
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
    # Not in this project's directory: Python would find modules there.
    usages[name] = measure.run(
      [python, '-m', f'official.nlp.tools.{tool}', *flags],
      log.with_name(f'{log.name}_{name}'),
      timeout,
      root,
      TENSORFLOW,
    )
  return paths, usages


def size_of(directory: pathlib.Path) -> int:
  """Bytes of all files below it."""
  return sum(path.stat().st_size for path in directory.rglob('*') if path.is_file())


def clear(root: pathlib.Path) -> None:
  """Makes it an empty directory."""
  if root.exists():
    shutil.rmtree(root)
  root.mkdir(parents=True)
