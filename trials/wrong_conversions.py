"""Wrong conversions, for trials of the parity proof.

Each is a context manager. While it is entered, exports are wrong: functions of the export path are replaced. The
source's graph and the reference do not use these functions.

One check would refuse a wrong conversion without the parity proof, so this conversion switches the check off:

* the weights' digests, recorded when a weight is read, and compared with the saved checkpoint (`rounded to bfloat16`).

All others leave weights and operations as they are: the graph uses them in another way.

Example:
  with WRONG_CONVERSIONS['erf GELU']():
    release.run(request, console)  # raises ParityError
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf
import tf_keras
from official.nlp.modeling import networks

from converters import build_encoder
from export.model import encoder as encoder_lib
from export.model import transformer_block
from export.release import integrity

WrongConversion = Callable[[], contextlib.AbstractContextManager[Any]]


def _change_model(change: Callable[[build_encoder.Albert], None]) -> Any:
  """Changes each model after it is built and its weights' digests are recorded."""
  build = build_encoder.build

  def wrong(*args: Any, **kwargs: Any) -> build_encoder.Albert:
    albert = build(*args, **kwargs)
    change(albert)
    return albert

  return mock.patch.object(build_encoder, 'build', wrong)


def _change_layers(change: Callable[[Any], None]) -> Any:
  """Changes the layers of each encoder before the export traces it."""
  init = encoder_lib.Outlined.__init__

  def wrong(self: Any, albert: build_encoder.Albert) -> None:
    init(self, albert)
    change(self.encoder)

  return mock.patch.object(encoder_lib.Outlined, '__init__', wrong)


def _change_layer_count(by: int) -> Any:
  """Calls the block `by` times more than the config says."""
  init = encoder_lib.Outlined.__init__

  def wrong(self: Any, albert: build_encoder.Albert) -> None:
    init(self, albert)
    self._config = dataclasses.replace(albert.config, num_hidden_layers=albert.config.num_hidden_layers + by)

  return mock.patch.object(encoder_lib.Outlined, '__init__', wrong)


def _change_blocks(change: Callable[..., Any]) -> Any:
  """Changes the calls of the block; `change` gets number and count of the call, the call, and its arguments."""
  run, encode = encoder_lib.Outlined._run_block, encoder_lib.Outlined.encode
  count = itertools.count()

  def wrong_encode(self: Any, inputs: Any, training: bool) -> dict[str, Any]:
    nonlocal count
    count = itertools.count()
    return encode(self, inputs, training)

  def wrong_run(self: Any, number: int, x: Any, scores: Any, kernels: Any, training: bool) -> Any:
    def call(x: Any) -> Any:
      return run(self, number, x, scores, kernels, training)

    return change(next(count), len(self._config.block_of_layer), call, x, kernels)

  return mock.patch.multiple(encoder_lib.Outlined, encode=wrong_encode, _run_block=wrong_run)


def _change_product(name: str, change: Callable[[Any, Any], Any]) -> Any:
  """Changes the output of one dense layer of the block, given the layer and the output as rows."""
  product = transformer_block.product

  def wrong(layer: Any, *args: Any, **kwargs: Any) -> Any:
    rows = product(layer, *args, **kwargs)
    return change(layer, rows) if layer.name == name else rows

  return mock.patch.object(transformer_block, 'product', wrong)


def _change_config(**changes: Callable[[Any], Any]) -> Any:
  """Changes arguments of AlbertEncoder."""
  encoder = networks.AlbertEncoder

  def wrong(**arguments: Any) -> Any:
    return encoder(**arguments | {name: change(arguments[name]) for name, change in changes.items()})

  return mock.patch.object(networks, 'AlbertEncoder', wrong)


@contextlib.contextmanager
def _erf_gelu() -> Iterator[None]:
  with mock.patch.object(transformer_block, '_gelu', build_encoder.gelu_exact):
    yield


@contextlib.contextmanager
def _dropout_left_on() -> Iterator[None]:
  call = transformer_block.MatrixProducts.call

  def wrong(self: Any, inputs: Any, scores: Any, kernels: Any, training: bool) -> Any:
    return call(self, inputs, scores, kernels, True)

  with (
    _change_config(dropout_rate=lambda rate: rate or 0.1, attention_dropout_rate=lambda rate: rate or 0.1),
    mock.patch.object(transformer_block.MatrixProducts, 'call', wrong),
  ):
    yield


@contextlib.contextmanager
def _rounded_to_bfloat16() -> Iterator[None]:
  def change(albert: build_encoder.Albert) -> None:
    for variable in _variables(albert):
      variable.assign(tf.cast(tf.cast(variable, tf.bfloat16), tf.float32))

  with _change_model(change), mock.patch.object(integrity, '_weights', lambda *args: iter(())):
    yield


def _variables(albert: build_encoder.Albert) -> list[Any]:
  """Lists the model's float variables; a variable of two parts may be listed twice."""
  parts = [part for part in (albert.encoder, albert.mlm_head, albert.sop_head) if part is not None]
  return [variable for part in parts for variable in part.variables if variable.dtype.is_floating]


def _epsilon(value: float) -> WrongConversion:
  def change(albert: build_encoder.Albert) -> None:
    for part in (albert.encoder, albert.mlm_head):
      for layer in part.submodules if part is not None else ():
        if isinstance(layer, tf_keras.layers.LayerNormalization):
          layer.epsilon = value

  return lambda: _change_model(change)


def _swap_token_types() -> Any:
  embed = encoder_lib.Outlined._embed

  def wrong(self: Any, inputs: Any, training: bool) -> Any:
    last = self.encoder.get_layer('type_embeddings').embeddings.shape[0] - 1
    return embed(self, dict(inputs, input_type_ids=last - inputs['input_type_ids']), training)

  return mock.patch.object(encoder_lib.Outlined, '_embed', wrong)


def _shift_positions(encoder: Any) -> None:
  layer = encoder.get_layer('position_embedding')

  def call(inputs: Any) -> Any:
    table = layer._position_embeddings.read_value()
    return tf.broadcast_to(tf.concat([table[-1:], table[:-1]], 0)[: tf.shape(inputs)[1]], tf.shape(inputs))

  layer.call = call


def _skip_last_layer(number: int, layers: int, call: Any, x: Any, kernels: Any) -> Any:
  return (x, kernels) if number == layers - 1 else call(x)


def _repeat_first_layer(number: int, layers: int, call: Any, x: Any, kernels: Any) -> Any:
  return call(call(x)[0]) if number == 0 else call(x)


def _scale_by_hidden_size(layer: Any, rows: Any) -> Any:
  """Divides queries by sqrt(heads): with the right factor 1/sqrt(head size) this is 1/sqrt(hidden size)."""
  return rows * layer.bias.shape[0] ** -0.5


def _leave_bias_out(layer: Any, rows: Any) -> Any:
  return rows - tf.reshape(layer.bias, [-1])


def _reverse_first_head(layer: Any, rows: Any) -> Any:
  heads, size = layer.bias.shape
  order = [*reversed(range(size)), *range(size, heads * size)]
  return tf.matmul(rows, tf.constant(np.eye(heads * size, dtype=np.float32)[order]))


def _halve_gradient(layer: Any, rows: Any) -> Any:
  return 0.5 * rows + tf.stop_gradient(0.5 * rows)


def _halve_in_training() -> Any:
  call = transformer_block.MatrixProducts.call

  def wrong(self: Any, inputs: Any, scores: Any, kernels: Any, training: bool) -> Any:
    output, kernels = call(self, inputs, scores, kernels, training)
    return (0.5 * output if training else output), kernels

  return mock.patch.object(transformer_block.MatrixProducts, 'call', wrong)


def _change_outputs(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
  """Changes the encoder's outputs."""
  encode = encoder_lib.Outlined.encode

  def wrong(self: Any, inputs: Any, training: bool) -> dict[str, Any]:
    return change(dict(encode(self, inputs, training)))

  return mock.patch.object(encoder_lib.Outlined, 'encode', wrong)


def _detach_layers(outputs: dict[str, Any]) -> dict[str, Any]:
  return outputs | {'encoder_outputs': [tf.stop_gradient(layer) for layer in outputs['encoder_outputs']]}


def _detach_sop() -> Any:
  call = tf_keras.layers.Dense.call

  def wrong(self: Any, inputs: Any) -> Any:
    return call(self, tf.stop_gradient(inputs) if self.units == 2 else inputs)

  return mock.patch.object(tf_keras.layers.Dense, 'call', wrong)


def _double_layers_of_heads() -> Any:
  traced = encoder_lib.traced

  def wrong(call: Any, *args: Any) -> Any:
    if call.__name__ not in ('mlm', 'sop'):
      return traced(call, *args)

    def doubled(inputs: Any, training: bool) -> dict[str, Any]:
      outputs = dict(call(inputs, training))
      return outputs | {'encoder_outputs': [2 * layer for layer in outputs['encoder_outputs']]}

    doubled.__name__ = call.__name__
    return traced(doubled, *args)

  return mock.patch.object(encoder_lib, 'traced', wrong)


# These change what only a model with dropout does.
OF_DROPOUT = frozenset(['dropout rates of 0.5', 'half of each layer in training'])

WRONG_CONVERSIONS: dict[str, WrongConversion] = {
  'erf GELU': _erf_gelu,
  'layer norm epsilon 1e-5': _epsilon(1e-5),
  'layer norm epsilon 1e-6': _epsilon(1e-6),
  'layer norm epsilon 1e-7': _epsilon(1e-7),
  # The first two are seen in the number of layer outputs, the other two in the values alone.
  'one layer fewer': lambda: _change_layer_count(-1),
  'one layer more': lambda: _change_layer_count(1),
  'last layer skipped': lambda: _change_blocks(_skip_last_layer),
  'first layer repeated': lambda: _change_blocks(_repeat_first_layer),
  'token type rows swapped': _swap_token_types,
  'position embeddings shifted': lambda: _change_layers(_shift_positions),
  'attention scaled by hidden size': lambda: _change_product('query', _scale_by_hidden_size),
  'query bias left out': lambda: _change_product('query', _leave_bias_out),
  'output bias left out': lambda: _change_product('output', _leave_bias_out),
  'value reversed in one head': lambda: _change_product('value', _reverse_first_head),
  'half the gradient of keys': lambda: _change_product('key', _halve_gradient),
  'rounded to bfloat16': _rounded_to_bfloat16,
  'padding masked by -2': lambda: mock.patch.object(transformer_block, '_FAR_BELOW', -2.0),
  'dropout left on': _dropout_left_on,
  'dropout rates of 0.5': lambda: _change_config(
    dropout_rate=lambda rate: 0.5, attention_dropout_rate=lambda rate: 0.5
  ),
  'half of each layer in training': _halve_in_training,
  'layer outputs detached': lambda: _change_outputs(_detach_layers),
  'sop head detached': _detach_sop,
  'layers doubled in the heads': _double_layers_of_heads,
}
