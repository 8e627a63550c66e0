"""Each documented subobject can be saved on its own and in a Keras model, and gives the same after a reload."""

import json
import subprocess
import sys

import pytest

_MAKE = """
import os, sys
os.environ['TF_USE_LEGACY_KERAS'] = '1'
import numpy as np, tensorflow as tf, tensorflow_hub as hub, tensorflow_text, tf_keras
preprocessor, encoder, text, output = sys.argv[1:]
pre, enc, both = hub.load(preprocessor), hub.load(encoder), hub.load(text)

ids = pre(tf.constant(['the ferry was late']))
positions = tf.constant([[1, 2]])

class Holder(tf.Module):
  def __init__(self, part, call, spec):
    super().__init__()
    self.part = part
    self.run = tf.function(lambda value: call(self.part, value), input_signature=[spec])

string, tokens = tf.TensorSpec([None], tf.string), tf.RaggedTensorSpec([None, None], tf.int32, 1)
spec = {name: tf.TensorSpec([None, None], tf.int32) for name in ids}
holders = dict(
  tokenize=Holder(pre.tokenize, lambda part, value: part(value).to_tensor(), string),
  pack=Holder(pre.bert_pack_inputs, lambda part, value: part([value, value], seq_length=9)['input_word_ids'], tokens),
  preprocess=Holder(pre, lambda part, value: part(value)['input_word_ids'], string),
  mlm=Holder(enc.mlm, lambda part, value: part(value)['mlm_logits'],
             spec | {'masked_lm_positions': tf.TensorSpec([None, None], tf.int32)}),
  sop=Holder(enc.sop, lambda part, value: part(value)['sop_log_probs'], spec),
  text=Holder(both, lambda part, value: part(value)['pooled_output'], string),
)
for name, holder in holders.items():
  tf.saved_model.save(holder, f'{output}/{name}')

first, second = (tf_keras.Input([], dtype=tf.string, name=name) for name in ('first', 'second'))
tokenize = hub.KerasLayer(pre.tokenize)
pack = hub.KerasLayer(pre.bert_pack_inputs, arguments=dict(seq_length=20))
inputs = pack([tokenize(first), tokenize(second)])
pooled = hub.KerasLayer(enc, trainable=True)(inputs)['pooled_output']
order = hub.KerasLayer(enc.sop, trainable=True)(inputs)['sop_log_probs']
scores = tf_keras.layers.Dense(2)(pooled)
trained = tf_keras.Model([first, second], [scores, order])
trained.compile('sgd', 'mse')
x = [tf.constant(['the ferry was late', 'a']), tf.constant(['nobody minded', 'b c'])]
trained.fit(x, [np.ones([2, 2]), np.ones([2, 2])], verbose=0)
model = tf_keras.Model([first, second], [scores, order, inputs['input_word_ids']])
model.save(output + '/keras')
# One segment without a list, and each part of the encoder without the encoder.
one = pack(tokenize(first))
parts = {name: hub.KerasLayer(getattr(enc, name), trainable=True) for name in ('padding_free', 'sop')}
single = tf_keras.Model(first, [one, *(part(one)['pooled_output'] for part in parts.values())])
single.save(output + '/one')
sentences = tf.constant(['the ferry was late', 'a'])
np.savez(output + '/right.npz', *single(sentences)[1:], *model([sentences, tf.constant(['nobody minded', 'b c'])])[:2])
"""
_RUN = """
import json, os, sys
os.environ['TF_USE_LEGACY_KERAS'] = '1'
import numpy as np, tensorflow as tf, tensorflow_hub as hub, tensorflow_text, tf_keras
preprocessor, encoder, text, output = sys.argv[1:]
pre, enc, both = hub.load(preprocessor), hub.load(encoder), hub.load(text)
sentences = tf.constant(['the ferry was late', 'a'])
ids = pre(sentences)
tokens = pre.tokenize(sentences)
masked = dict(ids, masked_lm_positions=tf.constant([[1, 2], [1, 1]]))
expected = dict(
  tokenize=(sentences, tokens.to_tensor()),
  pack=(tokens, pre.bert_pack_inputs([tokens, tokens], seq_length=9)['input_word_ids']),
  preprocess=(sentences, ids['input_word_ids']),
  mlm=(masked, enc.mlm(masked)['mlm_logits']),
  sop=(ids, enc.sop(ids)['sop_log_probs']),
  text=(sentences, both(sentences)['pooled_output']),
)
result = {}
for name, (value, right) in expected.items():
  loaded = tf.saved_model.load(f'{output}/{name}')  # its variables live as long as it does
  result[name] = bool(np.allclose(loaded.run(value), right, atol=1e-6))
model = tf_keras.models.load_model(f'{output}/keras')
second = tf.constant(['nobody minded', 'b c'])
*outputs, found = model([sentences, second])
right = pre.bert_pack_inputs([pre.tokenize(sentences), pre.tokenize(second)], seq_length=20)['input_word_ids'].numpy()
result['keras'] = bool(np.array_equal(found, right))
ids, *pooled = tf_keras.models.load_model(f'{output}/one')(sentences)
right = pre.bert_pack_inputs([tokens], seq_length=20)
result['one'] = bool(np.array_equal(ids['input_word_ids'], right['input_word_ids']))
saved = np.load(f'{output}/right.npz').values()
result['outputs'] = all(np.allclose(*pair, atol=1e-5) for pair in zip([*pooled, *outputs], saved, strict=True))
result['trains'] = len(model.trainable_variables)
print(json.dumps(result))
"""


@pytest.mark.slow
@pytest.mark.parametrize('version', [3, 4])
def test_every_subobject_is_saved_and_reloaded_in_a_new_process(module, release, tmp_path, version):
  path, _ = release(module, with_text=True, preprocessor=f'albert_en_tiny_preprocess/{version}')
  models = [path.parents[1] / f'albert_en_tiny_preprocess/{version}', path, path.parents[1] / 'albert_en_tiny_text/2']
  arguments = [*map(str, models), str(tmp_path)]
  for script in (_MAKE, _RUN):
    process = subprocess.run([sys.executable, '-c', script, *arguments], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
  found = json.loads(process.stdout.splitlines()[-1])
  assert found.pop('trains') == 25 + 2 + 2
  assert found == dict.fromkeys(found, True) and len(found) == 9
