"""Compares a model from text to vectors with the preprocessor and the encoder that it is made of, called one after the other.

Those two are proven on their own, against the tokenizer's rule and against the source. Here it is seen that nothing
happened to them on the way into one model: the same weights, the same ids (which cannot be seen from outside), the same
mode.
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
from export import spec
from export.graphs import op_allow_list
from export.reference import measures
from export.validation import exported_encoder
from export.validation import preprocessor_certificate

# Two runs of the same operations on the same numbers were the same bit for bit wherever this was run. Where a kernel
# splits its work otherwise from run to run, what single outputs are always allowed is allowed here.
_ULPS = 16
# Multiplications that one run of all texts may take: half a second on two processors. A model of base size runs four
# texts; for one of large size or larger, the least there can be take longer than that.
_WORK = 5e10
_LEAST = 2  # the control needs another text
_ULP = 2.0**-23
_SERVED = ('default', 'pooled_output', 'sequence_output')


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One output compared.

  Attributes:
    values: how many floats were compared.
    apart: how far the two ways are from each other.
    control: how far, if each text's output is held against another text's.
    allowed: how far they may be, and the control must not be.
  """

  values: int
  apart: measures.Distance
  control: measures.Distance
  allowed: measures.Distance

  @property
  def passes(self) -> bool:
    return self.values > 0 and self.apart.within(self.allowed) and not self.control.within(self.allowed)


@dataclasses.dataclass(frozen=True)
class Certificate:
  """The proof that a model from text to vectors does what its two parts do.

  Attributes:
    texts: how many there were.
    outputs: what was compared, by output: of the model's call, with the layers as 'layer_0' and so on, and of its
      signature as
      'serving_default/pooled_output' and so on.
    dropout: whether the training mode is random, as the encoder's is.
  """

  texts: int
  outputs: dict[str, Comparison]
  dropout: bool

  def as_json(self) -> dict[str, Any]:
    """For the record: figures with three digits."""
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
  """Awkward texts for a version of the preprocessor's contract: at most so many.

  The first two tell the versions' rules apart: by a comma after a digit, where the vocabulary has a piece of both, and
  by an eszett, whatever
  it has.
  """
  every = preprocessor_certificate.texts(version)
  first = [next(text for text in every if mark in text) for mark in ('1,200', 'ß')]
  return (*first, *(text for text in every if text not in first))[:rows]


def affordable(config: albert_config.AlbertConfig) -> int:
  """How many texts to run for a model of these sizes."""
  hidden, length = config.hidden_size, spec.SEQ_LENGTH
  layer = length * (4 * hidden**2 + 2 * hidden * config.intermediate_size + 2 * length * hidden)
  return max(_LEAST, int(_WORK / (config.num_hidden_layers * layer)))


class Text:
  """A model from text to vectors, loaded from its files."""

  def __init__(self, path: pathlib.Path):
    """Loads it.

    Raises:
      UntrustedGraphError: it has operations that no export has.
    """
    import tensorflow_text  # noqa: F401  (registers the operations)

    self._loaded = op_allow_list.load(path)

  def outputs(self, sentences: Sequence[str], training: bool = False) -> dict[str, np.ndarray]:
    """Calls it: float32 `default`, `pooled_output` and `sequence_output`, and the layers as `layer_0` and so on.

    Raises:
      ParityError: it is not called that way.
    """
    import tensorflow as tf

    with exported_encoder.as_it_stands(), _such_a_model():
      return flat(self._loaded(tf.constant(sentences), training=training))

  def served(self, sentences: Sequence[str]) -> dict[str, np.ndarray]:
    """Calls its signature: float32 by name.

    Raises:
      ParityError: it has none, or another one.
    """
    import tensorflow as tf

    with exported_encoder.as_it_stands(), _such_a_model():
      return flat(self._loaded.signatures['serving_default'](sentences=tf.constant(sentences)))

  @property
  def trainable(self) -> list[tuple[int, ...]]:
    """The shapes of its trainable variables."""
    return shapes(self._loaded)


@contextlib.contextmanager
def _such_a_model() -> Iterator[None]:
  import tensorflow as tf

  try:
    yield
  # What TensorFlow raises for a function that is not there, or takes or gives something else.
  except (AttributeError, KeyError, TypeError, ValueError, tf.errors.OpError) as e:
    raise errors.ParityError(
      f'no parity (it is not called as a model from text to vectors is: {" ".join(str(e).split())[:300]})'
    ) from e


def shapes(loaded: Any) -> list[tuple[int, ...]]:
  """Those of a loaded object's trainable variables, in an order that does not depend on it."""
  return sorted(tuple(variable.shape) for variable in getattr(loaded, 'trainable_variables', ()))


def flat(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """An encoder's outputs, each layer under a name of its own."""
  layers = {f'layer_{number}': layer.numpy() for number, layer in enumerate(outputs.get('encoder_outputs', ()))}
  return {name: value.numpy() for name, value in outputs.items() if name != 'encoder_outputs'} | layers


def check(
  text: pathlib.Path,
  preprocessor: pathlib.Path,
  encoder: pathlib.Path,
  version: int,
  config: albert_config.AlbertConfig,
) -> Certificate:
  """Loads all three, and compares what comes out of them for awkward texts.

  Args:
    text, preprocessor, encoder: their SavedModels; the encoder's interface is 'dict'.
    version: of the preprocessor's contract.
    config: the encoder's sizes.

  Raises:
    ParityError: an output differs, is missing or is new, or would not be noticed if it were another text's; or one is
      random that should
      not be, or the other way round; or other variables can be trained; or it is called in another way.
  """
  import tensorflow as tf

  sentences = texts(version, affordable(config))
  packed = preprocessor_certificate.Preprocessor(preprocessor).packed(sentences)
  loaded = op_allow_list.load(encoder)
  with exported_encoder.as_it_stands():
    right = flat(loaded({name: tf.constant(value) for name, value in packed.items()}, training=False))
  trainable = shapes(loaded)
  del loaded  # a large model's memory
  model = Text(text)
  ours, served = model.outputs(sentences), model.served(sentences)
  mine = ours | {f'serving_default/{name}': value for name, value in served.items()}
  theirs = right | {f'serving_default/{name}': right[name] for name in _SERVED if name in right}
  # In an order of their own: TensorFlow's dicts have another one in each process.
  names = [
    *_SERVED,
    *(f'layer_{number}' for number in range(config.num_hidden_layers)),
    *(f'serving_default/{name}' for name in _SERVED),
  ]
  faults = [f'{name} is missing' for name in names if name not in mine or name not in theirs]
  faults += [f'{name} is new' for name in sorted({*mine, *theirs} - {*names})]
  comparisons = {name: compare(mine[name], theirs[name]) for name in names if name in mine and name in theirs}
  for name, comparison in comparisons.items():
    if not comparison.apart.within(comparison.allowed):
      faults.append(f'{name} is {comparison.apart} from what the two parts give, more than {comparison.allowed}')
    elif not comparison.passes:
      faults.append(f'{name} is the same for another text')
  _raise_for(faults)
  if model.trainable != trainable:
    faults.append(f'{len(model.trainable)} variables can be trained, which are not the {len(trainable)} of the encoder')
  dropout = config.has_dropout
  trained = model.outputs(sentences[:1], training=True).get('sequence_output', np.zeros(0))
  calm = compare(trained, right['sequence_output'][:1]).apart.within(comparisons['sequence_output'].allowed)
  if calm == dropout:
    faults.append(
      f'training=True is {"" if calm else "not "}the same as training=False, but the config has {"" if dropout else "no "}dropout'
    )
  _raise_for(faults)
  return Certificate(len(sentences), comparisons, dropout)


def _raise_for(faults: Sequence[str]) -> None:
  if faults:
    raise errors.ParityError(
      f'no parity ({"; ".join(faults)}) in the model from text to vectors: this is a fault of the conversion'
    )


def compare(ours: np.ndarray, theirs: np.ndarray) -> Comparison:
  """Compares one output, [texts, ...]."""
  scale = measures.distance(theirs, np.zeros_like(theirs))
  allowed = measures.Distance(*(_ULPS * _ULP * size for size in (scale.rms, scale.largest)))
  return Comparison(
    int(ours.size), measures.distance(ours, theirs), measures.distance(ours, np.roll(theirs, 1, axis=0)), allowed
  )
