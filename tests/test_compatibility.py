"""A new version is compared with the previous one: breaking changes are refused, or stated in the card."""

import dataclasses
import json
import pathlib

import pytest

from converters import errors
from export.release import compatibility

ENCODER, PREPROCESSOR, TEXT = (
  'tensorflow/albert_en_demo',
  'tensorflow/albert_en_demo_preprocess',
  'tensorflow/albert_en_demo_text',
)
Trace = compatibility.Trace


def _record(path):
  return json.loads(path.with_name(f'{path.name}.release.json').read_text())


def test_interface_of_an_encoder(history):
  one, three = (compatibility.describe(history / ENCODER / version) for version in '13')
  assert list(three.calls) == ['', 'padding_free', 'mlm', 'sop'] and list(one.calls) == ['']
  assert three.trainable == {'': 25, 'padding_free': 25, 'mlm': 30, 'sop': 27}
  assert three.assets['sp_model_file'][0] == '30k-clean.model'
  inputs = dict.fromkeys(('input_word_ids', 'input_mask', 'input_type_ids'), 'int32 [?, ?]')
  for trace, training in zip(three.calls['mlm'], ('False', 'True'), strict=True):
    assert trace.inputs == inputs | {'masked_lm_positions': 'int32 [?, ?]', '(argument 1)': training}
    assert (
      trace.outputs['mlm_logits'] == 'float32 [?, ?, 200]'
      and trace.outputs['encoder_outputs[2]'] == 'float32 [?, ?, 16]'
    )
  assert one.calls[''][0].outputs == {'[0]': 'float32 [?, 16]', '[1]': 'float32 [?, ?, 16]'}
  assert three.signatures['serving_default'].inputs == inputs


def test_interface_of_a_preprocessor(history):
  one, three = (compatibility.describe(history / PREPROCESSOR / version) for version in '13')
  assert sorted(three.calls) == ['', 'bert_pack_inputs', 'tokenize', 'tokenize.get_special_tokens_dict']
  assert three.calls['tokenize'][0].outputs == {'': 'ragged int32 [?, ?] of ragged rank 1'}
  assert len(three.calls['bert_pack_inputs']) == 6
  assert compatibility.breaking_differences(one, three) == []
  assert compatibility.breaking_differences(three, one) == [
    'tokenize.get_special_tokens_dict does not return vocab_size any more'
  ]


def test_the_catalogs_history_in_one_tree(history):
  breaking = [_record(history / ENCODER / version)['breaking'] for version in '1234']
  assert breaking[0] == breaking[2] == breaking[3] == []
  assert breaking[1] == [
    'the model takes input_mask, input_type_ids, input_word_ids instead of [0], [1], [2]',
    'the model does not return [0], [1] any more',
  ]
  of_preprocessors = [_record(history / PREPROCESSOR / version)['breaking'] for version in '1234']
  assert of_preprocessors[:3] == [[], [], []]
  assert len(of_preprocessors[3]) == 1 and of_preprocessors[3][0].startswith('the ids of ')
  card = (history / PREPROCESSOR / '4.md').read_text()
  assert '### Version 4 (breaking)' in card and f'* Breaking: {of_preprocessors[3][0]}.' in card
  cards = [(history / ENCODER / f'{version}.md').read_text() for version in '1234']
  assert '(breaking)' not in cards[0]
  for card in cards[1:]:
    assert '### Version 2 (breaking)' in card and '(breaking)' not in card.replace('### Version 2 (breaking)', '')
  for line in breaking[1]:
    assert f'* Breaking: {line}.' in cards[1]


def test_the_history_of_a_model_from_text_to_vectors(history):
  breaking = [_record(history / TEXT / version)['breaking'] for version in '234']
  assert breaking[:2] == [[], []]
  # Version 4 has another preprocessor.
  assert [line.split()[0] for line in breaking[2]] == [
    'default',
    'layer_0',
    'layer_1',
    'layer_2',
    'pooled_output',
    'sequence_output',
  ]


def _link(history, model, release):
  """Links version 3 of a model into the tree that `release` publishes to."""
  (release.root / model).mkdir(parents=True)
  for path in (history / model).glob('3*'):
    (release.root / model / path.name).symlink_to(path)


def test_a_model_of_another_kind_is_refused(history, module, release):
  _link(history, TEXT, release)
  with pytest.raises(
    errors.CompatibilityError,
    match='albert_en_demo_text/4: breaks users of tensorflow/albert_en_demo_text/3 .the model takes ',
  ):
    release(module, name='albert_en_demo_text', version=4)


@pytest.mark.slow
def test_a_model_of_another_kind_is_said_to_break(history, module, release):
  _link(history, TEXT, release)
  _, outcome = release(module, name='albert_en_demo_text', version=4, breaking=True)
  assert outcome.breaking[-1] == 'it is of kind encoder instead of text'


CALL = Trace(
  {'ids': 'int32 [?, ?]', '(argument 1)': 'False'}, {'pooled': 'float32 [?, 16]', 'sequence': 'float32 [?, ?, 16]'}
)
OLD = compatibility.Interface(
  {'': (CALL, dataclasses.replace(CALL, inputs=dict(CALL.inputs, **{'(argument 1)': 'True'}))), 'mlm': (CALL,)},
  {'serving_default': Trace({'ids': 'int32 [?, ?]'}, {'default': 'float32 [?, 16]'})},
  {'sp_model_file': ('a.model', '12')},
  {'': 25, 'mlm': 30},
)


def _with(field, **changes):
  return dataclasses.replace(OLD, **{field: dict(getattr(OLD, field), **changes)})


def _call(inputs=None, outputs=None):
  changed = Trace(dict(CALL.inputs, **(inputs or {})), dict(CALL.outputs, **(outputs or {})))
  return _with('calls', mlm=(changed,))


COMPATIBLE = {
  'the same': OLD,
  'another output': _call(outputs={'more': 'float32 []'}),
  'another subobject': _with('calls', sop=(CALL,)),
  'another signature': _with('signatures', other=OLD.signatures['serving_default']),
  'another asset': _with('assets', vocab=('b', '34')),
  'another trace': _with('calls', mlm=(CALL, Trace({'x': 'int32 []'}, {}))),
  'a size that was not known': _call(outputs={'pooled': 'float32 [2, 16]'}),
}
BREAKING = {
  'renamed input': (
    _with('calls', mlm=(Trace({'word_ids': 'int32 [?, ?]', '(argument 1)': 'False'}, CALL.outputs),)),
    'mlm takes word_ids instead of ids',
  ),
  'one more input': (_call({'more': 'int32 [?]'}), 'mlm takes more instead of nothing'),
  'dtype of an input': (_call({'ids': 'int64 [?, ?]'}), 'input ids of mlm is int64 [?, ?] instead of int32 [?, ?]'),
  'rank of an input': (_call({'ids': 'int32 [?]'}), 'input ids of mlm is int32 [?] instead of int32 [?, ?]'),
  'an input of one size only': (_call({'ids': 'int32 [?, 128]'}), 'input ids of mlm is int32 [?, 128]'),
  'dtype of an output': (_call(outputs={'pooled': 'float16 [?, 16]'}), 'output pooled of mlm is float16 [?, 16]'),
  'rank of an output': (_call(outputs={'pooled': 'float32 [16]'}), 'output pooled of mlm is float32 [16]'),
  'size of an output': (_call(outputs={'pooled': 'float32 [?, 17]'}), 'output pooled of mlm is float32 [?, 17]'),
  'unknown size of an output': (_call(outputs={'pooled': 'float32 [?, ?]'}), 'output pooled of mlm is float32 [?, ?]'),
  'no output': (
    _with('calls', mlm=(dataclasses.replace(CALL, outputs={}),)),
    'mlm does not return pooled, sequence any more',
  ),
  'no training mode': (
    dataclasses.replace(OLD, calls=dict(OLD.calls, **{'': (CALL,)})),
    'input (argument 1) of the model is False instead of True',
  ),
  'no head': (dataclasses.replace(OLD, calls={'': OLD.calls['']}), 'mlm is gone'),
  'no signature': (dataclasses.replace(OLD, signatures={}), 'signature serving_default is gone'),
  'signature': (_with('signatures', serving_default=CALL), 'signature serving_default'),
  'no asset': (dataclasses.replace(OLD, assets={}), 'asset sp_model_file is gone'),
  'name of an asset': (
    _with('assets', sp_model_file=('b.model', '12')),
    'asset sp_model_file is b.model instead of a.model',
  ),
  'content of an asset': (_with('assets', sp_model_file=('a.model', '34')), 'asset sp_model_file has another content'),
  'trainable variables': (_with('trainable', mlm=31), 'mlm has 31 trainable variables instead of 30'),
}


@pytest.mark.parametrize('case', COMPATIBLE)
def test_what_breaks_nothing(case):
  assert compatibility.breaking_differences(OLD, COMPATIBLE[case]) == []


@pytest.mark.parametrize('case', BREAKING)
def test_what_breaks(case):
  new, word = BREAKING[case]
  found = compatibility.breaking_differences(OLD, new)
  assert found and word in found[0], found


@pytest.fixture
def first(history, tmp_path, release):
  """A separate tree with version 3 of the demo, and a function that exports the next version."""
  for model in (ENCODER, PREPROCESSOR):
    _link(history, model, release)
  return lambda module, **options: release(
    module,
    name='albert_en_demo',
    version=4,
    changes=['More.'],
    **{'preprocessor': 'albert_en_demo_preprocess/3', **options},
  )


def test_a_head_that_is_gone(first, module, release):
  before = sorted(release.root.rglob('*'))
  with pytest.raises(
    errors.CompatibilityError,
    match=r'^tensorflow/albert_en_demo/4: breaks users of tensorflow/albert_en_demo/3 '
    r'\(mlm is gone\); give option breaking=True',
  ):
    first(module, mlm=False)
  assert sorted(release.root.rglob('*')) == before


@pytest.mark.slow
def test_other_outputs(first, make_module):
  with pytest.raises(
    errors.CompatibilityError,
    match=r'\(mlm_logits is .* from what it was in float64, more than 1e-09; pooled_output is .*; '
    'sequence_output is .*; sop_log_probs is ',
  ):
    first(make_module(seed=9), preprocessor='albert_en_other_preprocess/3')


@pytest.mark.slow
def test_other_sizes_and_another_vocabulary(first, make_module):
  module = make_module(vocab_size=210)
  with pytest.raises(
    errors.CompatibilityError,
    match='output mlm_logits of mlm is .*210.* instead of .*200.*; asset sp_model_file has another content',
  ):
    first(module, preprocessor='albert_en_other_preprocess/3')
  path, outcome = first(module, preprocessor='albert_en_other_preprocess/3', breaking=True)
  assert 'vocab_size is 210 instead of 200' in outcome.breaking
  card = path.with_name('4.md').read_text()
  assert (
    '### Version 4 (breaking)\n\n* More.\n* Breaking: ' in card
    and '\n* Breaking: vocab_size is 210 instead of 200.' in card
  )


def test_a_preprocessor_with_other_ids(make_module, release):
  release.preprocessor(make_module(), 1)
  with pytest.raises(
    errors.CompatibilityError,
    match='albert_en_demo_preprocess/2: breaks users of .*_preprocess/1 .*the ids of ',
  ):
    release.preprocessor(make_module(vocab_size=210), 2)


def test_the_preprocessor_that_tokenizes_as_for_the_weights_is_announced(first, module, release):
  with pytest.raises(
    errors.CompatibilityError,
    match=r'_preprocess/4: breaks users of .*_preprocess/3 .the ids of .*; give option breaking=True',
  ):
    release.preprocessor(module, 4)


def test_a_predecessor_that_cannot_be_read(first, module, release):
  path = release.root / ENCODER / '3'
  target = path.resolve()
  path.unlink()
  path.mkdir()
  (path / 'saved_model.pb').write_bytes(b'\x12\xff')
  with pytest.raises(errors.IntegrityError, match='saved_model.pb: not a valid TF2 SavedModel'):
    first(module)
  assert (pathlib.Path(target) / 'saved_model.pb').exists()
