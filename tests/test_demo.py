"""The demo module is a TF1 Hub module of ALBERT, and its numbers are distinct."""

import json

import numpy as np
import sentencepiece as spm
import tensorflow as tf
import tensorflow_hub as hub
from tensorflow.core.protobuf import saved_model_pb2

from converters.io import digest


def test_has_the_files_of_the_format(module):
  files = sorted(p.relative_to(module).as_posix() for p in module.rglob('*') if p.is_file())
  assert files == [
    'assets/30k-clean.model',
    'assets/30k-clean.vocab',
    'assets/albert_config.json',
    'saved_model.pb',
    'tfhub_module.pb',
    'variables/variables.data-00000-of-00001',
    'variables/variables.index',
  ]
  assert (module / 'tfhub_module.pb').read_bytes() == bytes([8, 3])
  assert json.loads((module / 'assets/albert_config.json').read_text())['num_hidden_layers'] == 3


def test_has_two_metagraphs_with_four_signatures(module):
  saved_model = saved_model_pb2.SavedModel.FromString((module / 'saved_model.pb').read_bytes())
  assert [set(m.meta_info_def.tags) for m in saved_model.meta_graphs] == [{'train'}, set()]
  for meta_graph in saved_model.meta_graphs:
    assert sorted(meta_graph.signature_def) == ['mlm', 'sop', 'tokenization_info', 'tokens']


def test_has_what_the_exporter_of_tensorflow_hub_writes_and_nothing_more(module):
  """Compares the demo module with the modules of tests/genuine, field by field."""
  saved_model = saved_model_pb2.SavedModel.FromString((module / 'saved_model.pb').read_bytes())
  assert not saved_model.saved_model_schema_version
  for meta_graph in saved_model.meta_graphs:
    assert (
      not meta_graph.HasField('saver_def')
      and not meta_graph.asset_file_def
      and not meta_graph.graph_def.library.function
    )
    assert set(meta_graph.collection_def) == {
      'variables',
      'trainable_variables',
      'asset_filepaths',
      'saved_model_assets',
    }
    assert {node.device for node in meta_graph.graph_def.node} == {''}
    assert not {node.op for node in meta_graph.graph_def.node} & {'SaveV2', 'RestoreV2', 'NoOp'}
    inputs = {tensor.name for signature in meta_graph.signature_def.values() for tensor in signature.inputs.values()}
    assert inputs == {'input_ids:0', 'input_mask:0', 'segment_ids:0', 'mlm_positions:0'}


def test_every_value_of_every_tensor_is_its_own(module):
  reader = tf.train.load_checkpoint(str(module / 'variables/variables'))
  names = sorted(reader.get_variable_to_shape_map())
  assert len(names) == 32
  values = np.concatenate([reader.get_tensor(name).ravel() for name in names])
  assert len(np.unique(values)) > 0.99 * len(values)  # a few of the random float32 values are equal by chance
  assert not any(np.allclose(reader.get_tensor(n), c) for n in names for c in (0, 1))


def test_train_metagraph_has_dropout_only_with_a_rate(make_module):
  ids = dict(
    input_ids=tf.constant([[2, 7, 3]]), input_mask=tf.ones([1, 3], tf.int32), segment_ids=tf.zeros([1, 3], tf.int32)
  )

  def runs(path, tags):
    signature = hub.load(str(path), tags=tags).signatures['tokens']
    return [signature(**ids)['pooled_output'].numpy() for _ in range(2)]

  dropping = make_module(hidden_dropout=0.5)
  assert not np.array_equal(*runs(dropping, ['train']))
  assert np.array_equal(*runs(dropping, []))
  assert np.array_equal(*runs(make_module(), ['train']))


def test_heads_can_be_left_out(make_module):
  path = make_module(mlm=False, sop=False)
  assert sorted(hub.load(str(path)).signatures) == ['tokenization_info', 'tokens']
  assert not [n for n, _ in tf.train.list_variables(str(path / 'variables/variables')) if n.startswith('cls/')]


def test_vocabulary_is_like_the_original(sp_model):
  processor = spm.SentencePieceProcessor(model_proto=sp_model)
  assert [processor.id_to_piece(i) for i in range(13)] == [
    '<pad>',
    '<unk>',
    '[CLS]',
    '[SEP]',
    '[MASK]',
    '(',
    ')',
    '"',
    '-',
    '.',
    '–',
    '£',
    '€',
  ]
  assert [processor.is_control(i) for i in range(6)] == [True, False, True, True, True, False]


def test_made_up_pieces_fill_a_vocabulary_without_changing_ordinary_text():
  from export.demo import vocabulary

  lines = list(map(vocabulary.normalized, vocabulary.CORPUS.read_text(encoding='utf-8').splitlines()))
  small, large = (spm.SentencePieceProcessor(model_proto=vocabulary.train(lines, n)) for n in (800, 5000))
  assert len(large) == 5000
  assert len({large.id_to_piece(i) for i in range(5000)}) == 5000
  assert [large.encode(line) for line in lines] == [small.encode(line) for line in lines]


def test_the_same_spec_gives_the_same_bytes(module, make_module, tmp_path, sp_model):
  from support import modules

  from export.demo import tf1_module
  from export.demo import vocabulary

  tf1_module.write(tmp_path / 'elsewhere', modules.TINY, sp_model, vocabulary.as_text(sp_model))
  assert digest.of_tree(tmp_path / 'elsewhere') == digest.of_tree(module)
  assert str(tmp_path).encode() not in (tmp_path / 'elsewhere/saved_model.pb').read_bytes()
  assert digest.of_tree(make_module(seed=1)) != digest.of_tree(module)
