"""Makes a TF1 Hub module of ALBERT with random weights and a small trained SentencePiece model.

python -m export.demo --output=build/demo/albert_demo
python -m export.demo --output=/tmp/albert_large --size=large
python -m export.demo --output=/tmp/albert_base --size=base --values=trained    with the statistics of trained weights
"""

import pathlib
import tempfile

from absl import flags

from converters import cli
from converters import errors
from export.demo import weight_values

_OUTPUT = flags.DEFINE_string('output', None, 'Directory to make; must not exist.', required=True)
_SIZE = flags.DEFINE_enum(
  'size',
  'demo',
  ['tiny', 'demo', 'base', 'large', 'xlarge', 'xxlarge'],
  'A published size of ALBERT, or one of the small sizes tiny and demo.',
)
_VALUES = flags.DEFINE_enum(
  'values', 'random', list(weight_values.REGIMES), 'Statistics of the weights; `trained` combines all others.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Random seed of the weights.', lower_bound=0)
_MLM = flags.DEFINE_bool('mlm', True, 'Whether the module has the masked language model head.')
_SOP = flags.DEFINE_bool('sop', True, 'Whether the module has the sentence order head.')
_DROPOUT = flags.DEFINE_float(
  'dropout', 0, 'Dropout rate of hidden units and of attention in the training mode.', lower_bound=0, upper_bound=0.9
)


def main() -> None:
  """Runs the command; see the module."""
  output = pathlib.Path(_OUTPUT.value)
  if output.exists():
    raise errors.PublishError(f'{output}: already exists; remove it, or give another --output')
  cli.check_not_published('--output', output)
  # Importing TensorFlow takes seconds: it follows the checks of the flags.
  from export.demo import tf1_module
  from export.demo import vocabulary

  spec = tf1_module.Spec(
    **tf1_module.SIZES[_SIZE.value],
    mlm=_MLM.value,
    sop=_SOP.value,
    seed=_SEED.value,
    values=_VALUES.value,
    hidden_dropout=_DROPOUT.value,
    attention_dropout=_DROPOUT.value,
  )
  model = vocabulary.train(vocabulary.CORPUS.read_text(encoding='utf-8').splitlines(), spec.vocab_size)
  output.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=output.parent, prefix=f'.{output.name}.') as unfinished:
    module = pathlib.Path(unfinished) / 'module'
    tf1_module.write(module, spec, model, vocabulary.as_text(model))
    module.rename(output)
  print(f'made {output}: a TF1 Hub module of size {_SIZE.value!r} with {_VALUES.value} weights')


if __name__ == '__main__':
  cli.run(main, {'Most need': ('output', 'size'), 'Weights': ('values', 'seed', 'dropout', 'mlm', 'sop')})
