"""Forks Python processes with TensorFlow imported: a server, and an interpreter that requests processes from it.

Importing TensorFlow takes two processor seconds, and the tests start hundreds of processes. A forked process with
TensorFlow imported starts in 0.07 s. It has the arguments, environment, directory and files of the process that
requests it.

  with fork_server.running(directory) as python:   # path of an executable
    subprocess.run([python, '-m', 'export', ...])

The executable runs `-m MODULE` in a forked process. It becomes the real interpreter for other options, and if hash
seed, locale or TensorFlow variables differ from the server's. A forked process is outside the namespaces of the
requesting process.
"""

import atexit
import contextlib
import json
import os
import pathlib
import runpy
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings

_CLIENT = '''#!{python} -IS
import json, os, signal, socket, sys
python, server, prefixes, settings = {python!r}, {server!r}, {prefixes!r}, {settings!r}
here = {{name: value for name, value in os.environ.items() if name.startswith(prefixes)}}
if sys.argv[1:2] != ['-m'] or any(settings.get(name) != here.get(name) for name in settings.keys() | here.keys()):
  os.execv(python, [python, *sys.argv[1:]])
umask = os.umask(0)
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ), umask]).encode()
connection = socket.socket(socket.AF_UNIX)
connection.connect(server)
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
  if signal.getsignal(number) != signal.SIG_IGN:
    signal.signal(number, lambda number, frame: connection.send(bytes([number])))
socket.send_fds(connection, [len(request).to_bytes(4, 'big')], [0, 1, 2])
connection.sendall(request)
for number in (0, 1, 2):
  os.close(number)
answer = connection.recv(4)
status = int.from_bytes(answer, 'big', signed=True) if answer else 125
if status < 0:
  signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
  os.kill(os.getpid(), -status)
os._exit(status)
'''
# Variables that take effect at the start of a process, so forked processes cannot change them.
_PREFIXES = ('LANG', 'LC_', 'LD_', 'MALLOC_', 'OMP_', 'PYTHONHASHSEED', 'PYTHONIOENCODING', 'PYTHONUTF8', 'TF_')
_IMPORTED = (
  'tensorflow',
  'tensorflow_hub',
  'tensorflow_text',
  'tf_keras',
  'official.nlp.modeling.networks',
  'jinja2',
  'jsonschema',
  'rich.console',
  'rich.progress',
  'ruamel.yaml',
  'sentencepiece',
  'threadpoolctl',
)


@contextlib.contextmanager
def running(directory: pathlib.Path):
  """Runs a server until the context ends.

  Args:
    directory: an empty directory with a short path: addresses of Unix sockets have at most 107 bytes.

  Yields:
    Path of the executable, a str.
  """
  address, client = directory / 's', directory / 'python'
  settings = {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES)}
  client.write_text(_CLIENT.format(python=sys.executable, server=str(address), prefixes=_PREFIXES, settings=settings))
  client.chmod(client.stat().st_mode | stat.S_IXUSR)
  with subprocess.Popen(
    [sys.executable, __file__, str(address), str(client)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    start_new_session=True,
  ) as server:
    try:
      assert server.stdout is not None and server.stdout.read(1) == b'.'
      yield str(client)
    finally:
      server.stdin.close()  # type: ignore[union-attr]


def _serve(address: str, client: str) -> None:
  """Forks a process for each connection, and answers with its exit status, until standard input ends."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    for name in _IMPORTED:
      __import__(name)
  ended, wake = socket.socketpair()
  for end in (ended, wake):
    end.setblocking(False)
  signal.set_wakeup_fd(wake.fileno())
  signal.signal(signal.SIGCHLD, lambda number, frame: None)
  connections: dict[socket.socket, int] = {}
  with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(address)
    listener.listen(100)
    os.write(1, b'.')
    os.close(1)
    while True:
      for ready in select.select([0, listener, ended, *connections], [], [])[0]:
        if ready == 0:
          for process in connections.values():
            os.kill(process, signal.SIGKILL)
          return
        if ready is listener:
          connection = listener.accept()[0]
          size, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
          request = connection.recv(int.from_bytes(size, 'big'), socket.MSG_WAITALL)
          process = os.fork()
          if not process:
            for other in (listener, ended, wake, *connections):
              other.close()
            connection.close()
            _become(request, descriptors, client)
          connections[connection] = process
          for number in descriptors:
            os.close(number)
        elif ready is ended:
          with contextlib.suppress(BlockingIOError):
            ended.recv(4096)
          _answer(connections)
        elif ready in connections:
          number = ready.recv(1)
          os.kill(connections[ready], number[0] if number else signal.SIGKILL)
          if not number:  # the requesting process ended
            os.waitpid(connections.pop(ready), 0)
            ready.close()


def _answer(connections: dict[socket.socket, int]) -> None:
  """Sends the exit statuses of the processes that ended."""
  for connection, process in list(connections.items()):
    ended, status = os.waitpid(process, os.WNOHANG)
    if ended:
      with contextlib.suppress(OSError):
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, 'big', signed=True))
      connection.close()
      del connections[connection]


def _become(request: bytes, descriptors: list[int], client: str) -> None:
  """Runs the requested module in a forked process, and ends like an interpreter."""
  signal.set_wakeup_fd(-1)
  signal.signal(signal.SIGCHLD, signal.SIG_DFL)
  signal.signal(signal.SIGINT, signal.default_int_handler)
  (_, module, *arguments), directory, environment, umask = json.loads(request)
  for number, descriptor in enumerate(descriptors):
    os.dup2(descriptor, number)
    os.close(descriptor)
  os.umask(umask)
  os.chdir(directory)
  for name in os.environ.keys() - environment.keys():
    del os.environ[name]
  os.environ.update(environment)
  tempfile.tempdir = None  # not the server's: TMPDIR may differ
  sys.executable = client
  sys.argv = ['-m', *arguments]
  sys.path[:1] = [directory, *filter(None, environment.get('PYTHONPATH', '').split(os.pathsep))]
  if environment.get('PYTHONWARNINGS') == 'ignore':
    warnings.simplefilter('ignore')
  sys.dont_write_bytecode = 'PYTHONDONTWRITEBYTECODE' in environment
  status = 0
  try:
    runpy.run_module(module, run_name='__main__', alter_sys=True)
  except SystemExit as e:
    status = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
    if status == 1 and not isinstance(e.code, int):
      print(e.code, file=sys.stderr)
  except KeyboardInterrupt:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
  except BaseException:
    traceback.print_exc()
    status = 1
  threading._shutdown()
  atexit._run_exitfuncs()
  for stream in (sys.stdout, sys.stderr):
    try:
      stream.flush()
    except OSError:
      status = status or 120
  os._exit(status & 255)


if __name__ == '__main__':
  _serve(*sys.argv[1:])
