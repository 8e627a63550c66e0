"""Names of options in messages.

A library names its options: `option NAME`, or `option NAME=VALUE`. The command line prints flags instead.
"""

import re

from absl import flags

_OPTION = re.compile(r'\boption ([a-z][a-z0-9_]*)(?:=(True|False)\b)?')


def as_flags(message: str) -> str:
  """Replaces the options in a message by the flags of the running command.

  An option that the command has no flag for stays as it is.

  Example, where these are flags:
    'give option to=onnx or option pooler=False' becomes 'give --to=onnx or --nopooler'.
  """
  return _OPTION.sub(_flag, message)


def _flag(option: re.Match[str]) -> str:
  name, value = option.groups()
  if name not in flags.FLAGS:
    return option[0]
  if value is None:
    return f'--{name}'
  return f'--{"" if value == "True" else "no"}{name}' if flags.FLAGS[name].boolean else f'--{name}={value}'
