"""Entries 36 to 39: vocabularies that are broken, hostile, or of another model."""

import struct

import numpy as np
import pytest
from support import craft

from converters import errors
from export.demo import vocabulary

MODEL = 'assets/30k-clean.model'
NAN = struct.pack('<f', float('nan'))


def _message(fields):
  return b''.join(
    content if isinstance(content, bytes) and number is None else craft.field(number, content)
    for number, content in fields
  )


def _edited(own_module, change):
  """Changes the model's list of fields: 1 is the pieces, 2 the trainer's options, 3 the normalizer's options."""
  path = own_module / MODEL
  fields = list(craft.fields(path.read_bytes()))
  change(fields)
  path.write_bytes(_message(fields))


def _piece(text, score=b'\0\0\0\0', kind=1):
  return craft.field(1, text) + b'\x15' + score + craft.field(3, kind)


@pytest.mark.parametrize(
  'content',
  [
    lambda c: b'',
    lambda c: c[: len(c) // 2],
    lambda c: c[:-1],
    lambda c: np.random.default_rng(0).bytes(5000),
    lambda c: b'\0' * 100,
    lambda c: c + b'\x0a',
  ],
  ids=['empty', 'half', 'all but one', 'random', 'zeros', 'one more'],
)
def test_36_broken_model(refused, own_module, content):
  path = own_module / MODEL
  path.write_bytes(content(path.read_bytes()))
  refused(own_module, f'{MODEL}: ', errors.VocabularyError)


def test_36_no_model(refused, own_module):
  (own_module / MODEL).unlink()
  refused(own_module, r'0 SentencePiece models \(none\)')


def test_36_two_models(refused, own_module):
  (own_module / 'assets/x.model').write_bytes((own_module / MODEL).read_bytes() + b'\0')
  refused(own_module, r'2 SentencePiece models \(30k-clean.model, x.model\)')


HOSTILE = {
  'no text': lambda fields: fields.__setitem__(100, (1, _piece(b'\xff\xfe\xfd'))),
  'the same piece twice': lambda fields: fields.__setitem__(100, fields[101]),
  'a piece that is never used': lambda fields: fields.__setitem__(100, (1, _piece(b'new', kind=5))),
  'an empty piece': lambda fields: fields.__setitem__(100, (1, _piece(b''))),
  'a score that is no number': lambda fields: fields.__setitem__(100, (1, _piece(b'new', NAN))),
  'an infinite score': lambda fields: fields.__setitem__(100, (1, _piece(b'new', struct.pack('<f', float('inf'))))),
  'an unknown piece too few': lambda fields: fields.__setitem__(1, (1, _piece(b'<unk>', kind=1))),
  'a broken table of characters': lambda fields: fields.append(
    (3, craft.field(1, b'nmt_nfkc') + craft.field(2, b'\xff' * 1000))
  ),
  'a table of characters that ends early': lambda fields: fields.append(
    (3, craft.field(1, b'nmt_nfkc') + craft.field(2, struct.pack('<I', 1 << 30)))
  ),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_37_hostile_model(refused, own_module, case):
  (own_module / MODEL).with_suffix('.vocab').unlink()  # which would reveal the fault
  _edited(own_module, HOSTILE[case])
  refused(own_module, f'{MODEL}: |of {MODEL} is', errors.VocabularyError)


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda fields: fields.pop(150), 'assets/30k-clean.model: 199 pieces, but the embedding has 200 rows'),
    (
      lambda fields: fields.insert(150, (1, _piece(b'new'))),
      'assets/30k-clean.model: 201 pieces, but the embedding has 200 rows',
    ),
    *(
      (
        lambda fields, n=number: fields.__setitem__(n, (1, _piece(b'new'))),
        f'assets/30k-clean.model: \\{name} is not piece {number}',
      )
      for number, name in ((2, '[CLS]'), (3, '[SEP]'), (4, '[MASK]'))
    ),
    (lambda fields: fields.insert(2, fields.pop(3)), r'assets/30k-clean.model: \[CLS\] is not piece 2'),
    (
      lambda fields: fields.__setitem__(0, (1, _piece(b'<PAD>', kind=3))),
      'assets/30k-clean.model: <pad> is not piece 0',
    ),
  ],
)
def test_38_other_pieces(refused, own_module, change, message):
  _edited(own_module, change)
  refused(own_module, message, errors.VocabularyError)


@pytest.mark.parametrize('rule', ['identity', 'nfkc', 'nmt_nfkc_cf'])
def test_39_another_normaliser(refused, own_module, monkeypatch, rule):
  monkeypatch.setitem(vocabulary._ORIGINAL_OPTIONS, 'normalization_rule_name', rule)
  lines = vocabulary.CORPUS.read_text(encoding='utf-8').splitlines()
  model = vocabulary.train(lines, 200)
  (own_module / MODEL).write_bytes(model)
  (own_module / MODEL).with_suffix('.vocab').write_text(vocabulary.as_text(model))
  refused(own_module, "'.*' is normalized to '.*', and by nmt_nfkc to '.*'; give a model", errors.VocabularyError)


def test_39_normaliser_under_a_false_name(refused, own_module):
  def change(fields):
    fields.append((3, craft.field(1, b'nmt_nfkc') + craft.field(3, 0)))  # no mark before the first word

  _edited(own_module, change)
  refused(own_module, f'{MODEL}: .* is normalized to ', errors.VocabularyError)


@pytest.mark.parametrize('option, value', [('model_type', 'bpe'), ('byte_fallback', True)])
def test_38_pieces_of_another_kind(refused, own_module, monkeypatch, option, value):
  monkeypatch.setitem(vocabulary._ORIGINAL_OPTIONS, option, value)
  model = vocabulary.train(vocabulary.CORPUS.read_text(encoding='utf-8').splitlines(), 500)
  (own_module / MODEL).write_bytes(model)
  (own_module / MODEL).with_suffix('.vocab').unlink()
  refused(own_module, f'{MODEL}: not a unigram model, or has pieces for bytes', errors.VocabularyError)


@pytest.mark.parametrize('option', ['remove_extra_whitespaces', 'add_dummy_prefix'])
def test_39_spaces_that_are_kept_otherwise(refused, own_module, monkeypatch, option):
  monkeypatch.setitem(vocabulary._ORIGINAL_OPTIONS, option, False)
  model = vocabulary.train(vocabulary.CORPUS.read_text(encoding='utf-8').splitlines(), 200)
  (own_module / MODEL).write_bytes(model)
  (own_module / MODEL).with_suffix('.vocab').write_text(vocabulary.as_text(model))
  refused(own_module, f'{MODEL}: .* is normalized to ', errors.VocabularyError)


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda lines: lines.pop(), 'assets/30k-clean.vocab: 199 pieces, and assets/30k-clean.model has 200'),
    (lambda lines: lines.insert(0, 'x\t0'), 'assets/30k-clean.vocab: 201 pieces'),
    (
      lambda lines: lines.__setitem__(slice(60, 62), lines[61:59:-1]),
      "assets/30k-clean.vocab: line 61 is '.*', but piece 60 of .* is",
    ),
    (
      lambda lines: lines.__setitem__(60, lines[60].partition('\t')[0] + '\t-99'),
      "vocab: line 61 is '.*-99', but piece 60",
    ),
    (lambda lines: lines.__setitem__(60, 'x'), "vocab: line 61 is 'x'"),
    (lambda lines: lines.__setitem__(60, lines[60].partition('\t')[0] + '\tnan'), 'vocab: line 61 is'),
  ],
)
def test_39_another_vocab_file(refused, own_module, change, message):
  path = (own_module / MODEL).with_suffix('.vocab')
  lines = path.read_text().removesuffix('\n').split('\n')
  change(lines)
  path.write_text('\n'.join(lines) + '\n')
  refused(own_module, message, errors.VocabularyError)
