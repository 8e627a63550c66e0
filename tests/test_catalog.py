"""The catalog completes the flags, an invalid one is refused by line, and a bump adds only its lines."""

import difflib

import pytest

from converters import errors
from export.release import catalog as catalog_lib

TEXT = catalog_lib.PATH.read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def catalog():
  return catalog_lib.Catalog()


@pytest.mark.parametrize('size', ['base', 'large', 'xlarge', 'xxlarge'])
def test_published_history(catalog, size):
  name = f'albert_en_{size}'
  assert catalog.source(name) == f'https://tfhub.dev/google/albert_{size}/3'
  releases = [catalog.encoder(name, version) for version in (1, 2, 3, 4)]
  assert [r.interface for r in releases] == ['list', 'dict', 'dict', 'dict']
  assert [r.preprocessor.path for r in releases] == [f'tensorflow/albert_en_preprocess/{v}' for v in (1, 1, 3, 4)]
  assert [sorted(r.changes) for r in releases] == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]
  assert [set(r.breaking) for r in releases] == [set(), {2}, {2}, {2}]
  assert [set(r.preprocessor.breaking) for r in releases] == [set(), set(), set(), {4}]
  assert releases[1].path == f'tensorflow/{name}/2'
  assert catalog.newest_version(name) == 4


def test_it_holds_the_collection_the_preprocessors_and_the_demo(catalog):
  assert (catalog.publisher, catalog.collection.name) == ('tensorflow', 'albert')
  for name in ('albert_en_preprocess', 'albert_en_demo_preprocess'):
    assert [p for p in catalog.preprocessors if p.startswith(name + '/')] == [
      f'{name}/{version}' for version in (1, 2, 3, 4)
    ]
  assert catalog.newest_version('albert_en_demo') == 4 and catalog.source('albert_en_demo') is None


def test_flags_come_before_the_catalog(catalog):
  release = catalog.encoder(
    'albert_en_large', 2, publisher='acme', interface='list', preprocessor='mine/2', changes=['A, B.']
  )
  assert (release.path, release.interface, release.preprocessor.path) == (
    'acme/albert_en_large/2',
    'list',
    'acme/mine/2',
  )
  assert release.changes[2] == ['A, B.'] and release.changes[1] == ['Initial release.']


def test_a_model_that_the_catalog_lacks(catalog):
  assert (
    catalog.source('albert_en_preprocess') == 'https://tfhub.dev/google/albert_base/3'
  )  # of the first encoder that names it
  assert catalog.source('albert_en_demo_preprocess') is None and catalog.newest_version('albert_en_preprocess') == 4
  assert catalog.source('albert_fr_base') is None and catalog.newest_version('albert_fr_base') is None
  release = catalog.encoder('albert_fr_base', 1)
  assert (release.interface, release.preprocessor.path) == ('dict', 'tensorflow/albert_fr_base_preprocess/4')
  assert release.changes == {1: ['Initial release.']}


def test_a_version_is_in_the_catalog_or_the_next(catalog):
  with pytest.raises(
    errors.UsageError, match='option version=5: not a version of albert_en_large in the catalog.*option change'
  ):
    catalog.encoder('albert_en_large', 5)
  assert catalog.encoder('albert_en_large', 5, changes=['Retrained.']).changes[5] == ['Retrained.']
  with pytest.raises(
    errors.UsageError,
    match='option version=6: neither .*the newest version of albert_en_large is 4.; give option version=5',
  ):
    catalog.encoder('albert_en_large', 6, changes=['Retrained.'])


# Old text, new text, text on the line that the error must name, and words of the error.
BROKEN = {
  'no YAML': ('albert_base/3', 'albert_base/3: 3', 'albert_base/3: 3', 'mapping values are not allowed'),
  'no publisher': ('publisher: tensorflow', 'editor: tensorflow', '# What is published', 'publisher'),
  'no collection': ('collection:', 'collections:', '# What is published', 'collection'),
  'unknown interface': ('interface: list', 'interface: tuple', 'interface: tuple', "'tuple' is not one of"),
  'preprocessor without version': (
    'albert_en_preprocess/1',
    'albert_en_preprocess',
    'preprocessor: albert_en_preprocess\n',
    'preprocessor: ',
  ),
  'unknown preprocessor': (
    'albert_en_preprocess/1',
    'albert_en_preprocess/9',
    'albert_en_preprocess/9',
    'no preprocessor albert_en_preprocess/9',
  ),
  'no language': ('    language: en', '', '  albert_en_base:', 'language'),
  'unknown key': ('    language: en', '    language: en\n    tongue: en', 'tongue', "'tongue' was unexpected"),
  'a model twice': ('  albert_en_large:', '  albert_en_base: # again', '# again', 'duplicate key "albert_en_base"'),
  'a version twice': ('      2: *encoder_2', '      1: *encoder_2', '1: *encoder_2', 'duplicate key "1"'),
  'a gap': (
    '      2: *encoder_2\n      3: *encoder_3',
    '      3: *encoder_3 # here',
    '# here',
    'version 3 instead of version 2',
  ),
  'no version 1': (
    '      1: *encoder_1\n      2: *encoder_2',
    '      2: *encoder_2 # here',
    '# here',
    'version 2 instead of version 1',
  ),
  'another order': (
    '      1: *encoder_1\n      2: *encoder_2',
    '      2: *encoder_2\n      1: *encoder_1',
    '2: *encoder_2',
    'version 2 instead of version 1',
  ),
  'version 2.0': ('      2: *encoder_2', '      2.0: *encoder_2', '2.0', "'2.0' does not match"),
  'version "2"': ('      2: *encoder_2', '      "2": *encoder_2', '"2"', "version '2' is not a number"),
  'version 0': ('      2: *encoder_2', '      0: *encoder_2', '0: *encoder_2', "'0' does not match"),
  'a preprocessor nobody can make': (
    '      4: *preprocessor_4',
    '      4: *preprocessor_4\n      5: *preprocessor_4',
    '5: *preprocessor_4',
    'versions 1, 2, 3, 4 only',
  ),
  'one name for two': (
    '  albert_en_demo_preprocess:',
    '  albert_en_demo: # too',
    '# too',
    'an encoder has the same name',
  ),
  'changes that are none': ('          - Initial release.', '          - ""', '- ""', 'changes'),
  'a change of two lines': ('          - Initial release.', '          - "a\\nb"', '"a\\nb"', 'changes'),
  'a name with a line feed': ('publisher: tensorflow', 'publisher: "tensorflow\\n"', 'publisher:', 'does not match'),
  'a preprocessor with a line feed': (
    'albert_en_preprocess/1',
    '"albert_en_preprocess/1\\n"',
    'preprocess/1',
    'does not match',
  ),
  'an unknown alias': ('*encoder_2', '*encoder_9', '*encoder_9', 'undefined alias'),
}


@pytest.mark.parametrize('fault', BROKEN)
def test_broken_catalog_is_refused_with_the_line(tmp_path, fault):
  old, new, place, message = BROKEN[fault]
  broken = TEXT.replace(old, new, 1)
  assert broken != TEXT
  path = tmp_path / 'catalog.yaml'
  path.write_text(broken)
  line = next(number for number, text in enumerate(broken.splitlines(keepends=True), start=1) if place in text)
  with pytest.raises(errors.CatalogError) as raised:
    catalog_lib.Catalog(path)
  text = str(raised.value)
  assert text.startswith(f'{path}:{line}: ') and message in text and text.endswith('correct the catalog'), text


@pytest.mark.parametrize(
  'content', ['', '- 1', '1', 'x: &a [*a]', 'x: \x07', '[' * 5000, '? [1, 2]\n: 3', 'x: !!python/object:os.system y']
)
def test_what_is_no_catalog_is_one_line(tmp_path, content):
  path = tmp_path / 'catalog.yaml'
  path.write_text(content)
  with pytest.raises(errors.CatalogError, match=f'^{path}'):
    catalog_lib.Catalog(path)


def test_a_missing_catalog_names_the_option(tmp_path):
  with pytest.raises(errors.CatalogError, match='cannot be read .*option catalog'):
    catalog_lib.Catalog(tmp_path)


ENTRY = {
  'interface': 'dict',
  'preprocessor': 'albert_en_preprocess/3',
  'changes': ['One: with "signs", # and more.', 'yes', 'x' * 300, 'ünï'],
}


@pytest.mark.parametrize('name', ['albert_en_base', 'albert_en_large', 'albert_en_xxlarge', 'albert_en_demo'])
def test_a_new_version_adds_lines_and_changes_none(tmp_path, name):
  path = tmp_path / 'catalog.yaml'
  path.write_text(TEXT)
  catalog = catalog_lib.Catalog(path)
  version, text = catalog.with_version(name, ENTRY)
  catalog.write(text)
  assert version == 5
  changed = [line for line in difflib.ndiff(TEXT.splitlines(), text.splitlines()) if line[0] in '+-?']
  assert len(changed) == 8 and all(line.startswith('+ ') for line in changed)
  again = catalog_lib.Catalog(path)
  assert again.entry(name, 5) == ENTRY and again.newest_version(name) == 5
  assert [again.newest_version(n) for n in again.encoders if n != name] == [4] * 4
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
  'edit',
  [
    lambda t: t.replace(
      '    versions:\n      1: *encoder_1\n      2: *encoder_2\n      3: *encoder_3\n      4: *encoder_4\n',
      '    versions: {1: *encoder_1, 2: *encoder_2, 3: *encoder_3, 4: *encoder_4}\n',
      1,
    ),
    lambda t: t.replace('    versions:\n      1: &encoder_1', '    versions: &all\n      1: &encoder_1', 1).replace(
      '    versions:\n      1: *encoder_1\n      2: *encoder_2\n      3: *encoder_3\n      4: *encoder_4\n',
      '    versions: *all\n',
      1,
    ),
  ],
  ids=['in one line', 'shared'],
)
def test_versions_that_cannot_be_added_to_by_themselves(tmp_path, edit):
  path = tmp_path / 'catalog.yaml'
  path.write_text(edit(TEXT))
  assert path.read_text() != TEXT
  with pytest.raises(errors.CatalogError, match='no version can be added to albert_en_large'):
    catalog_lib.Catalog(path).with_version('albert_en_large', ENTRY)


def test_a_catalog_without_a_last_line_feed(tmp_path):
  path = tmp_path / 'catalog.yaml'
  encoders, preprocessors = (
    TEXT[TEXT.index('encoders:') : TEXT.index('preprocessors:')],
    TEXT[TEXT.index('preprocessors:') :],
  )
  path.write_text(TEXT[: TEXT.index('encoders:')] + preprocessors + encoders.rstrip())
  assert catalog_lib.Catalog(path).with_version('albert_en_demo', ENTRY)[0] == 5


@pytest.mark.parametrize('mode', [0o640, 0o664])
def test_a_catalog_keeps_its_mode(tmp_path, mode):
  path = tmp_path / 'catalog.yaml'
  path.write_text(TEXT)
  path.chmod(mode)
  catalog_lib.Catalog(path).write(TEXT + '\n')
  assert path.read_text() == TEXT + '\n' and path.stat().st_mode & 0o777 == mode


def test_a_catalog_that_cannot_be_written_stays(tmp_path, monkeypatch):
  path = tmp_path / 'catalog.yaml'
  path.write_text(TEXT)
  catalog = catalog_lib.Catalog(path)

  def full(self, target):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr('pathlib.Path.replace', full)
  with pytest.raises(errors.CatalogError, match='cannot be written .*No space left'):
    catalog.write('other')
  assert path.read_text() == TEXT and list(tmp_path.iterdir()) == [path]


def test_a_preprocessor_on_its_own_is_what_its_encoder_names(catalog):
  for version in (1, 3, 4):
    assert (
      catalog.preprocessor('albert_en_preprocess', version) == catalog.encoder('albert_en_base', version).preprocessor
    )
  changed = catalog.preprocessor('albert_en_preprocess', 3, publisher='acme', changes=['Other.'])
  assert (
    changed.path == 'acme/albert_en_preprocess/3' and changed.changes[3] == ['Other.'] and len(changed.changes) == 3
  )
  with pytest.raises(
    errors.UsageError, match='option version=9: not in the catalog; give a version of albert_en_preprocess .1, 2, 3, 4.'
  ):
    catalog.preprocessor('albert_en_preprocess', 9)


def test_text_has_the_history_of_its_two_parts(catalog):
  text = catalog.text(catalog.encoder('albert_en_large', 4, publisher='acme'))
  assert (text.path, text.breaking, sorted(text.changes)) == ('acme/albert_en_large_text/4', {4}, [2, 3, 4])
  assert text.changes[2] == [
    'The encoder `acme/albert_en_large/2` with the preprocessor `acme/albert_en_preprocess/1`.'
  ]
  later = catalog.text(catalog.encoder('albert_en_large', 5, changes=['More.'], preprocessor='albert_en_preprocess/4'))
  assert later.breaking == {4} and later.changes[5][0].startswith('The encoder `tensorflow/albert_en_large/5` ')
  assert catalog.text(catalog.encoder('albert_en_large', 3)).breaking == set()
  assert catalog.text(catalog.encoder('albert_en_mine', 7)).changes.keys() == {7}


def test_text_under_a_name_that_the_catalog_has(tmp_path):
  path = tmp_path / 'catalog.yaml'
  path.write_text(TEXT.replace('albert_en_large:', 'albert_en_base_text:', 1))
  with pytest.raises(errors.UsageError, match='option with_text: the catalog has another model albert_en_base_text'):
    edited = catalog_lib.Catalog(path)
    edited.text(edited.encoder('albert_en_base', 4))


def test_a_model_that_the_catalog_lacks_has_no_language(catalog):
  release = catalog.encoder('albert_hi_base', 1)
  assert release.language is None and release.preprocessor.language is None and release.dataset == ()
  assert release.preprocessor.path == 'tensorflow/albert_hi_base_preprocess/4'
  assert catalog.encoder('albert_zzz', 1, language='hi').language == 'hi'
  # The name says it, as those of the catalog do.
  named = catalog.encoder('albert_en_tiny', 1)
  assert (named.language, named.preprocessor.name) == ('en', 'albert_en_preprocess')
  assert catalog.encoder('albert_any', 1, language='en').preprocessor.name == 'albert_en_preprocess'
  with pytest.raises(
    errors.UsageError, match='option language=fr: the language of albert_en_large is en in the catalog'
  ):
    catalog.encoder('albert_en_large', 2, language='fr')
