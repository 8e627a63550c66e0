"""Runs the console command `albert-hub-export`: this package's commands under short names."""

import runpy
import sys

import export

# Each runs as `python -m MODULE`, with the same flags.
COMMANDS = {
  'export': ('export', 'converts a pretrained ALBERT, proves that the result computes the same, and publishes it'),
  'verify': ('export.verify', 'checks a published release against its record, its signature and its source'),
  'convert': (
    'converters',
    'writes the weights for Hugging Face, ONNX Runtime or LiteRT, or as a TF2 checkpoint',
  ),
  'serve': ('export.serve', 'serves the published models, for hub.load and browsers'),
  'bump': ('export.bump', 'adds the next version of a model to a catalog'),
  'release': ('export.fleet', 'publishes all versions of a catalog that are missing; needs Apache Beam'),
  'golden': ('export.golden', 'records and compares golden outputs, also of a corpus'),
  'demo': ('export.demo', 'makes a small TF1 Hub module with random weights, to try the other commands'),
}

_HELP = f"""Converts a pretrained ALBERT to TensorFlow 2 SavedModels, and proves that they compute the same.

  albert-hub-export export --source=albert_large.tar.gz --model=albert_en_large --version=2
  albert-hub-export verify --release=dist/tensorflow/albert_en_large/2

Commands (albert-hub-export COMMAND --help lists the flags of one)
{chr(10).join(f'  {name:<10}{text}' for name, (_, text) in COMMANDS.items())}

Flags
  -h, --help  Print this text.
  --version   Print the version of this tool.

Flags of all commands
  --quiet     Print nothing on standard output. Errors are still printed.
  --json      Print one JSON object on standard output (export, verify, convert)."""


def main() -> None:
  """Runs the command that the first argument names."""
  name, *arguments = sys.argv[1:] or ['']
  if name in ('-h', '--help', 'help'):
    print(_HELP)
  elif name == '--version':
    print(f'albert-hub-export {export.__version__}')
  elif name in COMMANDS:
    # Flags are defined under this name: see converters.cli.
    sys.argv[:] = [f'albert-hub-export {name}', *arguments]
    runpy.run_module(COMMANDS[name][0], run_name='__main__')
  else:
    fault = f'{name!r}: not a command' if name else 'command: missing'
    print(f'error: {fault} (there are {", ".join(COMMANDS)}); see albert-hub-export --help', file=sys.stderr)
    sys.exit(2)
