"""Letter case and accents: what a source states, what flags say, and what vocabularies contradict."""

import io

import pytest
import sentencepiece as spm
import tensorflow as tf

from converters import errors
from converters import tokenization
from converters.reference import tokenizer as reference_tokenizer
from converters.writers import tokenizer_json
from export.model import preprocessor as preprocessor_model
from export.model import saved_model
from export.validation import preprocessor_certificate

NOTHING = {'lower_case': None, 'keep_accents': None}
SETTINGS = [tokenization.Tokenization(lower, keep) for lower in (True, False) for keep in (True, False)]


def _vocabulary(lines, size=90, **changes):
  model = io.BytesIO()
  options = dict(
    vocab_size=size,
    hard_vocab_limit=False,
    character_coverage=1.0,
    pad_id=0,
    unk_id=1,
    bos_id=-1,
    eos_id=-1,
    control_symbols=['[CLS]', '[SEP]', '[MASK]'],
    user_defined_symbols=[','],
    minloglevel=2,
  )
  spm.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **options | changes)
  return model.getvalue()


def mixed_vocabulary():
  """Returns a SentencePiece model with capitals, composed accents, combining marks, Hangul and Bengali."""
  return _vocabulary(['The Café was late, 1,200 Σίσυφος İstanbul', 'यहाँ मैं हूँ', 'Straße ﬁne ½ 한국어 কো'] * 50)


@pytest.fixture(scope='module')
def mixed():
  return mixed_vocabulary()


def test_a_source_comes_before_the_default():
  found = tokenization.decide({'lower_case': False}, 'tokenizer_config.json', NOTHING)
  assert (found.lower_case, found.keep_accents, found.origin) == (False, False, 'tokenizer_config.json')
  assert not found.stated
  assert tokenization.decide({'lower_case': True, 'keep_accents': True}, 'x', NOTHING).stated
  assert tokenization.decide({}, '', NOTHING) == tokenization.DEFAULT


def test_a_flag_fills_in_what_a_source_does_not_state():
  found = tokenization.decide({'lower_case': True}, 'config', {'lower_case': None, 'keep_accents': True})
  assert found.keep_accents and found.origin == 'config, option keep_accents=True'
  with pytest.raises(errors.VocabularyError, match='config: lower_case is True, .*; leave option lower_case=False out'):
    tokenization.decide({'lower_case': True}, 'config', {'lower_case': False, 'keep_accents': None})


def test_a_vocabulary_that_contradicts_the_setting_names_the_options(mixed):
  with pytest.raises(
    errors.VocabularyError,
    match=r'x.model: \d+ pieces have upper-case letters, .*combining marks, .*; '
    'give option lower_case=False option keep_accents=True',
  ):
    tokenization.check_vocabulary(mixed, tokenization.DEFAULT, 'x.model')
  for lower, keep, option in ((False, False, 'option keep_accents=True'), (True, True, 'option lower_case=False')):
    with pytest.raises(errors.VocabularyError, match=f'; give {option}, or'):
      tokenization.check_vocabulary(mixed, tokenization.Tokenization(lower, keep), 'x.model')
  assert tokenization.check_vocabulary(mixed, tokenization.Tokenization(False, True), 'x.model') == []


def test_a_source_that_states_its_setting_is_believed(mixed, sp_model):
  notes = tokenization.check_vocabulary(mixed, tokenization.Tokenization(stated=True), 'x.model')
  assert len(notes) == 2 and notes[0].startswith('x.model: ')
  assert tokenization.check_vocabulary(sp_model, tokenization.DEFAULT, 'x.model') == []


@pytest.mark.parametrize('version', [pytest.param(3, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize('setting', SETTINGS, ids=lambda setting: setting.title)
def test_graph_and_rule_agree_for_every_setting(mixed, tmp_path, setting, version):
  saved_model.write(*preprocessor_model.exportable(mixed, version, setting), tmp_path / 'model')
  assert preprocessor_certificate.check(tmp_path / 'model', mixed, version, setting) > 5000
  other = tokenization.Tokenization(not setting.lower_case, setting.keep_accents)
  with pytest.raises(errors.ParityError):
    preprocessor_certificate.check(tmp_path / 'model', mixed, version, other)


@pytest.mark.parametrize('setting', SETTINGS[::3], ids=lambda setting: setting.title)
def test_the_name_of_a_special_token_is_an_unknown_piece_of_text(tmp_path, setting):
  # The vocabulary has no piece with a character of '[CLS]' or '<pad>', so each is one unknown run.
  model = _vocabulary(['यहाँ मैं हूँ, 1,200'] * 50, 40)
  processor = spm.SentencePieceProcessor(model_proto=model)
  ids = reference_tokenizer.ids(processor, '[CLS] <pad> 12', setting)
  assert ids.count(processor.unk_id()) == 2 and not {0, 2} & set(ids), ids
  saved_model.write(*preprocessor_model.exportable(model, 4, setting), tmp_path / 'model')
  assert preprocessor_certificate.check(tmp_path / 'model', model, 4, setting) > 4000


def test_special_tokens_have_no_letter_case():
  model = _vocabulary(['यहाँ मैं हूँ, 1,200'] * 50, 40, user_defined_symbols=[',', '[MASK]'], control_symbols=['[CLS]'])
  assert tokenization.check_vocabulary(model, tokenization.Tokenization(True, True), 'x.model') == []
  model = _vocabulary(['यहाँ मैं हूँ, 1,200'] * 50, 40, user_defined_symbols=[',', 'É'])
  with pytest.raises(errors.VocabularyError, match="x.model: 1 piece has upper-case letters, as 'É'"):
    tokenization.check_vocabulary(model, tokenization.Tokenization(True, True), 'x.model')


def test_each_setting_does_what_its_name_says():
  text = 'ÉTÉ Σίσυφος'
  normalized = [reference_tokenizer.normalized(text, setting) for setting in SETTINGS]
  assert normalized == ['été σίσυφος', 'ete σισυφος', 'ÉTÉ Σίσυφος', 'ETE Σισυφος']


@pytest.mark.parametrize('setting', SETTINGS, ids=lambda setting: setting.title)
def test_the_tokenizer_of_hugging_face_has_the_steps_of_the_setting(mixed, setting):
  steps = [step['type'] for step in tokenizer_json.of(mixed, setting)['normalizer']['normalizers']]
  assert ('Lowercase' in steps) == setting.lower_case and ('NFKD' in steps) != setting.keep_accents
  assert steps[-2:] == ['NFC', 'Precompiled'] or setting.keep_accents


def test_another_default_length(sp_model, tmp_path):
  saved_model.write(*preprocessor_model.exportable(sp_model, 3, default_seq_length=20), tmp_path / 'model')
  assert preprocessor_certificate.check(tmp_path / 'model', sp_model, 3, seq_length=20) > 5000
  loaded = tf.saved_model.load(str(tmp_path / 'model'))
  segments = [loaded.tokenize(tf.constant(['a b c'])), loaded.tokenize(tf.constant(['d']))]
  assert loaded.bert_pack_inputs(segments)['input_word_ids'].shape == (1, 20)
  assert loaded.bert_pack_inputs(segments, seq_length=8)['input_word_ids'].shape == (1, 8)
