"""Cards have the fields of hub hosts, state the facts of their version, and have Python blocks that run."""

import json
import pathlib
import re

import pytest

from export.release import catalog
from export.release import collection
from export.release import model_card
from export.store import tree
from runtimes import snippets

MODELS = [
  f'tensorflow/albert_en_demo{kind}/{version}'
  for kind in ('', '_preprocess', '_text')
  for version in (1, 2, 3, 4)
  if (kind, version) != ('_text', 1)
]
COLLECTION = 'tensorflow/collections/albert/1'


@pytest.mark.parametrize('path', [*MODELS, COLLECTION])
def test_python_runs(history, path, capsys):
  card = (history / f'{path}.md').read_text()
  # The other program is for Keras 3: tests/test_users.py runs it.
  program, *others = snippets.programs(card, path)
  assert ['import keras\n' in other for other in others] == [True] * (
    path.startswith(('tensorflow/albert_en_demo/', 'tensorflow/albert_en_demo_text/')) and not path.endswith('/1')
  )
  namespace = {}
  exec(compile(program.replace(model_card.BASE_URL, f'{history}/'), path, 'exec'), namespace)
  # The shapes in the comments are correct.
  shapes = re.findall(r'^(\w+(?:, \w+)*) = .*# \[([^\]]*)\]$', program, re.MULTILINE)
  for name, shape in shapes:
    actual, said = namespace[name].shape, shape.split(', ')
    assert len(actual) == len(said), name
    assert all(size == int(number) for size, number in zip(actual, said, strict=True) if number.isdigit()), (
      name,
      actual,
      said,
    )
  if path == COLLECTION or path.endswith(('demo/2', 'demo/3', 'demo/4')) or '_text/' in path:
    assert shapes
  if path.startswith('tensorflow/albert_en_demo/'):
    assert pathlib.Path(namespace['sp_model_file'].decode()).read_bytes()


@pytest.mark.parametrize('path', MODELS)
def test_metadata_lines(history, path):
  lines = (history / f'{path}.md').read_text().splitlines()
  assert lines[0] == f'# Module {path}'
  assert lines[1] == '' and re.fullmatch(r'[A-Z].*\.', lines[2]) and lines[3] == ''  # one plain line of summary
  end = lines.index('', 4)
  metadata = dict(re.fullmatch(r'<!-- ([a-z-]+): (.+) -->', line).groups() for line in lines[4:end])
  assert metadata['asset-path'] == path.rpartition('/')[2] + '.tar.gz' and (history / f'{path}.tar.gz').exists()
  encoder = 'preprocess' not in path
  assert metadata['task'] == ('text-embedding' if encoder else 'text-preprocessing')
  assert metadata['fine-tunable'] == ('true' if encoder else 'false')
  assert (metadata['format'], metadata['language']) == ('saved_model_2', 'en')
  assert metadata['network-architecture'] == 'Transformer, ALBERT'
  assert ('dataset' in metadata) == encoder
  assert '<!--' not in '\n'.join(lines[end:])


@pytest.mark.parametrize('path', MODELS)
def test_a_card_says_what_its_record_says(history, path):
  card = (history / f'{path}.md').read_text()
  record = json.loads((history / f'{path}.release.json').read_text())
  for file in (*record['files'].values(), record['archive']):
    assert f'`{file["sha256"]}`' in card
  assert record['archive']['tar_sha256'] in card
  digest = record['source']['sp_model' if record['kind'] == 'preprocessor' else 'digest']
  assert (digest if isinstance(digest, str) else digest['digest']).removeprefix('sha256:') in card
  version = path.rpartition('/')[2]
  if record['kind'] == 'encoder' and record['interface'] == 'dict':
    assert '--to=litert' in card and 'TFLiteConverter' in card
  changes = [f'### Version {v}' for v in range(int(version), 1 if record['kind'] == 'text' else 0, -1)]
  assert re.findall(r'^### Version \d+', card, re.MULTILINE) == changes
  for change in record['changes']:
    assert f'* {change}' in card
  if record['kind'] == 'encoder':
    for output in ('pooled_output', 'sequence_output'):
      figures = record['certificate']['outputs'][output]['float32']['export']
      assert f'{figures["rms"]:.1e}, {figures["largest"]:.1e}' in card
    assert f'{record["parameters"]:,}, all trainable' in card and '| hidden size (H) | 16 |' in card
    assert record['preprocessor'] in card and ('.mlm' in card) == ('mlm' in record['heads']) == (version != '1')
    outputs, gradient = (
      max(c['source'] for c in record['certificate'][group].values() if c['source'] is not None)
      for group in ('outputs', 'gradient')
    )
    assert (
      f'Computed in float64, the published model and the source agree to {outputs:.1e} in all outputs '
      f'and {gradient:.1e} in all gradients.\n'
    ) in card
  elif record['kind'] == 'text':
    for name in ('pooled_output', 'serving_default/sequence_output'):
      figures = record['certificate']['outputs'][name]
      for figure in ('apart', 'allowed', 'control'):
        assert f'{figures[figure]["rms"]:.1e}, {figures[figure]["largest"]:.1e}' in card
    assert (
      f'{record["certificate"]["texts"]} difficult texts' in card and f'{record["parameters"]:,}, all trainable' in card
    )
    assert (
      f'({model_card.BASE_URL}{record["encoder"]})' in card
      and f'({model_card.BASE_URL}{record["preprocessor"]})' in card
    )
    assert ('### Version 4 (breaking)' in card) == (version == '4') and '### Version 2 (breaking)' not in card
  else:
    assert (
      ('vocab_size' in card) == (version >= '3')
      and ('1,200' in card) == (version == '4')
      and f'{record["certificate"]["tokens"]["values"]:,} ids' in card
    )


def test_collection_lists_the_newest_of_every_model(history):
  card = (history / f'{COLLECTION}.md').read_text()
  assert card.startswith(f'# Collection {COLLECTION.replace("/collections", "")}\n\nALBERT ')
  assert re.search(
    r'\| \[tensorflow/albert_en_demo/4\]\(https://tfhub.dev/tensorflow/albert_en_demo/4\) '
    r'\| 3 \| 16 \| 5,032 \| .*preprocess/4\) \| 1, 2, 3 \|',
    card,
  )
  assert re.search(r'\| \[tensorflow/albert_en_demo_preprocess/4\]\(.*\) \| 1, 2, 3 \|', card)
  text = re.search(
    r'\| \[tensorflow/albert_en_demo_text/4\]\(.*?\) \| \[(.*?)\]\(.*?\) \| \[(.*?)\]\(.*?\) \| (.*) \|', card
  )
  assert text.groups() == ('tensorflow/albert_en_demo/4', 'tensorflow/albert_en_demo_preprocess/4', '2, 3')
  assert card == collection.render(tree.at(history), 'tensorflow', catalog.Catalog().collection)


def test_collection_of_another_publisher_has_its_own_models_only(history):
  card = collection.render(tree.at(history), 'acme', catalog.Catalog().collection)
  assert (
    card.startswith('# Collection acme/albert/1')
    and 'albert_en_demo' not in card
    and not snippets.programs(card, 'acme')
  )
