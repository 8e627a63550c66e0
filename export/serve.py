"""Serves a release tree on this machine: to hub.load and hub.KerasLayer, and to browsers.

  python -m export.serve --export_root=dist --port=8501

Then `hub.load("http://127.0.0.1:8501/tensorflow/albert_en_large/2")` works, and http://127.0.0.1:8501/ lists what there
is. Nothing is ever written. It is not meant to face the internet: put a real server in front of the same tree there.
"""

import socket

import waitress
from absl import flags

from converters import cli
from converters import errors
from export.host import web_app
from export.store import tree as tree_lib
from export.ui import console as console_lib

_EXPORT_ROOT = flags.DEFINE_string(
  'export_root', 'dist', 'Root of the release tree. A directory, or what tf.io.gfile knows (gs://bucket/models).'
)
_PORT = flags.DEFINE_integer(
  'port', 8501, 'Port to listen at; 0 for any that is free.', lower_bound=0, upper_bound=65535
)
_HOST = flags.DEFINE_string('host', '127.0.0.1', 'Address to listen at.')


def main() -> None:
  if not _EXPORT_ROOT.value:
    raise errors.UsageError('--export_root= is empty: give a directory')
  tree = tree_lib.at(_EXPORT_ROOT.value)
  models = tree.models()
  if not models:
    raise errors.PublishError(f'no published model in {tree.root}: give the root of a release tree with --export_root')
  try:
    family, _, _, _, address = socket.getaddrinfo(_HOST.value, _PORT.value, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen()  # before anybody is told the address
  except OSError as e:
    raise errors.PublishError(
      f'cannot listen at {_HOST.value}:{_PORT.value} ({e.strerror}): give another --port'
    ) from e
  place = f'[{_HOST.value}]' if ':' in _HOST.value else _HOST.value
  console = console_lib.Console()
  console.line(f'{len(models)} models in {tree.root} at http://{place}:{listener.getsockname()[1]}/ until interrupted')
  for model in models:
    console.line(f'  http://{place}:{listener.getsockname()[1]}/{model}/{tree.versions(model)[-1]}')
  # Who sends half a request, or reads half an answer, holds no thread: the server waits for all of them at once. It
  # returns when it is interrupted, which is how it is meant to end.
  waitress.serve(web_app.Host(tree), sockets=[listener], threads=8, channel_timeout=60, ident=None, _quiet=True)
  console.line('stopped')


if __name__ == '__main__':
  cli.run(main)
