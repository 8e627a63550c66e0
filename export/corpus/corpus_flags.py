"""The flags of a comparison on whole corpora. Takes no Beam."""

from absl import flags

CORPUS = flags.DEFINE_multi_string(
  'corpus',
  None,
  'Files of text, a line each, to send through --source and --release: paths or globs, anything that Apache Beam or tf.io.gfile reads; '
  'unpacked by their suffix (.gz, .bz2, .xz). Several: with commas, or given again.',
)
PREPROCESSOR_RELEASE = flags.DEFINE_string(
  'preprocessor_release',
  None,
  'For --corpus: directory of the published preprocessor. Default: the one that the record of --release names, in the same tree.',
)
OUTPUT = flags.DEFINE_string(
  'output',
  None,
  'For --corpus: directory for results.json, README.md and index.html; on this machine, or where Apache Beam or tf.io.gfile writes.',
)
SEQ_LENGTH = flags.DEFINE_integer(
  'seq_length',
  128,
  'For --corpus: the most positions of a line. What is longer is cut, as preprocessors do.',
  lower_bound=3,
)
BATCH_TOKENS = flags.DEFINE_integer(
  'batch_tokens', 2048, 'For --corpus: the most positions of a batch, with padding.', lower_bound=1
)
WORST = flags.DEFINE_integer(
  'worst',
  20,
  'For --corpus: how many lines are kept with their text: the worst of each output, and the first that cannot be right.',
  lower_bound=1,
  upper_bound=1000,
)
THREADS = flags.DEFINE_integer(
  'threads',
  0,
  'For --corpus: threads of TensorFlow for each model. 0: its worker\'s share of the processors. Figures are the same, to the last digit, '
  'only for the same number.',
  lower_bound=0,
)
