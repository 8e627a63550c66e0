"""Serves a release tree on this machine: to hub.load and hub.KerasLayer, and to browsers.

  python -m export.serve --export_root=dist --port=8501

Then `hub.load("http://127.0.0.1:8501/tensorflow/albert_en_large/2")` works, and http://127.0.0.1:8501/ lists all
models. The server writes no files. It is not meant for the internet: use a production server for the same tree there.
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
  'export_root', 'dist', 'Root of the release tree. A directory, or a path that tf.io.gfile opens (gs://bucket/models).'
)
_PORT = flags.DEFINE_integer('port', 8501, 'Port to listen at; 0 for any free port.', lower_bound=0, upper_bound=65535)
_HOST = flags.DEFINE_string('host', '127.0.0.1', 'Address to listen at.')


def main() -> None:
  """Runs the command; see the module."""
  if not _EXPORT_ROOT.value:
    raise errors.UsageError('--export_root: empty; give a directory')
  tree = tree_lib.at(_EXPORT_ROOT.value)
  models = tree.models()
  if not models:
    raise errors.PublishError(f'{tree.root}: no published model; give the root of a release tree with --export_root')
  try:
    family, _, _, _, address = socket.getaddrinfo(_HOST.value, _PORT.value, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen()  # before the address is printed
  except OSError as e:
    raise errors.PublishError(f'{_HOST.value}:{_PORT.value}: cannot listen ({e.strerror}); give another --port') from e
  place = f'[{_HOST.value}]' if ':' in _HOST.value else _HOST.value
  console = console_lib.Console()
  console.line(f'{len(models)} models in {tree.root} at http://{place}:{listener.getsockname()[1]}/ until interrupted')
  for model in models:
    console.line(f'  http://{place}:{listener.getsockname()[1]}/{model}/{tree.versions(model)[-1]}')
  # A client that sends half a request, or reads half a response, does not block a thread: the server waits for all
  # clients at once. It returns when it is interrupted, which is the normal end.
  waitress.serve(web_app.Host(tree), sockets=[listener], threads=8, channel_timeout=60, ident=None, _quiet=True)
  console.line('stopped')


if __name__ == '__main__':
  cli.run(main, {'Where': ('export_root', 'host', 'port')})
