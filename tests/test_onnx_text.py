"""text.onnx has the ids of the rule and the outputs of model.onnx, and is published only if it is right."""

import dataclasses
import itertools
import json
import pathlib
import random
import types
import unicodedata

import numpy as np
import onnx
import pytest
import sentencepiece as spm

from converters import errors
from converters import source as source_lib
from converters import tokenization
from converters.reference import tokenizer as reference_tokenizer
from converters.writers import graph_options
from converters.writers import onnx_graph
from converters.writers import onnx_model
from converters.writers import onnx_text
from converters.writers import text_charsmap
from export.demo import vocabulary

GOLDEN = pathlib.Path(__file__).parent / 'golden/preprocessor_4.json'
SETTINGS = [tokenization.Tokenization(*values) for values in itertools.product((True, False), repeat=2)]
_PLAIN = graph_options.Options()
# Pieces that show a difference between the rules: commas after digits, letters that compose, both kinds of sigma.
PIECES = [
  '▁1,',
  '00,',
  '0,',
  '▁57,',
  '57,',
  '1',
  '0',
  'ς',
  'σ',
  'Σ',
  'É',
  'é',
  'e',
  '한',
  '하',
  'ᄒ',
  'ো',
  'か',
  '①',
  'C',
  'L',
  'S',
]
ASSIGNED = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ('Cn', 'Co', 'Cs')]


def write(module, directory, options=_PLAIN, **more):
  directory.mkdir(parents=True)
  with source_lib.open_source(str(module)) as source:
    onnx_model.write(source, directory, options, text=True, **more)
  return directory


@pytest.fixture(scope='module')
def written(module, tmp_path_factory):
  """A directory by --with_text with every output. Not to be changed."""
  options = graph_options.Options(layers=True, mlm=True, sop=True)
  return write(module, tmp_path_factory.mktemp('text') / 'albert', options)


@pytest.fixture(scope='module')
def rich(sp_model):
  """A vocabulary with pieces that show a difference between the rules."""
  processor = spm.SentencePieceProcessor(model_proto=sp_model)

  def field(number, payload):
    return bytes([number << 3 | 2, len(payload)]) + payload

  fresh = [piece for piece in PIECES if processor.piece_to_id(piece) == processor.unk_id()]
  return sp_model + b''.join(
    field(1, field(1, piece.encode()) + b'\x15' + np.float32(-3 - number / 7).tobytes())
    for number, piece in enumerate(fresh)
  )


def _tokenizer(sp_model, setting, path, length=20_002):
  """Returns a function from texts to ids, by a graph without an encoder."""
  source = types.SimpleNamespace(
    sp_model=sp_model, tokenization=setting, config=types.SimpleNamespace(max_position_embeddings=length)
  )
  graph = onnx.helper.make_graph([], 'empty', [], [])
  opsets = [onnx.helper.make_opsetid('', onnx_graph.OPSET)]
  model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=onnx_graph.IR_VERSION)
  path.write_bytes(onnx_graph.serialize(onnx_text.with_text(model, source)))
  session = onnx_model.session(onnx_text.tokenizer(path), onnx_text.LIBRARY)

  def ids(texts):
    rows = onnx_text.ids(session, texts)
    assert all((row[0], row[-1]) == (2, 3) for row in rows)
    return [row[1:-1] for row in rows]

  return ids


@pytest.fixture(scope='module', params=SETTINGS, ids=lambda setting: setting.title)
def pair(request, rich, tmp_path_factory):
  """A setting's ids by the graph, those by the rule, and whether two lists of ids are both right."""
  ids = _tokenizer(rich, request.param, tmp_path_factory.mktemp('tokenizer') / 'text.onnx')
  processor = spm.SentencePieceProcessor(model_proto=rich)

  def rule(texts):
    return [reference_tokenizer.ids(processor, text, request.param) for text in texts]

  return ids, rule, lambda one, other: one == other or reference_tokenizer.equally_likely(processor, one, other)


def _differences(pair, texts):
  ids, rule, same = pair
  found = zip(texts, ids(texts), rule(texts), strict=True)
  return [(text[:60], one, other) for text, one, other in found if not same(one, other)]


def test_ids_of_the_token_goldens(tmp_path):
  golden = json.loads(GOLDEN.read_text())
  lines = vocabulary.CORPUS.read_text(encoding='utf-8').splitlines()
  ids = _tokenizer(vocabulary.train(lines, 1000), tokenization.DEFAULT, tmp_path / 'text.onnx')
  assert ids([one['text'] for one in golden['texts']]) == [one['ids'] for one in golden['texts']]


def test_texts_that_are_hard(pair):
  assert not _differences(pair, [*onnx_text.TEXTS, *reference_tokenizer.TEXTS])


def test_words_that_end_in_a_sigma(pair):
  letters = ['Σ', 'A', '1', ' ', '\u0301', '\u0345', "'", 'Ϲ', '𝚺', '℃']
  texts = [''.join(one) for length in range(5) for one in itertools.product(letters, repeat=length)]
  assert not _differences(pair, texts)


def test_letters_that_compose(pair):
  # Leading, middle and final letters in all their forms, syllables, a mark in between, and the vowels of two scripts.
  letters = '한ㅎㅏﾡￂㄳ하한㉮\u0301\u09c7\u09be\u0b47\u0b3eeÉA'
  texts = [''.join(one) for length in range(4) for one in itertools.product(letters, repeat=length)]
  assert not _differences(pair, texts)


def test_commas(pair):
  texts = [''.join(one) for length in range(6) for one in itertools.product('0157 ,', repeat=length)]
  assert not _differences(pair, texts)
  ids, _, _ = pair
  assert ids(['1,'])[0] != ids(['1'])[0]


def test_random_texts(pair):
  rng = random.Random(1)
  more = [' ', 'Σ', '1,', '00,', 'a', 'É', '\t\n', '\u200d', ',', '\x00', '\x01', '\u3000', "'", '한', '\u0301']
  texts = [''.join(rng.choice(rng.choice((ASSIGNED, more))) for _ in range(40)) for _ in range(2000)]
  assert not _differences(pair, [*texts, ''.join(texts)[:15_000], 'a' * 10_000])


@pytest.mark.slow
@pytest.mark.parametrize('form', ['{}', 'a{}b', 'Α{}Σ', '{}Σ{}A'])
def test_every_assigned_character(pair, form):
  assert len(ASSIGNED) > 140_000
  assert not _differences(pair, [form.format(c, c) for c in ASSIGNED])


@pytest.mark.slow
def test_every_assigned_character_is_normalized_whatever_the_vocabulary_is(sp_model):
  """Unlike ids, normalized texts also show differences between unknown characters."""
  own = spm.SentencePieceProcessor(model_proto=sp_model)
  for setting in SETTINGS:
    ours = spm.SentencePieceProcessor(model_proto=text_charsmap.compiled(sp_model, setting))
    texts = [f'a{c}b' for c in ASSIGNED if c != '\0']
    expected = [own.normalize(reference_tokenizer.normalized(text, setting)) for text in texts]
    assert [ours.normalize(text) for text in texts] == expected


def test_no_text_and_a_cut_one(rich, tmp_path):
  ids = _tokenizer(rich, tokenization.DEFAULT, tmp_path / 'text.onnx', 6)
  assert ids([]) == [] and ids(['']) == [[]] and ids(['\0\0', '', '\0']) == [[13, 1], [], [13, 1]]
  processor = spm.SentencePieceProcessor(model_proto=rich)
  (whole,) = [reference_tokenizer.ids(processor, 'the bridge was closed')]
  assert len(whole) > 4 and ids(['', 'the bridge was closed']) == [[], whole[:4]]


def test_one_file_from_text_to_vector(written, module):
  session = onnx_model.session(written / 'text.onnx', onnx_text.LIBRARY)
  assert [(x.name, x.type, x.shape) for x in session.get_inputs()] == [('text', 'tensor(string)', ['batch'])]
  names = [x.name for x in session.get_outputs()]
  layers = [f'encoder_outputs_{number}' for number in range(3)]
  assert names == ['pooled_output', 'sequence_output', *layers, 'sop_log_probs', 'input_word_ids', 'input_mask']
  texts = ['The bridge was closed.', '', 'CAFÉ, 1,200 boats']
  found = dict(zip(names, session.run(None, {'text': np.array(texts, object)}), strict=True))
  given = {name: found[name] for name in ('input_word_ids', 'input_mask')}
  given |= {'input_type_ids': np.zeros_like(found['input_mask']), 'masked_lm_positions': np.zeros((3, 0), np.int32)}
  encoder = onnx_model.session(written / 'model.onnx')
  for name, value in zip(names[:-2], encoder.run(names[:-2], given), strict=True):
    np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)
  assert found['input_mask'].sum(axis=1).tolist() == [len(row) for row in onnx_text.ids(session, texts)]
  (none,) = session.run(['pooled_output'], {'text': np.array([], object)})
  assert none.shape == (0, 16)
  assert (written / 'text.onnx').stat().st_size < 1_000_000  # the weights are those of onnx/model.onnx


def test_record_and_card(written):
  record = json.loads((written / 'record.json').read_text())
  assert record['text']['file'] == 'text.onnx' and record['text']['tokens'] > 500
  assert set(record['text']['distance']) == {
    'pooled_output', 'sequence_output', 'sop_log_probs', *(f'encoder_outputs_{number}' for number in range(3))
  }  # fmt: skip
  assert 'text.onnx' in record['files'] and 'onnxruntime-extensions' in record['packages']
  card = (written / 'README.md').read_text()
  assert '| `text.onnx` |' in card and 'get_library_path' in card


def test_int8(module, tmp_path):
  directory = write(module, tmp_path / 'albert', graph_options.Options(mlm=True), int8=True)
  assert sorted(path.name for path in directory.glob('*.onnx')) == ['model_quantized.onnx', 'text_quantized.onnx']
  assert '| `text_quantized.onnx` |' in (directory / 'README.md').read_text()


def _with_rule(string, value, rules=text_charsmap.rules):
  return lambda *args: rules(*args) | {string: value}


WRONG = {
  'another letter': (_with_rule('É', 'o'), "'CAFÉ"),
  'white space': (_with_rule('\t', 'x'), r"' \\t\\n '"),
  'only a part of the charsmap': (lambda *args: {'A': 'a'}, ''),
}


@pytest.mark.parametrize('fault', WRONG)
def test_wrong_ids_are_refused(module, tmp_path, monkeypatch, fault):
  wrong, text = WRONG[fault]
  monkeypatch.setattr(text_charsmap, 'rules', wrong)
  with pytest.raises(errors.ParityError, match=rf'^text.onnx: no parity for {text}.* \(ids .* instead of .*; leave'):
    write(module, tmp_path / 'albert')


def test_without_the_cut_of_commas_ids_differ(rich, tmp_path, monkeypatch):
  right = onnx_text.commas(rich)
  monkeypatch.setattr(onnx_text, 'commas', lambda model: dataclasses.replace(right, row=right.row * 0))
  ids = _tokenizer(rich, tokenization.DEFAULT, tmp_path / 'text.onnx')
  assert right.pieces and ids(['1,']) == [spm.SentencePieceProcessor(model_proto=rich).encode('1,')]


def test_other_outputs_are_refused(module, tmp_path, monkeypatch):
  build = onnx_text.with_text

  def wrong(model, source):
    result = build(model, source)
    types_of = next(node for node in result.graph.node if 'input_type_ids' in node.output)
    types_of.attribute[0].CopyFrom(onnx.helper.make_attribute('value', onnx.numpy_helper.from_array(np.ones(1, 'i4'))))
    return result

  monkeypatch.setattr(onnx_text, 'with_text', wrong)
  with pytest.raises(errors.ParityError, match='^text.onnx: pooled_output differs from that of model.onnx by'):
    write(module, tmp_path / 'albert')


def test_a_symbol_that_the_normalization_changes_is_refused(sp_model):
  symbol = b'\x0a\x0b\x0a\x02\xc3\x89\x15\x00\x00\x00\x00\x18\x04'  # É, of type 4
  with pytest.raises(errors.VocabularyError, match="symbol 'É' is changed .*; leave option with_text out"):
    text_charsmap.rules(sp_model + symbol, tokenization.DEFAULT)


def test_with_text_on_the_command_line(convert, module, tmp_path):
  done = convert(f'--source={module}', '--to=onnx', '--output=albert', '--with_text')
  assert (done.returncode, done.stderr) == (0, '')
  assert (tmp_path / 'albert/text.onnx').exists()
  done = convert(f'--source={module}', '--to=litert', '--output=other', '--with_text')
  assert done.returncode == 2 and '--with_text=True: not available with --to=litert' in done.stderr
  (tmp_path / 'hidden').mkdir()
  (tmp_path / 'hidden/onnxruntime_extensions.py').write_text('raise ModuleNotFoundError("No x", name="x")')
  done = convert(f'--source={module}', '--to=onnx', '--output=other', '--with_text', path='hidden')
  assert done.returncode == 1 and '--with_text: the package x is missing (No x); run `pip install' in done.stderr


def test_a_vocabulary_without_a_comma_is_refused_before_any_work(module, tmp_path):
  lines = [line.replace(',', '') for line in vocabulary.CORPUS.read_text(encoding='utf-8').splitlines()]
  with source_lib.open_source(str(module)) as source:
    source.sp_model = vocabulary.train(lines, 150)
    with pytest.raises(errors.VocabularyError, match="no piece ',' .text.onnx splits .*; leave option with_text out"):
      onnx_model.write(source, tmp_path, graph_options.Options(), text=True)
  assert list(tmp_path.iterdir()) == []
