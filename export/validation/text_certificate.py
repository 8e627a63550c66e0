"""Compares a text model with its preprocessor and the padding-free call of its encoder, one after the other.

The preprocessor and the encoder have certificates of their own. This certificate shows that the text model has the same
weights, ids and training mode. The ids are internal to the model, so its outputs are compared.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from converters import albert_config
from converters import errors
from converters import interface
from converters.reference import measures
from export import spec
from export.graphs import op_allow_list
from export.validation import exported_encoder
from export.validation import preprocessor_certificate

# Tolerance in float32 units in the last place. Runs of the same operations have been equal bit for bit on all machines
# tried, but a kernel may split its work differently from run to run.
_ULPS = 16
# Budget of multiplications for one run of all texts: half a second on two processors. A model of base size runs four
# texts. Models of large size and above run the minimum and exceed the budget.
_WORK = 5e10
_LEAST = 2  # the negative control needs a second text
_ULP = 2.0**-23


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The comparison of one output.

  Attributes:
    values: number of compared floats.
    apart: distance of the text model from its parts.
    control: distance of each text's output from that of another text, the negative control.
    allowed: tolerance, which `apart` must meet and `control` must exceed.
  """

  values: int
  apart: measures.Distance
  control: measures.Distance
  allowed: measures.Distance

  @property
  def passes(self) -> bool:
    """Whether the output is within tolerance, and the negative control is not."""
    return self.values > 0 and self.apart.within(self.allowed) and not self.control.within(self.allowed)


@dataclasses.dataclass(frozen=True)
class Certificate:
  """The proof that a text model computes the same as its preprocessor and encoder.

  Attributes:
    texts: number of compared texts.
    outputs: comparisons by output name. Outputs of the model's call are 'pooled_output', 'layer_0' and so on; those of
      its signature are 'serving_default/pooled_output' and so on.
    dropout: whether the training mode is random, as the encoder's is.
  """

  texts: int
  outputs: dict[str, Comparison]
  dropout: bool

  def as_json(self) -> dict[str, Any]:
    """Returns the form of the record, with figures rounded to three digits."""
    return {
      'texts': self.texts,
      'dropout': self.dropout,
      'outputs': {
        name: {'values': c.values}
        | {
          figure: {key: float(f'{value:.2e}') for key, value in dataclasses.asdict(getattr(c, figure)).items()}
          for figure in ('apart', 'control', 'allowed')
        }
        for name, c in self.outputs.items()
      },
    }


def texts(version: int, rows: int) -> tuple[str, ...]:
  """Returns up to `rows` edge-case texts for a version of the preprocessor's contract.

  The first two distinguish the rules of the versions. The first has a comma after a digit, which works for vocabularies
  with a piece of both. The second has an eszett, which works for all vocabularies.
  """
  every = preprocessor_certificate.texts(version)
  first = [next(text for text in every if mark in text) for mark in ('1,200', 'ß')]
  return (*first, *(text for text in every if text not in first))[:rows]


def affordable(config: albert_config.AlbertConfig) -> int:
  """Returns the number of texts to run for a model of these sizes."""
  hidden, length = config.hidden_size, min(spec.SEQ_LENGTH, config.max_position_embeddings)
  layer = length * (4 * hidden**2 + 2 * hidden * config.intermediate_size + 2 * length * hidden)
  return max(_LEAST, int(_WORK / (len(config.block_of_layer) * layer)))


class Text:
  """A text model loaded from its exported files."""

  def __init__(self, path: pathlib.Path):
    """Loads the model.

    Args:
      path: directory of the SavedModel.

    Raises:
      UntrustedGraphError: the graph has an operation that is not on the allow-list.
    """
    import tensorflow_text  # noqa: F401  (registers the operations)

    self._loaded = op_allow_list.load(path)

  def outputs(self, sentences: Sequence[str], training: bool = False) -> dict[str, np.ndarray]:
    """Calls the model.

    Args:
      sentences: the texts.
      training: whether to run the training mode.

    Returns:
      Float32 outputs by name as in `interface.served`, and the layers as `layer_0` and so on.

    Raises:
      ParityError: the model does not have the interface of a text model.
    """
    import tensorflow as tf

    with exported_encoder.as_it_stands(), _interface_errors():
      return flat(self._loaded(tf.constant(sentences), training=training))

  def served(self, sentences: Sequence[str]) -> dict[str, np.ndarray]:
    """Calls the signature `serving_default`, and returns its float32 outputs by name.

    Raises:
      ParityError: the signature is missing or has another interface.
    """
    import tensorflow as tf

    with exported_encoder.as_it_stands(), _interface_errors():
      return flat(self._loaded.signatures['serving_default'](sentences=tf.constant(sentences)))

  @property
  def trainable(self) -> list[tuple[int, ...]]:
    """Sorted shapes of the trainable variables."""
    return shapes(self._loaded)


@contextlib.contextmanager
def _interface_errors() -> Iterator[None]:
  """Turns errors of calls with an unexpected interface into ParityError."""
  import tensorflow as tf

  try:
    yield
  # TensorFlow raises these for a missing function, and for unexpected inputs or outputs.
  except (AttributeError, KeyError, TypeError, ValueError, tf.errors.OpError) as e:
    raise errors.ParityError(
      f'text model: unexpected interface ({" ".join(str(e).split())[:300]}); report this fault of the conversion'
    ) from e


def shapes(loaded: Any) -> list[tuple[int, ...]]:
  """Returns the sorted shapes of the trainable variables of a loaded SavedModel."""
  return sorted(tuple(variable.shape) for variable in getattr(loaded, 'trainable_variables', ()))


def flat(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns an encoder's outputs, with the layers as `layer_0` and so on."""
  layers = {f'layer_{number}': layer.numpy() for number, layer in enumerate(outputs.get('encoder_outputs', ()))}
  return {name: value.numpy() for name, value in outputs.items() if name != 'encoder_outputs'} | layers


def check(
  text: pathlib.Path,
  preprocessor: pathlib.Path,
  encoder: pathlib.Path,
  version: int,
  config: albert_config.AlbertConfig,
) -> Certificate:
  """Loads a text model and its parts, and compares their outputs for edge-case texts.

  Args:
    text: directory of the text model.
    preprocessor: directory of its preprocessor.
    encoder: directory of its encoder, with interface 'dict'.
    version: version of the preprocessor's contract.
    config: config of the encoder.

  Raises:
    ParityError: one of these: an output differs, is missing or is unexpected; a negative control passes; the training
      mode is random against the config, or not random; the trainable variables differ; the interface differs.
  """
  import tensorflow as tf

  sentences = texts(version, affordable(config))
  packed = preprocessor_certificate.Preprocessor(preprocessor).packed(sentences)
  loaded = op_allow_list.load(encoder)
  with exported_encoder.as_it_stands():
    # Text models of earlier releases compute padding too, and their encoders have no padding-free call.
    encode = getattr(loaded, 'padding_free', loaded)
    right = flat(encode({name: tf.constant(value) for name, value in packed.items()}, training=False))
  trainable = shapes(loaded)
  del loaded  # a large model's memory
  model = Text(text)
  ours, served = model.outputs(sentences), model.served(sentences)
  mine = ours | {f'serving_default/{name}': value for name, value in served.items()}
  theirs = right | {f'serving_default/{name}': right[name] for name in interface.served(config.pooler) if name in right}
  # A fixed order: the order of TensorFlow's dicts differs between processes.
  names = [
    *interface.served(config.pooler),
    *(f'layer_{number}' for number in range(len(config.block_of_layer))),
    *(f'serving_default/{name}' for name in interface.served(config.pooler)),
  ]
  faults = [f'{name} is missing' for name in names if name not in mine or name not in theirs]
  faults += [f'{name} is unexpected' for name in sorted({*mine, *theirs} - {*names})]
  comparisons = {name: compare(mine[name], theirs[name]) for name in names if name in mine and name in theirs}
  for name, comparison in comparisons.items():
    if not comparison.apart.within(comparison.allowed):
      faults.append(f'{name} is {comparison.apart} from its parts, more than {comparison.allowed}')
    elif not comparison.passes:
      faults.append(f'{name} passes the negative control with another text')
  _raise_for(faults)
  if model.trainable != trainable:
    faults.append(f'{len(model.trainable)} variables are trainable, not the {len(trainable)} of the encoder')
  dropout = config.has_dropout
  # Rounding depends on the number of tokens in the batch, so both modes run on the same text.
  trained, untrained = (
    model.outputs(sentences[:1], training).get('sequence_output', np.zeros(0)) for training in (True, False)
  )
  calm = compare(trained, untrained).apart.within(comparisons['sequence_output'].allowed)
  if calm == dropout:
    faults.append(
      f'training=True {"equals" if calm else "differs from"} training=False, but the config has '
      f'{"" if dropout else "no "}dropout'
    )
  _raise_for(faults)
  return Certificate(len(sentences), comparisons, dropout)


def _raise_for(faults: Sequence[str]) -> None:
  if faults:
    raise errors.ParityError(
      f'text model: no parity with its parts ({"; ".join(faults)}); report this fault of the conversion'
    )


def compare(ours: np.ndarray, theirs: np.ndarray) -> Comparison:
  """Compares one output, float32 [texts, ...], of the text model and of its parts."""
  scale = measures.distance(theirs, np.zeros_like(theirs))
  allowed = measures.Distance(*(_ULPS * _ULP * size for size in (scale.rms, scale.largest)))
  return Comparison(
    int(ours.size), measures.distance(ours, theirs), measures.distance(ours, np.roll(theirs, 1, axis=0)), allowed
  )
