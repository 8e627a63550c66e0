"""Publishes versions of the demo for the checks in other environments."""

import pathlib
import sys

from absl import flags

from benchmarks import measure
from export.ui import console as console_lib

WORK_DIR = flags.DEFINE_string('work_dir', 'build/runtimes', 'Directory for what is made, and for logs.')
TIMEOUT = 3600  # timeout of a command in seconds


def publish(
  work: pathlib.Path,
  root: pathlib.Path,
  version: int,
  console: console_lib.Console,
  *,
  size: str = 'demo',
  dropout: float = 0.0,
  text: bool = False,
) -> None:
  """Publishes a version of the demo encoder with its preprocessor, and makes its module if it is missing.

  Args:
    work: directory for modules and logs.
    root: export root.
    version: version of the encoder in the catalog.
    console: console that prints the steps.
    size: size of the module, as in `python -m export.demo`.
    dropout: dropout rate of the module.
    text: whether the text model is published, too.

  Raises:
    CommandError: a command failed.
  """
  module = work / f'modules/{size}{"_dropout" if dropout else ""}'
  if not module.exists():
    with console.step(f'make {module.name}'):
      measure.run(
        [sys.executable, '-m', 'export.demo', f'--output={module}', f'--size={size}', f'--dropout={dropout}'],
        work / 'logs/module',
        TIMEOUT,
      )
  with console.step(f'export version {version}'):
    # --breaking: version 2 returns a dict instead of a list, and the preprocessor of version 4 returns other ids.
    measure.run(
      [
        sys.executable,
        '-m',
        'export',
        f'--source={module}',
        '--model=albert_en_demo',
        f'--version={version}',
        f'--export_root={root}',
        '--breaking',
        f'--with_text={text}',
      ],
      work / f'logs/export_{version}',
      TIMEOUT,
    )
