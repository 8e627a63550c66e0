"""Writes a TF1 Hub module with tensorflow_hub's exporter, and the outputs of TensorFlow 1.15 with it.

  python write_module.py --output=DIR --config=albert_config.json --sp_model=30k-clean.model --texts=texts.json

Runs in the environment of requirements/genuine.txt: Python 3.7, TensorFlow 1.15.5, tensorflow_hub 0.7.0 and
albert-tensorflow 1.1. The last package is the model code of ALBERT's authors as of November 2019. It has no exporter,
so the signatures, heads and assets of this file follow the interface of the published modules. Like the authors, this
program writes a checkpoint first, and exports a module spec with it.

Writes the module to DIR/module, and these arrays to DIR/expected.npz:

* the inputs;
* SIGNATURE/NAME: outputs of hub.Module;
* ids/NUMBER: token ids of each text, by the authors' tokenization.py.
"""

import argparse
import json
import math
import os
import tempfile

import numpy as np
import tensorflow.compat.v1 as tf
import tensorflow_hub as hub
from albert import modeling
from albert import tokenization

INPUTS = ('input_ids', 'input_mask', 'segment_ids')


def main():
  """Parses the flags, and writes the module."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--output', required=True)
  parser.add_argument('--config', required=True, help='path of an albert_config.json')
  parser.add_argument('--sp_model', required=True)
  parser.add_argument('--texts', required=True, help='path of a JSON list of strings')
  parser.add_argument('--heads', default='mlm,sop', help='heads of the module: mlm, sop or both')
  parser.add_argument(
    '--matmul',
    action='store_true',
    help='compute dense layers by matmul instead of einsum, like the TFLite variant of the authors',
  )
  parser.add_argument('--without_config', action='store_true', help='leave albert_config.json out of the assets')
  parser.add_argument('--partitions', type=int, default=1, help='partitions of each variable except word embeddings')
  parser.add_argument('--shards', type=int, default=1, help='number of data files of the checkpoint')
  parser.add_argument('--seed', type=int, default=0)
  write(parser.parse_args())


def write(args):
  """Writes the module and expected.npz, given the parsed flags."""
  config = modeling.AlbertConfig.from_json_file(args.config)
  heads = [head for head in args.heads.split(',') if head]
  if args.matmul:
    tf.einsum = modeling.tf.einsum = einsum_by_matmul
  assets = {'vocab_model': args.sp_model}
  if not args.without_config:
    assets['config_file'] = args.config
  # One device per shard: the saver writes the variables of each device to a separate file.
  devices = tf.ConfigProto(device_count={'CPU': args.shards})

  def module_fn(is_training):
    placeholders = {name: tf.placeholder(tf.int32, [None, None], name) for name in INPUTS}
    positions = tf.placeholder(tf.int32, [None, None], 'mlm_positions')
    with tf.variable_scope('', partitioner=partitioner(args.partitions), custom_getter=placed(args.shards)):
      model = modeling.AlbertModel(
        config, is_training, placeholders['input_ids'], placeholders['input_mask'], placeholders['segment_ids']
      )
      logits = mlm_logits(model, config, positions) if 'mlm' in heads else None
      log_probs = sop_log_probs(model, config) if 'sop' in heads else None
    files = {name: tf.constant(os.path.abspath(path), tf.string, name=name) for name, path in assets.items()}
    for constant in files.values():
      tf.add_to_collection(tf.GraphKeys.ASSET_FILEPATHS, constant)
    outputs = {'sequence_output': model.get_sequence_output(), 'pooled_output': model.get_pooled_output()}
    hub.add_signature('tokens', placeholders, outputs)
    if log_probs is not None:
      hub.add_signature('sop', placeholders, dict(outputs, sop_log_probs=log_probs))
    if logits is not None:
      hub.add_signature('mlm', dict(placeholders, mlm_positions=positions), dict(outputs, mlm_logits=logits))
    hub.add_signature('tokenization_info', {}, {'vocab_file': files['vocab_model'], 'do_lower_case': tf.constant(True)})

  path = os.path.join(args.output, 'module')
  with tempfile.TemporaryDirectory() as directory:
    checkpoint = os.path.join(directory, 'model.ckpt-best')
    with tf.Graph().as_default(), tf.Session(config=devices) as session:
      module_fn(False)
      session.run(tf.global_variables_initializer())
      for number, variable in enumerate(sorted(tf.global_variables(), key=lambda v: v.name)):
        variable.load(random_value(variable.op.name, variable.shape.as_list(), args.seed * 1000 + number), session)
      tf.train.Saver().save(session, checkpoint)
    spec = hub.create_module_spec(module_fn, [({'train'}, {'is_training': True}), (set(), {'is_training': False})])
    if args.shards == 1:
      spec.export(path, checkpoint_path=checkpoint)
    else:
      with tf.Graph().as_default(), tf.Session(config=devices) as session:
        module = hub.Module(spec)
        tf.train.init_from_checkpoint(checkpoint, module.variable_map)
        session.run(tf.global_variables_initializer())
        module.export(path, session)

  values = expected(path, config, heads, devices)
  with open(args.texts, encoding='utf-8') as f:
    texts = json.load(f)
  values['texts'] = np.array(json.dumps(texts))
  values.update((f'ids/{number}', value) for number, value in enumerate(token_ids(args.sp_model, texts)))
  np.savez_compressed(os.path.join(args.output, 'expected.npz'), **values)


def partitioner(partitions):
  """Returns a partitioner of the first axis, or None for one partition.

  Word embeddings are not partitioned: their lookup would take rows of the partitions in turn (partition_strategy
  'mod').
  """

  def axes(shape, dtype):
    del dtype
    tables = tf.get_variable_scope().name.endswith('embeddings') and len(shape) == 2 and shape[0].value > 2
    return [min(partitions, shape[0].value) if partitions > 1 and not tables else 1] + [1] * (len(shape) - 1)

  return axes if partitions > 1 else None


def placed(shards):
  """Returns a variable getter that places variables on the devices in turn, or None for one shard."""
  count = []

  def place(getter, *args, **kwargs):
    count.append(None)
    with tf.device(f'/cpu:{len(count) % shards}'):
      return getter(*args, **kwargs)

  return place if shards > 1 else None


def einsum_by_matmul(equation, x, kernel):
  """Computes the three einsums of the model code by matmul.

  Each sums over the last axes of x and the first axes of the kernel.
  """
  summed = {'BFH,HND->BFND': 1, 'BFND,NDH->BFH': 2, 'BFH,HO->BFO': 1}[equation]
  x_shape, kernel_shape = modeling.get_shape_list(x), modeling.get_shape_list(kernel)
  inner = int(np.prod(kernel_shape[:summed]))
  if summed > 1:
    x = tf.reshape(x, [*x_shape[:-summed], inner])
  result = tf.matmul(x, tf.reshape(kernel, [inner, -1]))
  return tf.reshape(result, x_shape[:-summed] + kernel_shape[summed:]) if len(kernel_shape) - summed > 1 else result


def mlm_logits(model, config, positions):
  """Builds the masked-language-model head; returns logits of shape [batch * positions, vocabulary]."""
  sequence = model.get_sequence_output()
  batch, length, width = modeling.get_shape_list(sequence)
  rows = tf.reshape(positions + tf.expand_dims(tf.range(batch) * length, 1), [-1])
  x = tf.gather(tf.reshape(sequence, [-1, width]), rows)
  with tf.variable_scope('cls/predictions'):
    with tf.variable_scope('transform'):
      x = tf.layers.dense(x, config.embedding_size, activation=modeling.get_activation(config.hidden_act))
      x = modeling.layer_norm(x)
    bias = tf.get_variable('output_bias', [config.vocab_size])
    return tf.nn.bias_add(tf.matmul(x, model.get_embedding_table(), transpose_b=True), bias)


def sop_log_probs(model, config):
  """Builds the sentence-order head; returns log probabilities of shape [batch, 2]."""
  with tf.variable_scope('cls/seq_relationship'):
    weights = tf.get_variable('output_weights', [2, config.hidden_size])
    bias = tf.get_variable('output_bias', [2])
    return tf.nn.log_softmax(tf.nn.bias_add(tf.matmul(model.get_pooled_output(), weights, transpose_b=True), bias))


def random_value(name, shape, seed):
  """Returns random values of a variable, float32.

  At their scale, attention is neither flat nor saturated. All elements differ.
  """
  value = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
  if '/gamma' in name:
    return 1 + np.float32(0.2) * value
  if len(shape) == 1:
    return np.float32(0.1) * value
  return value * np.float32(1.2 / math.sqrt(shape[0]) if '/kernel' in name else 0.1)


def expected(path, config, heads, devices):
  """Returns the inputs and the outputs of hub.Module.

  The inputs include full rows, padded rows, rows of two segments, and a row of one token.
  """
  random = np.random.RandomState(7)
  batch, length, positions = 4, min(24, config.max_position_embeddings), 3
  mask = (np.arange(length) < np.array([[length], [length // 2], [1], [length - 3]])).astype(np.int32)
  values = {
    'input_ids': random.randint(0, config.vocab_size, [batch, length]).astype(np.int32),
    'input_mask': mask,
    'segment_ids': (np.arange(length) >= np.array([[length], [5], [1], [9]])).astype(np.int32) * mask,
    'mlm_positions': np.array([[0, 1, length - 1], [0, 2, 3], [0, 0, 0], [4, 8, 0]], np.int32)[:, :positions],
  }
  with tf.Graph().as_default(), tf.Session(config=devices) as session:
    module = hub.Module(path)
    results = {}
    for signature in ['tokens', *heads]:
      names = INPUTS + (('mlm_positions',) if signature == 'mlm' else ())
      for name, tensor in module({name: values[name] for name in names}, signature=signature, as_dict=True).items():
        results[f'{signature}/{name}'] = tensor
    session.run(tf.global_variables_initializer())
    values.update(session.run(results))
  return values


def token_ids(sp_model, texts):
  """Yields the token ids of each text by preprocess_text and FullTokenizer, as in the authors' run_classifier.py."""
  tokenizer = tokenization.FullTokenizer(None, spm_model_file=sp_model)
  for text in texts:
    tokens = tokenizer.tokenize(tokenization.preprocess_text(text, lower=True))
    yield np.array(tokenizer.convert_tokens_to_ids(tokens), np.int32)


if __name__ == '__main__':
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  tf.logging.set_verbosity(tf.logging.ERROR)
  main()
