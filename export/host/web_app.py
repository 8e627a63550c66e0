"""Serves a release tree read-only over HTTP: archives for hub.load, and pages for people.

GET /tensorflow/albert_en_large/2?tf-hub-format=compressed returns the archive (tensorflow.org/hub/hosting). Without the
parameter, the address returns the model's card, and .../2/certificate returns its certificate.
"""

import re
from typing import Any

import markdown_it
import werkzeug.exceptions
import werkzeug.routing
from werkzeug.wrappers import Request
from werkzeug.wrappers import Response
from werkzeug.wsgi import wrap_file

from converters import cli
from converters import errors
from export import spec
from export.release import collection as collection_lib
from export.release import model_card
from export.store import tree as tree_lib
from export.ui import console
from export.ui import html_report
from export.ui import templates

_COMPRESSED = 'compressed'  # the only format of the protocol that needs no storage service
# Pages load no external content and run no scripts.
_HEADERS = {
  'Content-Security-Policy': "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
}
# Published versions are immutable.
_FOR_EVER = 'public, max-age=31536000, immutable'
_TYPES = {
  spec.ARCHIVE: 'application/gzip',
  spec.CARD: 'text/markdown',
  spec.RECORD: 'application/json',
  spec.SIGNATURE: 'application/json',
  spec.RECORD_SIGNATURE: 'application/json',
}


class _Name(werkzeug.routing.BaseConverter):
  regex = cli.NAME.pattern


class _Version(werkzeug.routing.BaseConverter):
  regex = cli.VERSION.pattern


class _Suffix(werkzeug.routing.BaseConverter):
  regex = '|'.join(re.escape(suffix) for suffix in sorted(spec.COMPANIONS, key=len, reverse=True))


class Host:
  """A WSGI application that serves a release tree."""

  def __init__(self, tree: tree_lib.Tree):
    self._tree = tree
    rule = werkzeug.routing.Rule
    # Rules match valid names and versions only, so other paths never reach the file system.
    self._urls = werkzeug.routing.Map(
      [
        rule('/', endpoint=self._index),
        rule('/<name:publisher>/collections/<name:name>/1', endpoint=self._collection),
        rule('/<name:publisher>/<name:name>', endpoint=self._model),
        rule('/<name:publisher>/<name:name>/<version:version>', endpoint=self._release),
        rule('/<name:publisher>/<name:name>/<version:version>/certificate', endpoint=self._certificate),
        rule('/<name:publisher>/<name:name>/<version:version><suffix:suffix>', endpoint=self._file),
      ],
      converters={'name': _Name, 'version': _Version, 'suffix': _Suffix},
      strict_slashes=False,
      merge_slashes=False,
    )
    self._pages = templates.pages()
    self._pages.filters['size'] = console.size
    # HTML in cards is escaped; `_card` shows the comments with metadata separately.
    self._markdown = markdown_it.MarkdownIt('commonmark', {'html': False}).enable('table')

  def __call__(self, environ: Any, start_response: Any) -> Any:
    """Answers a WSGI request."""
    request = Request(environ)
    try:
      if request.method not in ('GET', 'HEAD'):
        raise werkzeug.exceptions.MethodNotAllowed(
          ['GET', 'HEAD'], f'{request.method}: not allowed (this host is read-only); use GET.'
        )
      endpoint, arguments = self._urls.bind_to_environ(environ).match()
      response = endpoint(request, **arguments)
    except werkzeug.exceptions.HTTPException as e:
      response = self._fault(e)
    except errors.AlbertHubError as e:
      response = self._fault(werkzeug.exceptions.InternalServerError(str(e)))
    response.headers.extend(_HEADERS)
    return response(environ, start_response)

  def _fault(self, fault: werkzeug.exceptions.HTTPException) -> Response:
    response = fault.get_response()
    if 300 <= response.status_code < 400:
      return response
    page = self._page('fault.html', title=f'{fault.code} {fault.name}', message=fault.description)
    page.status_code = response.status_code
    if 'Allow' in response.headers:
      page.headers['Allow'] = response.headers['Allow']
    return page

  def _page(self, template: str, **facts: Any) -> Response:
    return Response(self._pages.get_template(template).render(**facts), content_type='text/html; charset=utf-8')

  def _index(self, request: Request) -> Response:
    models = [self._row(model) for model in self._tree.models()]
    return self._page(
      'index.html',
      title='Models',
      root=self._tree.root,
      host=request.host_url,
      models=models,
      collections=self._tree.collections(),
    )

  def _row(self, model: str) -> dict[str, Any]:
    """Returns the index row of a model, from its newest version's record."""
    versions = self._tree.versions(model)
    newest = f'{model}/{versions[-1]}'
    try:
      record = collection_lib.read_record(self._tree, newest)
      return {'name': model, 'versions': versions, 'kind': record.kind, 'size': record.archive.size}
    except errors.IntegrityError:  # one invalid record must not break the page
      return {'name': model, 'versions': versions, 'kind': 'no valid record', 'size': None}

  def _collection(self, request: Request, publisher: str, name: str) -> Response:
    path = f'{publisher}/collections/{name}/1'
    return self._card(request, self._read(path, spec.CARD), path, files=[], certificate=False)

  def _model(self, request: Request, publisher: str, name: str) -> Response:
    model = f'{publisher}/{name}'
    if not self._tree.versions(model):
      raise werkzeug.exceptions.NotFound(f'{model}: not found; see the list of models.')
    if 'tf-hub-format' in request.args:
      raise werkzeug.exceptions.NotFound(
        f'{model}: no version in the address; add one of {", ".join(map(str, self._tree.versions(model)))}.'
      )
    return self._page('index.html', title=model, root=None, host=None, models=[self._row(model)], collections=[])

  def _release(self, request: Request, publisher: str, name: str, version: str) -> Response:
    release = self._published(publisher, name, version)
    format_ = request.args.get('tf-hub-format')
    if format_ == _COMPRESSED:
      return self._file(request, publisher, name, version, spec.ARCHIVE)
    if format_ is not None:
      raise werkzeug.exceptions.BadRequest(
        f'tf-hub-format={format_}: not supported (this host serves {_COMPRESSED}); '
        'set TFHUB_MODEL_LOAD_FORMAT=COMPRESSED, which is the default.'
      )
    files = [(path, self._tree.size(path)) for path in self._tree.beside(release)]
    return self._card(request, self._read(release, spec.CARD), release, files, certificate=True)

  def _certificate(self, request: Request, publisher: str, name: str, version: str) -> Response:
    release = self._published(publisher, name, version)
    record = collection_lib.read_record(self._tree, release)
    return Response(html_report.page(record, f'/{release}'), content_type='text/html; charset=utf-8')

  def _file(self, request: Request, publisher: str, name: str, version: str, suffix: str) -> Response:
    path = self._published(publisher, name, version) + suffix
    try:
      file = self._tree.open(path)
    except FileNotFoundError:
      raise werkzeug.exceptions.NotFound(f'{path}: not found; see the model\'s list of files.') from None
    size = self._tree.size(path)
    response = Response(wrap_file(request.environ, file, 1 << 18), mimetype=_TYPES[suffix], direct_passthrough=True)
    response.content_length = size
    response.headers['Cache-Control'] = _FOR_EVER
    if suffix == spec.ARCHIVE:
      response.set_etag(collection_lib.read_record(self._tree, path.removesuffix(suffix)).archive.sha256)
      response.headers['Content-Disposition'] = f'attachment; filename={name}-{version}{suffix}'
    return response.make_conditional(request.environ, accept_ranges=True, complete_length=size)

  def _card(self, request: Request, card: str, path: str, files: list[tuple[str, int]], certificate: bool) -> Response:
    """Returns a card as a page, with its links to models redirected to this host."""
    card = card.replace(model_card.BASE_URL, request.host_url)
    metadata = re.findall(r'^<!-- ([a-z-]+): (.*) -->$', card, re.MULTILINE)
    body = self._markdown.render(re.sub(r'^<!-- .* -->\n', '', card, flags=re.MULTILINE))
    return self._page('card.html', title=path, metadata=metadata, body=body, files=files, certificate=certificate)

  def _published(self, publisher: str, name: str, version: str) -> str:
    model = f'{publisher}/{name}'
    versions = self._tree.versions(model)
    if int(version) not in versions:
      action = f'give version {", ".join(map(str, versions))}' if versions else 'see the list of models'
      raise werkzeug.exceptions.NotFound(f'{model}/{version}: not found; {action}.')
    return f'{model}/{version}'

  def _read(self, path: str, suffix: str) -> str:
    try:
      with self._tree.open(path + suffix) as file:
        return file.read().decode()
    except FileNotFoundError:
      raise werkzeug.exceptions.NotFound(f'{path}{suffix}: not found; see the list of models.') from None
