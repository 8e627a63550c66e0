"""The catalog tells what the flags leave open, and a broken one is refused with its place."""

import pytest

from converters import errors
from export import assets_dir
from export import catalog as catalog_lib


@pytest.fixture(scope='module')
def catalog():
  return catalog_lib.Catalog()


@pytest.mark.parametrize('size', ['base', 'large', 'xlarge', 'xxlarge'])
def test_published_history(catalog, size):
  name = f'albert_en_{size}'
  assert catalog.source(name) == f'https://tfhub.dev/google/albert_{size}/3'
  releases = [catalog.encoder(name, version) for version in (1, 2, 3)]
  assert [r.interface for r in releases] == ['list', 'dict', 'dict']
  assert [r.preprocessor.path for r in releases] == [f'tensorflow/albert_en_preprocess/{v}' for v in (1, 1, 3)]
  assert [sorted(r.changes) for r in releases] == [[1], [1, 2], [1, 2, 3]]
  assert releases[1].path == f'tensorflow/{name}/2'
  assert catalog.newest_version(name) == 3


def test_flags_come_before_the_catalog(catalog):
  release = catalog.encoder('albert_en_large', 2, publisher='acme', interface='list', preprocessor='mine/2', changes=['A, B.'])
  assert (release.path, release.interface, release.preprocessor.path) == ('acme/albert_en_large/2', 'list', 'acme/mine/2')
  assert release.changes[2] == ['A, B.'] and release.changes[1] == ['Initial release.']


def test_a_model_that_the_catalog_lacks(catalog):
  assert catalog.source('albert_fr_base') is None and catalog.newest_version('albert_fr_base') is None
  release = catalog.encoder('albert_fr_base', 1)
  assert (release.interface, release.preprocessor.path) == ('dict', 'tensorflow/albert_en_preprocess/3')
  assert release.changes == {1: ['Initial release.']}


def test_a_new_version_of_a_known_model_needs_a_change(catalog):
  with pytest.raises(errors.UsageError, match='--version=4: the catalog has no such version of albert_en_large.*--change'):
    catalog.encoder('albert_en_large', 4)
  assert catalog.encoder('albert_en_large', 4, changes=['Retrained.']).changes[4] == ['Retrained.']


BROKEN = {
    'no YAML': (lambda t: t + '\n  - [', 'cannot read '),
    'no publisher': (lambda t: t.replace('publisher:', 'editor:'), 'publisher'),
    'unknown interface': (lambda t: t.replace('        interface: dict', '        interface: tuple', 1), r'interface: .*tuple'),
    'preprocessor without version': (lambda t: t.replace('albert_en_preprocess/1', 'albert_en_preprocess', 1), r'preprocessor: '),
}


@pytest.mark.parametrize('fault', BROKEN)
def test_broken_catalog_is_refused(tmp_path, fault):
  edit, message = BROKEN[fault]
  path = tmp_path / 'catalog.yaml'
  path.write_text(edit((assets_dir.PATH / 'catalog.yaml').read_text()))
  with pytest.raises(errors.CatalogError, match=f'{message}.*mend the catalog'):
    catalog_lib.Catalog(path)
