"""Evaluates the reference for a source: float64 outputs and derivatives, and distances of float32 evaluations."""

from collections.abc import Callable
from collections.abc import Iterable

import numpy as np

from converters import albert_config
from converters import source as source_lib
from converters import weight_map
from converters.reference import albert as reference_albert
from converters.reference import inputs as proof_inputs
from converters.reference import measures

_SMALL = 1 << 25  # largest number of values of a small model; 268 MB as float64
# Number of float32 evaluations. The first has the original weights. In the others, biases and layer norms move randomly
# by a unit in the last place at every use.
_EVALUATIONS = 5
_ULP = np.float32(2.0**-23)
# Tolerance of a float32 artifact against float64, in multiples of the worst of these evaluations. Each evaluation
# rounds differently: correct conversions of tiny models reached 3.3. The bound detects a wrong weight, kernel or file.
FLOAT32_FACTOR = 8


class Unwanted(Exception):
  """Raised if the result is no longer needed."""


class Expected:
  """The reference's results for a source.

  Attributes:
    outputs: float64 outputs of the batch, as far as the model has them: 'pooled_output', 'sequence_output',
      'mlm_logits', 'sop_log_probs', 'layer_0' and so on. `sequence_output` and layers are [tokens, H], without padding;
      others have the encoder's shapes.
    gradient: derivatives of the scalar; empty without a scalar.
    float32: largest relative distance of the float32 evaluations from `outputs`, by output; at least one unit in the
      last place.
    training: float64 outputs of the scalar's batch in training mode, where dropout keeps every unit; empty without
      dropout or scalar.
  """

  def __init__(
    self,
    source: source_lib.Source,
    parts: frozenset[weight_map.Part],
    batch: proof_inputs.Batch,
    scalar: proof_inputs.Scalar | None,
    wanted: Callable[[], bool] = lambda: True,
  ):
    """Reads each weight once and evaluates the reference.

    Args:
      source: the source.
      parts: the evaluated parts of the model.
      batch: inputs of the outputs.
      scalar: scalar to differentiate, with its inputs; None to differentiate none.
      wanted: called before every use of a weight; the evaluation ends if it returns False.

    Raises:
      Unwanted: `wanted` returned False.
    """

    def ask() -> None:
      if not wanted():
        raise Unwanted

    def weight(name: str) -> np.ndarray:
      ask()
      return weights[name]

    rows = weight_map.rows(source.config, parts)
    weights = dict[str, np.ndarray]()
    for row in rows:
      ask()
      weights[row.name] = source.tensor(row)
    # Weights of a small model are converted to float64 once, those of a large model at every use.
    wide = (
      {name: value.astype(np.float64) for name, value in weights.items()}
      if weight_map.parameters(source.config, parts) <= _SMALL
      else weights
    )

    def exact(name: str) -> np.ndarray:
      ask()
      return wide[name]

    inputs = _inputs(batch)
    self.gradient = reference_albert.Gradient()
    if scalar is None:
      layers, pooled = reference_albert.encode(exact, source.config, inputs, np.float64)
    else:
      layers, pooled, self.gradient = reference_albert.encode_and_differentiate(
        exact, source.config, inputs, _inputs(scalar.batch), scalar.batch.masked_lm_positions, scalar.factors
      )
    self.outputs = _outputs(exact, source.config, parts, batch, layers, pooled, np.float64)
    self.float32 = dict[str, measures.Distance]()
    random = np.random.default_rng(0)

    def moved(name: str) -> np.ndarray:
      # This changes all later rounding. Moving the kernels too took 5 s more in a release of ALBERT-large.
      value = weight(name)
      return value if value.ndim > 1 else value * (1 + _ULP * random.integers(-1, 2, value.shape).astype(np.float32))

    for number in range(_EVALUATIONS):
      source_of_weights = moved if number else weight
      outputs = _outputs(
        source_of_weights,
        source.config,
        parts,
        batch,
        *reference_albert.encode(source_of_weights, source.config, inputs, np.float32),
        np.float32,
      )
      for name, value in outputs.items():
        distance = measures.relative(value, self.outputs[name])
        self.float32[name] = distance.worst(self.float32.get(name, measures.Distance(float(_ULP), float(_ULP))))
    self.training = dict[str, np.ndarray]()
    if source.config.has_dropout and scalar is not None:
      dropout = reference_albert.Dropout(
        *(1 / (1 - rate) for rate in (source.config.hidden_dropout_prob, source.config.attention_probs_dropout_prob))
      )
      encoded = reference_albert.encode(exact, source.config, _inputs(scalar.batch), np.float64, dropout)
      self.training = _outputs(exact, source.config, parts, scalar.batch, *encoded, np.float64)


def _outputs(
  tensor: reference_albert.Tensor,
  config: albert_config.AlbertConfig,
  parts: Iterable[weight_map.Part],
  batch: proof_inputs.Batch,
  layers: list[np.ndarray],
  pooled: np.ndarray | None,
  dtype: reference_albert.Float,
) -> dict[str, np.ndarray]:
  """Returns all outputs by name, with those of the heads computed from the encoder's."""
  result = {f'layer_{number}': layer for number, layer in enumerate(layers)} | {'sequence_output': layers[-1]}
  if pooled is not None:
    result['pooled_output'] = pooled
  parts = frozenset(parts)
  if weight_map.Part.MLM in parts:
    sequence = np.zeros((*batch.input_mask.shape, layers[-1].shape[1]), dtype)
    sequence[batch.input_mask.astype(bool)] = layers[-1]
    result['mlm_logits'] = reference_albert.mlm_logits(tensor, config, sequence, batch.masked_lm_positions, dtype)
  if weight_map.Part.SOP in parts and pooled is not None:
    result['sop_log_probs'] = reference_albert.sop_log_probs(tensor, pooled, dtype)
  return result


def _inputs(batch: proof_inputs.Batch) -> reference_albert.Inputs:
  return reference_albert.Inputs(batch.input_word_ids, batch.input_mask, batch.input_type_ids)
