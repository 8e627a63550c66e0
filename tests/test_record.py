import json
import pathlib

import pytest

from converters import errors
from export import record as record_lib


@pytest.fixture(scope='module', params=['encoder', 'text', 'preprocessor'])
def content(request):
  path = request.getfixturevalue(f'{request.param}_path')
  return pathlib.Path(f'{path}.release.json').read_text()


def test_a_record_that_is_read_is_written_with_the_same_bytes(content):
  record = record_lib.parse(content, 'x')
  assert record_lib.text(record) == content and record.kind == json.loads(content)['kind']


def test_older_records_have_the_defaults(content):
  values = json.loads(content)
  values.pop('seq_length', None)
  values.pop('padding_free', None)
  del values['tokenization']
  record = record_lib.parse(json.dumps(values), 'x')
  assert getattr(record, 'seq_length', 128) == 128 and not getattr(record, 'padding_free', False)
  assert record.tokenization.setting.lower_case and not record.tokenization.setting.keep_accents


def test_a_record_without_a_field_or_with_another_type_is_refused(content):
  values = json.loads(content)
  for key in values.keys() - {'kind', 'padding_free', 'seq_length', 'tokenization'}:
    for change in ({}, {key: [[]]}):
      edited = {name: value for name, value in values.items() if name != key} | change
      with pytest.raises(
        errors.IntegrityError, match=rf'^x: not a release record \({values["kind"]}\.{key}.*publish the'
      ):
        record_lib.parse(json.dumps(edited), 'x')


def test_a_number_is_not_taken_from_a_text(content):
  values = json.loads(content)
  values['archive']['size'] = str(values['archive']['size'])
  with pytest.raises(errors.IntegrityError, match='archive.size: Input should be a valid integer'):
    record_lib.parse(json.dumps(values), 'x')


def test_the_reason_is_short():
  with pytest.raises(errors.IntegrityError) as caught:
    record_lib.parse(json.dumps({'kind': 'x' * 10000}), 'x')
  assert len(str(caught.value)) < 500
