"""Writes a module's encoder as Hugging Face's AlbertModel loads it: config.json and model.safetensors.

  python -m benchmarks.huggingface_weights --source=DIRECTORY --output=DIRECTORY
"""

import pathlib
import tempfile

from absl import flags

from benchmarks import huggingface_format
from converters import errors
from converters import source as source_lib
from export import command_line

_SOURCE = flags.DEFINE_string('source', None, 'The TF1 Hub module.', required=True)
_OUTPUT = flags.DEFINE_string('output', None, 'Directory to make; must not exist.', required=True)


def main() -> None:
  output = pathlib.Path(_OUTPUT.value)
  if output.exists():
    raise errors.PublishError(f'{output} exists: remove it, or give another --output')
  output.parent.mkdir(parents=True, exist_ok=True)
  with (source_lib.open_source(_SOURCE.value) as source, tempfile.TemporaryDirectory(dir=output.parent, prefix=f'.{output.name}.') as there):
    made = pathlib.Path(there) / 'model'
    made.mkdir()
    huggingface_format.write(made, source)
    made.rename(output)


if __name__ == '__main__':
  command_line.run(main)
