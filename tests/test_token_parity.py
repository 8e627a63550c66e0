"""A preprocessor is compared with the published rule on every kind of text, and wrong ids, packing or tokens fail."""

import pathlib

import numpy as np
import pytest

from converters import errors
from export.validation import preprocessor_certificate


def test_every_kind_of_awkward_text_is_there():
  texts = ''.join(preprocessor_certificate.TEXTS)
  assert '' in preprocessor_certificate.TEXTS and any(t and not t.strip() for t in preprocessor_certificate.TEXTS)
  assert any(max(map(len, t.split()), default=0) >= 10_000 for t in preprocessor_certificate.TEXTS)
  assert all(c in texts for c in '\u200b\u200d\ufeff\u0301é“”«»🙂½ﬁ\x00')
  assert '1,200' in texts


def test_either_of_two_equally_likely_segmentations_is_right(preprocessor_path, sp_model, monkeypatch):
  # This vocabulary has '0' and '00', and versions of SentencePiece segment '000' differently.
  path = pathlib.Path(preprocessor_path)
  preprocessor_certificate.check(path, sp_model, 3)
  ids = preprocessor_certificate.Preprocessor.ids

  def swapped(self, texts):
    return [
      [*reversed(one[:2]), *one[2:]] if text.startswith('The') else one
      for text, one in zip(texts, ids(self, texts), strict=True)
    ]

  monkeypatch.setattr(preprocessor_certificate.Preprocessor, 'ids', swapped)
  with pytest.raises(errors.ParityError, match="preprocessor: no parity for 'The bridge.* .ids "):
    preprocessor_certificate.check(path, sp_model, 3)


def test_preprocessor_with_another_model_fails(preprocessor_path, make_module):
  other = (make_module(vocab_size=150) / 'assets/30k-clean.model').read_bytes()
  with pytest.raises(errors.ParityError, match='preprocessor: no parity for '):
    preprocessor_certificate.check(pathlib.Path(preprocessor_path), other, 3)


@pytest.mark.parametrize('name', ['input_word_ids', 'input_mask', 'input_type_ids'])
def test_wrong_packing_fails(preprocessor_path, sp_model, monkeypatch, name):
  packed = preprocessor_certificate.Preprocessor.packed

  def wrong(self, texts):
    result = packed(self, texts)
    return result | {name: np.where(np.arange(128) == 127, 1 - result[name], result[name])}

  monkeypatch.setattr(preprocessor_certificate.Preprocessor, 'packed', wrong)
  with pytest.raises(errors.ParityError, match=f'no parity for .* .{name} '):
    preprocessor_certificate.check(pathlib.Path(preprocessor_path), sp_model, 3)


def test_special_tokens_of_another_version_fail(preprocessor_path, sp_model):
  with pytest.raises(errors.ParityError, match='no parity for .* .special tokens .*vocab_size'):
    preprocessor_certificate.check(pathlib.Path(preprocessor_path), sp_model, 2)
