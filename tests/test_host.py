"""The host serves the real tensorflow_hub client and browsers, and only published files."""

import gzip
import hashlib
import html.parser
import io
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
import tensorflow_text  # noqa: F401  (registers the preprocessor's operations)
import waitress.server
import werkzeug.test

from export.host import web_app
from export.store import tree

ENCODER, PREPROCESSOR = 'tensorflow/albert_en_demo', 'tensorflow/albert_en_demo_preprocess'


SECRET = 'what nobody published'


@pytest.fixture(scope='module')
def client(history, tmp_path_factory):
  root = tmp_path_factory.mktemp('host') / 'dist'
  root.symlink_to(history)
  root.with_name('secret').write_text(SECRET)
  return werkzeug.test.Client(web_app.Host(tree.at(root)))


@pytest.fixture(scope='module')
def address(history):
  """The address of a server on this machine, started by export.serve."""
  listener = socket.create_server(('127.0.0.1', 0))
  server = waitress.server.create_server(
    web_app.Host(tree.at(history)), sockets=[listener], threads=2, channel_timeout=60
  )
  thread = threading.Thread(target=server.run, daemon=True)
  thread.start()
  yield f'http://127.0.0.1:{listener.getsockname()[1]}'
  server.close()


def test_tensorflow_hub_loads_what_is_served(address, history, tmp_path, monkeypatch):
  monkeypatch.setenv('TFHUB_CACHE_DIR', str(tmp_path))
  preprocessor = hub.KerasLayer(f'{address}/{PREPROCESSOR}/3')
  encoder = hub.KerasLayer(f'{address}/{ENCODER}/3', trainable=True)
  outputs = encoder(preprocessor(tf.constant(['The ferry was late.'])))
  expected = hub.load(f'{history}/{ENCODER}/3')(
    hub.load(f'{history}/{PREPROCESSOR}/3')(tf.constant(['The ferry was late.']))
  )
  assert np.array_equal(outputs['pooled_output'], expected['pooled_output'])
  assert len(encoder.trainable_variables) == 25 and hasattr(hub.load(f'{address}/{ENCODER}/3'), 'mlm')
  pooled_output, _ = hub.load(f'{address}/{ENCODER}/1')([tf.ones([1, 3], tf.int32)] * 3)
  assert pooled_output.shape == (1, 16)
  with pytest.raises(urllib.error.HTTPError, match='404'):
    hub.load(f'{address}/{ENCODER}/5')


def test_the_archive(client, history):
  response = client.get(f'/{ENCODER}/2?tf-hub-format=compressed')
  assert response.status_code == 200 and response.mimetype == 'application/gzip'
  assert response.data == (history / ENCODER / '2.tar.gz').read_bytes() and response.content_length == len(
    response.data
  )
  with tarfile.open(fileobj=io.BytesIO(gzip.decompress(response.data))) as tar:
    assert 'saved_model.pb' in tar.getnames()
  assert (
    'immutable' in response.headers['Cache-Control']
    and response.headers['ETag'].strip('"') == hashlib.sha256(response.data).hexdigest()
  )
  again = client.get(f'/{ENCODER}/2?tf-hub-format=compressed', headers={'If-None-Match': response.headers['ETag']})
  assert again.status_code == 304 and again.data == b''
  part = client.get(f'/{ENCODER}/2.tar.gz', headers={'Range': 'bytes=10-19'})
  assert part.status_code == 206 and part.data == response.data[10:20]
  assert client.get(f'/{ENCODER}/2.tar.gz', headers={'Range': 'bytes=99999999-'}).status_code == 416
  head = client.head(f'/{ENCODER}/2?tf-hub-format=compressed')
  assert head.status_code == 200 and head.data == b'' and head.content_length == len(response.data)


class _Links(html.parser.HTMLParser):
  def __init__(self, page):
    super().__init__()
    self.links = []
    self.feed(page)

  def handle_starttag(self, tag, attributes):
    assert tag not in ('script', 'img', 'iframe', 'link')
    if tag == 'a':
      self.links.append(dict(attributes)['href'])


def test_every_page_can_be_reached_and_every_link_leads_somewhere(client, history):
  pending, seen = ['/'], {}
  while pending:
    path = pending.pop()
    if path in seen:
      continue
    response = client.get(path)
    assert response.status_code == 200, path
    assert (
      "default-src 'none'" in response.headers['Content-Security-Policy']
      and response.headers['X-Content-Type-Options'] == 'nosniff'
    )
    seen[path] = response.text if response.mimetype == 'text/html' else response.data
    if response.mimetype == 'text/html':
      links = [link.removeprefix('http://localhost') for link in _Links(response.text).links]
      assert all(link.startswith(('/', 'https://arxiv.org/')) for link in links), links
      pending += [link for link in links if link.startswith('/')]
  for model in (ENCODER, PREPROCESSOR, f'{ENCODER}_text'):
    for version in (1, 2, 3, 4) if model != f'{ENCODER}_text' else (2, 3, 4):
      for page in (
        f'/{model}/{version}',
        f'/{model}/{version}/certificate',
        f'/{model}/{version}.release.json',
        f'/{model}/{version}.tar.gz',
      ):
        assert page in seen
  assert f'/{ENCODER}/3.sig' in seen and f'/{ENCODER}/2.sig' not in seen
  assert '/tensorflow/collections/albert/1' in seen
  card = seen[f'/{ENCODER}/3']
  for word in (
    '<h1>Module tensorflow/albert_en_demo/3</h1>',
    '<span class="soft">task</span> text-embedding',
    '<td><code>mlm_logits</code></td>',
    f'hub.KerasLayer(&quot;http://localhost/{PREPROCESSOR}/3&quot;)',
  ):
    assert word in card, word
  assert '&lt;!--' not in card and '<!--' not in card and 'tfhub.dev' not in card
  assert (
    'Float32 error after each layer' in seen[f'/{ENCODER}/3/certificate']
    and 'Tokens' in seen[f'/{PREPROCESSOR}/3/certificate']
  )
  assert 'Text to vectors' in seen[f'/{ENCODER}_text/3/certificate'] and f'/{ENCODER}_text/3.sig' in seen
  assert json.loads(seen[f'/{ENCODER}/3.release.json'])['release'] == f'{ENCODER}/3'


MISSING = [
  '/nothing',
  f'/{ENCODER}/9',
  f'/{ENCODER}/0',
  f'/{ENCODER}/02',
  f'/{ENCODER}/2.0',
  f'/{ENCODER}/-1',
  f'/{ENCODER}/latest',
  f'/{ENCODER}/2.pem',
  f'/{ENCODER}/9.tar.gz',
  f'/{ENCODER}/9?tf-hub-format=compressed',
  f'/{ENCODER}?tf-hub-format=compressed',
  '/tensorflow/nothing/1',
  '/tensorflow/nothing',
  f'/{ENCODER}/2/saved_model.pb',
  f'/{ENCODER}/2/certificate/x',
  f'/{ENCODER}/9/certificate',
  f'/{ENCODER}/2.sig',
  '/tensorflow/collections/other/1',
  '/../secret',
  '/%2e%2e/secret',
  '/tensorflow/..%2f..%2fsecret/1',
  '/tensorflow/%2e%2e/1',
  '/..%5csecret',
  f'/{ENCODER}/2%00',
  '/%00',
  f'/{ENCODER}/2.tar.gz%00.md',
  f'//{ENCODER}/2',
  f'/tensorflow//{ENCODER}/2',
  '/tensorflow/secret/1',
  '/.hidden/model/1',
  '/TENSORFLOW/albert_en_demo/2',
  f'/{ENCODER}/' + '1' * 5000,
  '/' + 'a/' * 2000,
  f'/{ENCODER}/２',
]


@pytest.mark.parametrize('path', MISSING, ids=[repr(path[:60]) for path in MISSING])
def test_what_is_not_published_is_not_found(client, path):
  response = client.get(path)
  assert response.status_code == 404 and response.mimetype == 'text/html' and 'Not Found' in response.text
  assert SECRET not in response.text and 'Traceback' not in response.text


def test_a_fault_says_what_there_is(client):
  assert 'tensorflow/albert_en_demo/9: not found; give version 1, 2, 3, 4.' in client.get(f'/{ENCODER}/9').text
  other = client.get(f'/{ENCODER}/2?tf-hub-format=uncompressed')
  assert (
    other.status_code == 400 and 'tf-hub-format=uncompressed: not supported (this host serves compressed)' in other.text
  )
  assert '&lt;b&gt;' in client.get(f'/{ENCODER}/2?tf-hub-format=<b>').text


@pytest.mark.parametrize('method', ['POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'])
def test_it_only_reads(client, method):
  response = client.open(f'/{ENCODER}/2', method=method)
  assert response.status_code == 405 and response.headers['Allow'] == 'GET, HEAD'


@pytest.fixture
def own(history, tmp_path):
  """A tree that a test may damage, and a client of its host."""
  root = pathlib.Path(shutil.copytree(history, tmp_path / 'dist'))
  return root, werkzeug.test.Client(web_app.Host(tree.at(root)))


def test_a_version_that_is_half_there_is_not_served(own):
  root, client = own
  shutil.rmtree(root / ENCODER / '3')
  for path in (f'/{ENCODER}/3', f'/{ENCODER}/3.tar.gz', f'/{ENCODER}/3?tf-hub-format=compressed'):
    assert client.get(path).status_code == 404
  assert 'give version 1, 2, 4.' in client.get(f'/{ENCODER}/3').text


def test_a_version_that_is_published_meanwhile_is_served(own):
  root, client = own
  shutil.move(root / ENCODER / '3', root / 'aside')
  assert client.get(f'/{ENCODER}/3').status_code == 404
  shutil.move(root / 'aside', root / ENCODER / '3')
  assert client.get(f'/{ENCODER}/3').status_code == 200


def test_a_broken_record_takes_its_own_pages_only(own):
  root, client = own
  (root / f'{ENCODER}/4.release.json').write_text('{}')
  (root / f'{ENCODER}/2.md').unlink()
  assert 'no valid record' in client.get('/').text and client.get(f'/{PREPROCESSOR}/3').status_code == 200
  response = client.get(f'/{ENCODER}/4/certificate')
  assert response.status_code == 500 and '4.release.json in' in response.text and 'Traceback' not in response.text
  assert (
    client.get(f'/{ENCODER}/2').status_code == 404
    and client.get(f'/{ENCODER}/2?tf-hub-format=compressed').status_code == 200
  )


def test_html_in_a_card_is_text(own):
  root, client = own
  path = root / f'{ENCODER}/3.md'
  path.write_text(
    path.read_text() + '\n<script>alert(1)</script>\n<!-- task: <b>bold</b> -->\n[link](javascript:alert(1))\n'
  )
  page = client.get(f'/{ENCODER}/3').text
  assert '<script>' not in page and '<b>' not in page and 'href="javascript' not in page


def _ask(address, data):
  place = address.removeprefix('http://').split(':')
  connection = socket.create_connection((place[0], int(place[1])), timeout=30)
  connection.sendall(data)
  return connection


def test_half_requests_and_half_read_answers_hold_nobody_up(address, history):
  archive = f'GET /{ENCODER}/3.tar.gz HTTP/1.1\r\nHost: x\r\n\r\n'.encode()
  # More requests of each kind than the server has threads.
  slow = [
    _ask(address, data)
    for data in (b'', b'GET', b'GET / HTTP/1.1\r\nHost:', b'POST / HTTP/1.1\r\nContent-Length: 99\r\n\r\nhalf') * 3
  ]
  slow += [_ask(address, archive) for _ in range(6)]
  with urllib.request.urlopen(f'{address}/{ENCODER}/3?tf-hub-format=compressed', timeout=30) as response:
    assert response.read() == (history / ENCODER / '3.tar.gz').read_bytes()
  assert slow[-1].recv(12) == b'HTTP/1.1 200'
  for connection in slow:
    connection.close()
  assert urllib.request.urlopen(f'{address}/', timeout=30).status == 200


@pytest.mark.parametrize(
  'data, status',
  [
    (b'nonsense\r\n\r\n', b'400'),
    (b'GET /' + b'a' * 300_000 + b' HTTP/1.1\r\n\r\n', b'431'),
    (b'GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n', b'400'),
  ],
  ids=['nonsense', 'long', 'length'],
)
def test_what_is_no_request_is_told_so(address, data, status):
  connection = _ask(address, data)
  assert connection.recv(100).split()[1] == status
  connection.close()


def _serve(python_module, *flags):
  return subprocess.Popen(
    python_module('export.serve', *flags),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | {'PYTHONPATH': str(pathlib.Path(__file__).parents[1]), 'PYTHONUNBUFFERED': '1'},
  )


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_serve_on_the_command_line(python_module, history, number):
  process = _serve(python_module, f'--export_root={history}', '--port=0')
  line = process.stdout.readline()
  assert line.startswith(f'3 models in {history} at http://127.0.0.1:') and line.endswith('/ until interrupted\n')
  address = line.split(' at ')[1].split()[0]
  assert process.stdout.readline() == f'  {address}{ENCODER}/4\n'
  with urllib.request.urlopen(f'{address}{ENCODER}/2?tf-hub-format=compressed') as response:
    assert response.read() == (history / ENCODER / '2.tar.gz').read_bytes()
  process.send_signal(number)
  stdout, stderr = process.communicate()
  assert process.returncode == 0 and stderr == '' and stdout.endswith('stopped\n')


def test_serve_refuses_what_it_cannot_serve(python_module, history, tmp_path):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
    for flags, status, word in (
      (['--export_root=nothing'], 1, 'nothing: no published model'),
      (['--port=-1'], 2, 'port'),
      (['--port=x'], 2, 'port'),
      (['--export_root='], 2, '--export_root: empty'),
      ([f'--export_root={history}', f'--port={port}'], 1, f'127.0.0.1:{port}: cannot listen'),
      ([f'--export_root={history}', '--host=no.such.host.invalid'], 1, 'no.such.host.invalid:8501: cannot listen'),
    ):
      process = _serve(python_module, *flags)
      _, stderr = process.communicate()
      assert (
        process.returncode == status and stderr.startswith('error: ') and stderr.count('\n') == 1 and word in stderr
      ), stderr
