"""A process that only runs graphs imports less of TensorFlow, and computes the same."""

import json
import sys

import conftest

_PROGRAM = '''
import json, sys
from export.proof import graph_runtime
tf = graph_runtime.load()
assert graph_runtime.load() is tf
import tensorflow
assert tensorflow is tf
with tf.Graph().as_default(), tf.compat.v1.Session(config=tf.compat.v1.ConfigProto()) as session:
  x = tf.constant([[1.0, 2.0], [3.0, 4.0]])
  y = tf.reduce_sum(tf.reshape(x, [-1]) * [5.0, 6.0, 7.0, 8.0])
  dx, = tf.gradients(tf.add_n([y, y]), [x], aggregation_method=tf.AggregationMethod.EXPERIMENTAL_TREE)
  print(json.dumps([session.run(tf.convert_to_tensor(dx)).tolist(), 'tensorflow._api' in sys.modules]))
'''


def test_what_is_imported_runs_and_differentiates_graphs():
  process = conftest.run([sys.executable, '-c', _PROGRAM])
  assert process.returncode == 0, process.stderr
  assert json.loads(process.stdout) == [[[10.0, 12.0], [14.0, 16.0]], False]
