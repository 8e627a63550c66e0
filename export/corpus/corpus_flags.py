"""Flags of a comparison on a text corpus. Does not import Apache Beam."""

from absl import flags

from export import spec

CORPUS = flags.DEFINE_multi_string(
  'corpus',
  None,
  'Text files, one text a line, on which --source and --release are compared. Paths or globs that Apache Beam or '
  'tf.io.gfile reads, separated by commas; repeatable. Files that end in .gz, .bz2 or .xz are decompressed.',
)
PREPROCESSOR_RELEASE = flags.DEFINE_string(
  'preprocessor_release',
  None,
  'For --corpus: directory of the published preprocessor. Default: the preprocessor in the record of --release, in the '
  'same tree.',
)
OUTPUT = flags.DEFINE_string(
  'output',
  None,
  'For --corpus: directory for results.json, README.md and index.html, local or at an address that Apache Beam or '
  'tf.io.gfile writes.',
)
SEQ_LENGTH = flags.DEFINE_integer(
  'seq_length',
  spec.SEQ_LENGTH,
  'For --corpus: maximum positions of a line. Longer lines are truncated, as by the preprocessor.',
  lower_bound=3,
)
BATCH_TOKENS = flags.DEFINE_integer(
  'batch_tokens', 2048, 'For --corpus: maximum positions of a batch, with padding.', lower_bound=1
)
WORST = flags.DEFINE_integer(
  'worst',
  20,
  'For --corpus: number of lines listed with their text: the worst of each output, and the first with wrong ids.',
  lower_bound=1,
  upper_bound=1000,
)
THREADS = flags.DEFINE_integer(
  'threads',
  0,
  'For --corpus: TensorFlow threads of each model. 0: the processors divided by the workers. Results are bitwise equal '
  'only for equal numbers.',
  lower_bound=0,
)

# For --help; without `corpus`.
GROUP = ('output', 'preprocessor_release', 'seq_length', 'batch_tokens', 'worst', 'threads')
