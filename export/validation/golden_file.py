"""Records and checks golden files: outputs of a source, or ids of texts, to check a release later without the source.

A golden file is JSON with one row of values per line. It has the same bytes for the same source, and the source's
digest.
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import sentencepiece as spm
import threadpoolctl

from converters import albert_config
from converters import errors
from converters import interface
from converters import source as source_lib
from converters import tokenization
from converters.reference import inputs as proof_inputs
from converters.reference import measures
from converters.reference import outputs as reference_outputs
from converters.reference import tokenizer as reference_tokenizer
from export import record as record_lib
from export.source import policy as source_policy
from export.source import process as source_process
from export.validation import encoder_certificate
from export.validation import exported_encoder
from export.validation import parity
from export.validation import preprocessor_certificate

_FORMAT = 2  # format 1 had float32 outputs
_SEED = 2
BOUND = parity.OUTPUT_BOUND  # bound of relative distances in float64
# Number of words whose logits are kept, spread over the vocabulary.
_WORDS = 64
# The first call that returns an output, by output.
_CALLS = {tensor.name: f'{interface.name_of(tensor.part)}/{tensor.name}' for tensor in interface.OUTPUTS}
_RECORD_AGAIN = 'record it again with python -m export.golden --record'


def of_source(source: source_lib.Source, trust: source_policy.Trust = source_policy.Trust()) -> dict[str, Any]:
  """Creates the golden file of a source from its graph in float64, or from the reference if it has no graph.

  Args:
    source: the source.
    trust: options for running the source's graph.

  Returns:
    The content of the file: `source`, the digest; `inputs`, int32 [2, 6] each; `outputs`, each a list of rows of
    float64 values, without padding positions.

  Raises:
    ParityError: the source's graph and the reference differ for its weights.
    UntrustedGraphError: the graph has an operation that is not on the allow-list.
  """
  parts = source.parts & source.provable
  batch = _batch(source.config)
  _, scalar, signatures = encoder_certificate.given(source, parts)
  with threadpoolctl.threadpool_limits(1, 'blas'):
    expected = reference_outputs.Expected(source, parts, batch, scalar).outputs
  if source.graph is None:
    theirs = {
      call: expected[name].reshape(-1, expected[name].shape[-1]) for name, call in _CALLS.items() if name in expected
    }
  else:
    with source_process.start(source.path, batch, signatures, scalar, trust) as run:
      theirs = _tables(run.outputs()[1], batch)
  faults = [
    f'{call} is {distance:.1e} from the reference in float64, more than {parity.OUTPUT_BOUND:.0e}'
    for call, value in theirs.items()
    if not (distance := measures.relative(value, expected[call.rpartition('/')[2]]).rms) <= parity.OUTPUT_BOUND
  ]
  if faults:
    raise errors.ParityError(
      f'{source.handle}: no parity of its graph with the reference ({"; ".join(faults)}); give an unmodified ALBERT'
    )
  outputs = {name: value.tolist() for name, value in _kept(theirs).items()}
  return {'format': _FORMAT, 'kind': 'encoder', 'source': source.digest, 'inputs': _inputs(batch), 'outputs': outputs}


def of_sp_model(
  sp_model: bytes, digest: str, version: int, setting: tokenization.Tokenization = tokenization.DEFAULT
) -> dict[str, Any]:
  """Creates the golden file of a preprocessor: the ids of edge-case texts.

  Args:
    sp_model: serialized SentencePiece model.
    digest: digest of `sp_model`, 'sha256:...'.
    version: version of the preprocessor's contract.
    setting: letter case and accents.

  Raises:
    ParityError: the ids of TF-Text and SentencePiece differ.
  """
  import tensorflow_text

  processor = spm.SentencePieceProcessor(model_proto=sp_model)
  # TF-Text, as in the artifacts, chooses between equally likely segmentations.
  edge_cases = preprocessor_certificate.texts(version)
  chosen = (
    tensorflow_text.SentencepieceTokenizer(model=sp_model)
    .tokenize([preprocessor_certificate.normalized(t, version, setting) for t in edge_cases])
    .to_list()
  )
  texts = []
  for text, tokens in zip(edge_cases, chosen, strict=True):
    ids = preprocessor_certificate.finished(processor, tokens, version)
    if not reference_tokenizer.equally_likely(
      processor, ids, preprocessor_certificate.ids(processor, text, version, setting)
    ):
      raise errors.ParityError(
        f'SentencePiece and TF-Text: different ids for {text[:100]!r}; install the locked versions'
      )
    texts.append({'text': text, 'ids': ids})
  return {
    'format': _FORMAT,
    'kind': 'preprocessor',
    'source': digest,
    'version': version,
    'special_tokens': preprocessor_certificate.special_tokens(version, processor.vocab_size()),
    'texts': texts,
  }


def write(golden: Mapping[str, Any], path: pathlib.Path) -> None:
  """Writes a golden file in ASCII, so that invisible characters are escaped."""
  text = json.dumps(golden, indent=1, allow_nan=False)
  # Each list of numbers goes on one line. JSON strings contain no line feed.
  text = re.sub(r'\[\n[^\[\]{}"]*\]', lambda found: ' '.join(found.group().split()), text)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text + '\n', encoding='ascii')


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads a golden file.

  Raises:
    GoldenError: the file is missing, invalid, empty, of another format, or contains NaN or infinity.
  """

  def refuse(constant: str) -> None:
    raise errors.GoldenError(f'{path}: {constant} among the values; {_RECORD_AGAIN}')

  try:
    golden = json.loads(path.read_text(encoding='ascii'), parse_constant=refuse)
    stale = golden['format'] != _FORMAT
    entries = golden['outputs' if golden['kind'] == 'encoder' else 'texts']
    golden['source'], golden['inputs' if golden['kind'] == 'encoder' else 'special_tokens']
  except OSError as e:
    raise errors.GoldenError(f'{path}: no golden file ({e.strerror}); {_RECORD_AGAIN}') from e
  except (ValueError, KeyError, TypeError, RecursionError) as e:
    raise errors.GoldenError(f'{path}: not a golden file ({type(e).__name__}: {e}); {_RECORD_AGAIN}') from e
  if stale:
    raise errors.GoldenError(f'{path}: format {golden["format"]} instead of {_FORMAT}; {_RECORD_AGAIN}')
  if not entries:
    raise errors.GoldenError(f'{path}: no values to compare with; {_RECORD_AGAIN}')
  return golden


def check(release: pathlib.Path, record: record_lib.Record, golden: Mapping[str, Any]) -> dict[str, float] | int:
  """Compares a published release with a golden file.

  Args:
    release: directory of the release.
    record: record of the release.
    golden: from `read`.

  Returns:
    For an encoder, the relative distances (rms) in float64 by output; for a preprocessor, the number of compared ids.

  Raises:
    GoldenError: the golden file is of another source or kind, or it is stale or invalid.
    ParityError: the release differs from the golden file.
  """
  if isinstance(record, record_lib.Text):
    raise errors.GoldenError(
      f'{release}: golden files do not cover text models; check its encoder and its preprocessor'
    )
  if record.kind != golden['kind']:
    raise errors.GoldenError(
      f'{release}: the golden file is of kind {golden["kind"]}, not {record.kind}; give the file of this model'
    )
  digest = record.source.digest if isinstance(record, record_lib.Encoder) else record.source.sp_model.digest
  if digest != golden['source']:
    raise errors.GoldenError(
      f'{release}: made from {digest}, but the golden file is of {golden["source"]}; give the file of this model'
    )
  try:
    if isinstance(record, record_lib.Encoder):
      return _check_encoder(release, record, golden)
    return _check_preprocessor(release, record, golden)
  except (KeyError, TypeError, AttributeError) as e:
    raise errors.GoldenError(
      f'golden file of {golden["source"]}: invalid ({type(e).__name__}: {e}); {_RECORD_AGAIN}'
    ) from e


def outputs(release: pathlib.Path, record: record_lib.Encoder) -> dict[str, np.ndarray]:
  """Runs a published encoder in float64 on the inputs of golden files.

  Args:
    release: directory of the release.
    record: record of the release.

  Returns:
    Float64 tables by output name, without padding positions, and with the logits of some words.
  """
  batch = _batch(record_lib.config(record))
  exported = exported_encoder.Exported(release, record.interface, widened=True)
  return _kept(_tables(exported.outputs(batch, ['tokens', *record.heads]), batch))


def _check_encoder(release: pathlib.Path, record: record_lib.Encoder, golden: Mapping[str, Any]) -> dict[str, float]:
  if golden['inputs'] != _inputs(_batch(record_lib.config(record))):
    raise errors.GoldenError(f'golden file of {golden["source"]}: stale inputs; {_RECORD_AGAIN}')
  ours = outputs(release, record)
  faults, distances = [], {}
  for name, value in ours.items():
    if name not in golden['outputs']:
      faults.append(f'{name} is not in the golden file')
      continue
    try:
      right = np.array(golden['outputs'][name], np.float64)
    except (ValueError, TypeError) as e:
      raise errors.GoldenError(
        f'golden file of {golden["source"]}: {name} is not a table of numbers ({e}); {_RECORD_AGAIN}'
      ) from e
    if right.shape != value.shape:
      faults.append(f'{name} has shape {list(value.shape)} instead of {list(right.shape)}')
      continue
    distances[name] = measures.relative(value, right).rms
    if not distances[name] <= parity.OUTPUT_BOUND:
      faults.append(
        f'{name} is {distances[name]:.1e} from the golden values in float64, more than {parity.OUTPUT_BOUND:.0e}'
      )
  if faults:
    raise errors.ParityError(
      f'{release}: no parity with the golden file ({"; ".join(faults)}); export the release again'
    )
  return distances


def _check_preprocessor(release: pathlib.Path, record: record_lib.Preprocessor, golden: Mapping[str, Any]) -> int:
  version = record_lib.version(record)
  if version != golden['version']:
    raise errors.GoldenError(
      f'{release}: the golden file is of version {golden["version"]} of the contract, not {version}; give the file of '
      'this model'
    )
  texts = {entry['text']: entry['ids'] for entry in golden['texts']}
  if list(texts) != list(preprocessor_certificate.texts(version)):
    raise errors.GoldenError(f'golden file of {golden["source"]}: stale texts; {_RECORD_AGAIN}')
  preprocessor_certificate.compare(
    preprocessor_certificate.Preprocessor(release),
    texts,
    golden['special_tokens'],
    seq_length=record.seq_length,
  )
  return sum(map(len, texts.values()))


def moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns the differences of two golden files, as pairs of name and difference."""
  if before.get('kind') != after['kind']:
    return [('everything', 'different kind of file')]
  changes = [
    (key, f'{before.get(key)} -> {after.get(key)}')
    for key in ('source', 'version', 'special_tokens')
    if before.get(key) != after.get(key)
  ]
  if before.get('inputs') != after.get('inputs'):
    changes.append(('inputs', 'changed'))
  old, new = before.get('outputs', {}), after.get('outputs', {})
  for name in dict.fromkeys((*old, *new)):
    if old.get(name) == new.get(name):
      continue
    one, other = (np.array(side[name]) if name in side else np.zeros(0) for side in (old, new))
    by = measures.distance(one, other)
    changes.append(
      (name, f'by {by}' if one.shape == other.shape else f'shape {list(one.shape)} -> {list(other.shape)}')
    )
  old, new = ({entry['text']: entry['ids'] for entry in side.get('texts', ())} for side in (before, after))
  changes += [
    (json.dumps(text)[:40], 'different ids' if text in old and text in new else 'removed' if text in old else 'new')
    for text in dict.fromkeys((*old, *new))
    if old.get(text) != new.get(text)
  ]
  return changes


def _batch(config: albert_config.AlbertConfig) -> proof_inputs.Batch:
  return proof_inputs.make(config, proof_inputs.SHORT_LENGTH, _SEED).first(proof_inputs.SHORT_ROWS)


def _inputs(batch: proof_inputs.Batch) -> dict[str, list[list[int]]]:
  return {tensor.name: getattr(batch, tensor.name).tolist() for tensor in interface.INPUTS}


def _tables(outputs: Mapping[str, np.ndarray], batch: proof_inputs.Batch) -> dict[str, np.ndarray]:
  """Returns outputs as tables by call, without padding positions."""
  return {
    call: measures.packed(value, batch.input_mask, call.rpartition('/')[2]).reshape(-1, value.shape[-1])
    for call, value in outputs.items()
  }


def _kept(tables: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the tables of a golden file by output name: one call per output, no layers, logits of some words."""
  kept = {name: tables[call] for name, call in _CALLS.items() if call in tables}
  if 'mlm_logits' in kept:
    kept['mlm_logits'] = kept['mlm_logits'][:, :: max(1, kept['mlm_logits'].shape[-1] // _WORDS)]
  return kept
