"""Golden files: what a source computes, and which ids a text has, kept to compare an artifact with later and without the source.

A file is JSON with one row of values a line, the same bytes for the same source, and names the digest of what it is of.
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import sentencepiece as spm
import threadpoolctl

from converters import config as config_lib
from converters import errors
from converters import source as source_lib
from export import trust as trust_lib
from export.proof import batch as batch_lib
from export.proof import certificate
from export.proof import expected as expected_lib
from export.proof import exported as exported_lib
from export.proof import parity
from export.proof import source_run
from export.proof import token_parity

_FORMAT = 1
_SEED = 2
# Logits are kept for this many words, spread over the vocabulary.
_WORDS = 64
# The most that may be allowed, as a share of the values.
_MOST = 1e-3
_RECORD_AGAIN = 'record it again with python -m export.golden --record'


def of_source(source: source_lib.Source, trust: trust_lib.Trust = trust_lib.Trust()) -> dict[str, Any]:
  """Runs a source's graph, or the reference in float32 if it has none, and makes the golden file of its outputs.

  Returns:
    The content: `source`, its digest; `inputs`, int32 [2, 6] each; and for each of `outputs` its `values` at the positions
    that are not padding, a list of rows, and how far from them an export may be in root mean square and at most: as far as
    the source is from the float64 reference, and as far as an export may be from it, together.

  Raises:
    ParityError: the source does not compute an ALBERT with these weights.
    UntrustedGraphError: its graph may not be run.
  """
  parts = source.parts & source.provable
  batch = _batch(source.config)
  _, scalar, signatures = certificate.given(source, parts)
  if source.graph is None:
    with threadpoolctl.threadpool_limits(1, 'blas'):
      theirs = expected_lib.Expected(source, parts, batch, scalar, dtype=np.float32).outputs(signatures)
  else:
    with source_run.start(source.path, batch, signatures, scalar, trust) as run:
      theirs = run.outputs()
  theirs = {name: value for name, value in theirs.items() if '/layer_' not in name}
  with threadpoolctl.threadpool_limits(1, 'blas'):
    expected = expected_lib.Expected(source, parts, batch, scalar)
  checks = parity.compare(theirs, theirs, expected, batch.input_mask)
  outputs = {}
  for name, value in _kept(theirs, batch).items():
    check = checks[name]
    allowed = [one + other for one, other in ((check.source.rms, check.allowed.rms), (check.source.largest, check.allowed.largest))]
    outputs[name] = {'allowed_rms': float(f'{allowed[0]:.2e}'), 'allowed_largest': float(f'{allowed[1]:.2e}'),
                     'values': [[float(str(v)) for v in row] for row in value]}
  return {'format': _FORMAT, 'kind': 'encoder', 'source': source.digest, 'inputs': _inputs(batch), 'outputs': outputs}


def of_sp_model(sp_model: bytes, digest: str, version: int) -> dict[str, Any]:
  """Makes the golden file of the ids that awkward texts have.

  Args:
    sp_model: the SentencePiece model.
    digest: its, 'sha256:...'.
    version: of the preprocessor's contract.

  Raises:
    ParityError: TF-Text's ids are not SentencePiece's.
  """
  import tensorflow_text
  processor = spm.SentencePieceProcessor(model_proto=sp_model)
  # Of two segmentations that are equally likely, the one that artifacts choose.
  awkward = token_parity.texts(version)
  chosen = tensorflow_text.SentencepieceTokenizer(model=sp_model).tokenize([token_parity.normalized(t, version) for t in awkward]).to_list()
  texts = []
  for text, tokens in zip(awkward, chosen, strict=True):
    ids = token_parity.finished(processor, tokens, version)
    if not token_parity.equally_likely(processor, ids, token_parity.ids(processor, text, version)):
      raise errors.ParityError(f'SentencePiece and TF-Text give other ids for {text[:100]!r}: use the locked versions')
    texts.append({'text': text, 'ids': ids})
  return {'format': _FORMAT, 'kind': 'preprocessor', 'source': digest, 'version': version,
          'special_tokens': token_parity.special_tokens(version, processor.vocab_size()), 'texts': texts}


def write(golden: Mapping[str, Any], path: pathlib.Path) -> None:
  """Writes a file: ASCII, so that what cannot be seen in a text is spelled out."""
  text = json.dumps(golden, indent=1, allow_nan=False)
  # Lists of numbers on one line each. (A string holds no line feed.)
  text = re.sub(r'\[\n[^\[\]{}"]*\]', lambda found: ' '.join(found.group().split()), text)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text + '\n', encoding='ascii')


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file.

  Raises:
    GoldenError: it is missing, no golden file, empty, of another format, or holds what is no number.
  """
  def refuse(constant: str) -> None:
    raise errors.GoldenError(f'{constant} among the values in {path}: {_RECORD_AGAIN}')

  try:
    golden = json.loads(path.read_text(encoding='ascii'), parse_constant=refuse)
    stale = golden['format'] != _FORMAT
    entries = golden['outputs' if golden['kind'] == 'encoder' else 'texts']
    golden['source'], golden['inputs' if golden['kind'] == 'encoder' else 'special_tokens']
  except OSError as e:
    raise errors.GoldenError(f'no golden file {path} ({e.strerror}): {_RECORD_AGAIN}') from e
  except (ValueError, KeyError, TypeError, RecursionError) as e:
    raise errors.GoldenError(f'{path} is no golden file ({type(e).__name__}: {e}): {_RECORD_AGAIN}') from e
  if stale:
    raise errors.GoldenError(f'format {golden["format"]} instead of {_FORMAT} in {path}: {_RECORD_AGAIN}')
  if not entries:
    raise errors.GoldenError(f'nothing to compare with in {path}: {_RECORD_AGAIN}')
  return golden


def check(release: pathlib.Path, record: Mapping[str, Any], golden: Mapping[str, Any]) -> dict[str, parity.Distance] | int:
  """Holds a published release against a golden file.

  Args:
    release: its directory.
    record: its record, which says what it was made from.
    golden: from `read`.

  Returns:
    The distances by output; or for a preprocessor, the number of ids compared.

  Raises:
    GoldenError: the golden file is of another source, of another kind, or stale.
    ParityError: the release differs.
  """
  if record['kind'] == 'text':
    raise errors.GoldenError(f'{release} goes from text to vectors, and golden files are of encoders and preprocessors: check the two that it is '
                             'made of')
  if record['kind'] != golden['kind']:
    raise errors.GoldenError(f'the golden file is of kind {golden["kind"]}, and {release} holds another kind of model: give its own')
  digest = record['source']['digest'] if record['kind'] == 'encoder' else record['source']['sp_model']['digest']
  if digest != golden['source']:
    raise errors.GoldenError(f'the golden file is of {golden["source"]}, and {release} was made from {digest}: give its own')
  try:
    return (_check_encoder if record['kind'] == 'encoder' else _check_preprocessor)(release, record, golden)
  except (KeyError, TypeError, AttributeError) as e:
    raise errors.GoldenError(f'the golden file of {golden["source"]} is broken ({type(e).__name__}: {e}): {_RECORD_AGAIN}') from e


def outputs(release: pathlib.Path, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """What a published encoder computes for the inputs of golden files.

  Args:
    release: its directory.
    record: its record.

  Returns:
    Tables by output name: what is by position without padding, and logits of some words.
  """
  batch = _batch(config_lib.parse(record['config']))
  exported = exported_lib.Exported(release, record['interface'])
  return _kept(exported.outputs(batch, ['tokens', *record['heads']]), batch)


def _check_encoder(release: pathlib.Path, record: Mapping[str, Any], golden: Mapping[str, Any]) -> dict[str, parity.Distance]:
  if golden['inputs'] != _inputs(_batch(config_lib.parse(record['config']))):
    raise errors.GoldenError(f'stale inputs in the golden file of {golden["source"]}: {_RECORD_AGAIN}')
  ours = outputs(release, record)
  faults, distances = [], {}
  for name, value in ours.items():
    if name not in golden['outputs']:
      faults.append(f'{name} is not in the golden file')
      continue
    entry = golden['outputs'][name]
    try:
      right = np.array(entry['values'], np.float64)
      allowed = parity.Distance(float(entry['allowed_rms']), float(entry['allowed_largest']))
    except (ValueError, KeyError, TypeError) as e:
      raise errors.GoldenError(f'{name} is no table of numbers ({e}) in the golden file of {golden["source"]}: {_RECORD_AGAIN}') from e
    if right.shape != value.shape:
      faults.append(f'{name} has shape {list(value.shape)} instead of {list(right.shape)}')
      continue
    # A file is text that anybody can edit: it may not allow what would not be the same model any more.
    scale = parity.distance(right, np.zeros_like(right))
    if not allowed.within(parity.Distance(_MOST * scale.rms, _MOST * scale.largest)):
      raise errors.GoldenError(f'{name} may be {allowed} off, of {scale}, in the golden file of {golden["source"]}: {_RECORD_AGAIN}')
    distances[name] = parity.distance(value, right)
    if not distances[name].within(allowed):
      faults.append(f'{name} is {distances[name]} from the golden values, more than {allowed}')
  if faults:
    raise errors.ParityError(f'no parity with the golden file ({"; ".join(faults)}) in {release}: this is not what was exported')
  return distances


def _check_preprocessor(release: pathlib.Path, record: Mapping[str, Any], golden: Mapping[str, Any]) -> int:
  version = int(record['release'].rpartition('/')[2])
  if version != golden['version']:
    raise errors.GoldenError(f'the golden file is of version {golden["version"]} of the contract, not of {version} of {release}: give its own')
  texts = {entry['text']: entry['ids'] for entry in golden['texts']}
  if list(texts) != list(token_parity.texts(version)):
    raise errors.GoldenError(f'stale texts in the golden file of {golden["source"]}: {_RECORD_AGAIN}')
  token_parity.compare(token_parity.Preprocessor(release), texts, golden['special_tokens'])
  return sum(map(len, texts.values()))


def moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str]]:
  """What is not the same in two golden files, as name and difference."""
  if before.get('kind') != after['kind']:
    return [('everything', 'another kind of file')]
  changes = [(key, f'{before.get(key)} -> {after.get(key)}') for key in ('source', 'version', 'special_tokens')
             if before.get(key) != after.get(key)]
  if before.get('inputs') != after.get('inputs'):
    changes.append(('inputs', 'others'))
  old, new = before.get('outputs', {}), after.get('outputs', {})
  for name in dict.fromkeys((*old, *new)):
    if old.get(name) == new.get(name):
      continue
    one, other = (np.array(side[name]['values']) if name in side else np.zeros(0) for side in (old, new))
    by = parity.distance(one, other)
    changes.append((name, f'by {by}' if one.shape == other.shape else f'shape {list(one.shape)} -> {list(other.shape)}'))
  old, new = ({entry['text']: entry['ids'] for entry in side.get('texts', ())} for side in (before, after))
  changes += [(json.dumps(text)[:40], 'other ids' if text in old and text in new else 'gone' if text in old else 'new')
              for text in dict.fromkeys((*old, *new)) if old.get(text) != new.get(text)]
  return changes


def _batch(config: config_lib.AlbertConfig) -> batch_lib.Batch:
  return batch_lib.make(config, batch_lib.SHORT_LENGTH, _SEED).first(batch_lib.SHORT_ROWS)


def _inputs(batch: batch_lib.Batch) -> dict[str, list[list[int]]]:
  return {name: getattr(batch, name).tolist() for name in ('input_word_ids', 'input_mask', 'input_type_ids', 'masked_lm_positions')}


def _kept(outputs: Mapping[str, np.ndarray], batch: batch_lib.Batch) -> dict[str, np.ndarray]:
  """The outputs that are kept, as tables: what is by position without padding, and logits of some words."""
  result = {}
  for signature, name in (('tokens', 'pooled_output'), ('tokens', 'sequence_output'), ('mlm', 'mlm_logits'), ('sop', 'sop_log_probs')):
    if f'{signature}/{name}' not in outputs:
      continue
    value = outputs[f'{signature}/{name}']
    value = value.reshape(-1, value.shape[-1])
    if name == 'sequence_output':
      value = value[batch.input_mask.astype(bool).ravel()]
    if name == 'mlm_logits':
      value = value[:, ::max(1, value.shape[-1] // _WORDS)]
    result[name] = value
  return result
