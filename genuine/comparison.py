"""Compares a published release with outputs and token ids of TensorFlow 1.15 with the release's module."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

# Tolerance of an output's difference, over the output's largest value if that is more than 1. TensorFlow 1.15 and 2.20
# add in other orders. The measured differences are 6.9e-6 at base size and 5.9e-6 at large size.
LIMIT = 1e-5


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Differences between a release and TensorFlow 1.15.

  Attributes:
    outputs: by output name, largest difference at positions that are not padding. It is divided by the output's largest
      value if that is more than 1.
    texts: number of texts whose token ids were compared.
    other_ids: the texts whose token ids differ.
  """

  outputs: dict[str, float]
  texts: int
  other_ids: tuple[str, ...]

  def faults(self) -> list[str]:
    """Returns one line for each difference above `LIMIT`, and one line for different token ids."""
    faults = [
      f'{name} differs by {value:.1e} (at most {LIMIT:.0e})'
      for name, value in self.outputs.items()
      if not value <= LIMIT
    ]
    if self.other_ids:
      faults.append(
        f'{len(self.other_ids)} of {self.texts} texts have other token ids (first: {self.other_ids[0][:80]!r})'
      )
    return faults


def compare(encoder: pathlib.Path, preprocessor: pathlib.Path, expected: pathlib.Path) -> Comparison:
  """Loads a release as its users do, and compares it.

  Args:
    encoder: directory of a published encoder with the dict interface.
    preprocessor: directory of its published preprocessor, of contract version 4.
    expected: path of the expected.npz of write_module.py.

  Raises:
    KeyError: the release lacks an output of TensorFlow 1.15.
  """
  import tensorflow as tf
  import tensorflow_text  # noqa: F401  (registers the ops)

  with np.load(expected, allow_pickle=False) as stored:
    values: dict[str, Any] = dict(stored)
  model = tf.saved_model.load(str(encoder))
  mask = values['input_mask']
  inputs = {'input_word_ids': values['input_ids'], 'input_mask': mask, 'input_type_ids': values['segment_ids']}
  inputs = {name: tf.constant(value) for name, value in inputs.items()}
  ours: dict[str, Any] = {
    f'tokens/{name}': model(inputs)[name].numpy() for name in ('pooled_output', 'sequence_output')
  }
  if 'mlm/mlm_logits' in values:
    outputs = model.mlm({**inputs, 'masked_lm_positions': tf.constant(values['mlm_positions'])})
    ours |= {f'mlm/{name}': outputs[name].numpy() for name in ('pooled_output', 'sequence_output', 'mlm_logits')}
  if 'sop/sop_log_probs' in values:
    ours |= {f'sop/{name}': value.numpy() for name, value in model.sop(inputs).items() if f'sop/{name}' in values}
  distances = {}
  for name in sorted(name for name in values if '/' in name and not name.startswith('ids/')):
    theirs = values[name]
    difference = np.abs(ours[name].reshape(theirs.shape) - theirs) / max(1.0, float(np.abs(theirs).max()))
    distances[name] = float(difference[mask != 0].max() if name.endswith('sequence_output') else difference.max())

  texts = json.loads(str(values['texts']))
  tokens = tf.saved_model.load(str(preprocessor)).tokenize(tf.constant(texts)).to_list()
  other = [text for number, text in enumerate(texts) if tokens[number] != values[f'ids/{number}'].tolist()]
  return Comparison(distances, len(texts), tuple(other))
