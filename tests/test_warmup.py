"""Every release has warmup requests for TensorFlow Serving that fit the model and are in its record."""

import pathlib
import string
import tarfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the preprocessor's operations)
from tensorflow_serving.apis import prediction_log_pb2

from converters import albert_config
from export import record as record_lib
from export import spec
from export.model import serving_warmup
from export.store import digests


def _requests(path):
  """Reads the requests of a file like the server."""
  logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
  assert all(log.WhichOneof('log_type') == 'predict_log' for log in logs)
  return [log.predict_log.request for log in logs]


@pytest.mark.parametrize(
  'model',
  [
    'albert_en_demo/1',
    'albert_en_demo/2',
    'albert_en_demo/3',
    'albert_en_demo_preprocess/1',
    'albert_en_demo_preprocess/3',
    'albert_en_demo_text/3',
  ],
)
def test_every_signature_has_a_request_that_it_takes(history, model):
  path = history / 'tensorflow' / model
  signatures = tf.saved_model.load(str(path)).signatures
  requests = _requests(path / serving_warmup.FILE)
  assert sorted(request.model_spec.signature_name for request in requests) == sorted(signatures)
  for request in requests:
    assert request.model_spec.name == model.rpartition('/')[0]
    signature = signatures[request.model_spec.signature_name]
    given = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
    # Strict, because a server converts no types.
    specs = signature.structured_input_signature[1]
    assert given.keys() == specs.keys()
    for name, value in given.items():
      assert tf.as_dtype(request.inputs[name].dtype) == specs[name].dtype and specs[name].shape.is_compatible_with(
        value.shape
      )
    outputs = signature(**{name: tf.constant(value) for name, value in given.items()})
    assert {len(output) for output in outputs.values()} == {1}
    assert all(np.all(np.isfinite(output)) for output in outputs.values())
    assert {value.shape for value in given.values()} == (
      {(1,)} if model.partition('/')[0].endswith(('_preprocess', '_text')) else {(1, spec.SEQ_LENGTH)}
    )


def test_a_model_of_short_sequences_gets_a_short_request(config):
  short = albert_config.parse(vars(config) | {'max_position_embeddings': 16})
  requests = serving_warmup.of_encoder(short, padding_free=True)
  inputs = requests['serving_default']
  assert requests.keys() == {'serving_default', 'serving_padding_free'}
  assert inputs['input_word_ids'].shape == (1, 16) and inputs['input_word_ids'].max() < 5


def test_the_same_requests_give_the_same_bytes(tmp_path):
  made = []
  for order in (1, -1):
    path = tmp_path / str(order)
    path.mkdir()
    # So many inputs that a hash table would not keep their order by chance.
    inputs = {f'input_{letter}': np.array([[1]], np.int32) for letter in string.ascii_lowercase[::order]}
    serving_warmup.write(path, 'albert_en_tiny', {'serving_default': inputs})
    made.append((path / serving_warmup.FILE).read_bytes())
  assert made[0] == made[1]
  places = [made[0].index(f'input_{letter}'.encode()) for letter in string.ascii_lowercase]
  assert places == sorted(places)


def test_it_is_in_archive_record_and_card(encoder_path, preprocessor_path):
  for path in map(pathlib.Path, (encoder_path, preprocessor_path)):
    digest = digests.of_file(path / serving_warmup.FILE)
    assert record_lib.read(path).files[serving_warmup.FILE] == digest
    with tarfile.open(f'{path}.tar.gz') as tar:
      assert tar.extractfile(serving_warmup.FILE).read() == (path / serving_warmup.FILE).read_bytes()
    assert digest.sha256 in pathlib.Path(f'{path}.md').read_text()
