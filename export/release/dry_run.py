"""Prints the plan of an export without exporting (--dry_run)."""

import os

from converters import source as source_lib
from converters import weight_map
from export import spec
from export.release import collection
from export.release import preprocessor_check
from export.release import request as request_lib
from export.source import graph as source_graph
from export.store import tree as tree_lib
from export.ui import console as console_lib


def show(request: request_lib.Request, tree: tree_lib.Tree, console: console_lib.Console) -> list[str]:
  """Opens and checks the source without its weights, and prints what the export would read, compare and publish.

  Args:
    request: the release to plan.
    tree: the release tree.
    console: receives the plan.

  Returns:
    The paths that would be published; directories end in a slash.

  Raises:
    AlbertHubError: the export would fail.
  """
  with console.step('open the source'), source_lib.open_source(request.source, request.reading) as source:
    preprocessor_check.check(tree, request, source)
    rows = [['source', f'{source.handle}, a {source.format}, {source.digest}']]
    if request.encoder is not None:
      if source.graph is not None:
        source_graph.check(source.graph, request.trust.graph)
      rows += _rows_of_encoder(request.encoder, source, request_lib.parts(request, source))
    else:
      rows.append(['vocabulary', f'{source.config.vocab_size} pieces in {source.sp_model_name}'])
  for new in request.releases:
    old = tree_lib.predecessor(tree, new)
    if new.version in tree.versions(new.model):
      rows.append([new.path, 'already exists: kept if this export has the same bytes, else an error'])
    elif old is None:
      rows.append([new.path, 'new, without a previous version to compare with'])
    else:
      rows.append(
        [
          new.path,
          f'new; compared with {new.model}/{old}, '
          + ('and breaking changes are allowed' if request.breaking else 'and breaking changes are an error'),
        ]
      )
    rows += [[f'version {new.version}', change] for change in new.changes[new.version]]
  rows.append(['signature', f'with {request.sign_key}' if request.sign_key is not None else 'none'])
  console.facts('Plan', rows)
  suffixes = [
    s for s in spec.COMPANIONS if request.sign_key is not None or s not in (spec.SIGNATURE, spec.RECORD_SIGNATURE)
  ]
  console.line('\nTo be published, all or nothing:')
  planned = [
    f'{tree.root}/{new.path}{suffix}'
    for new in request.releases
    if new.version not in tree.versions(new.model)
    for suffix in (*suffixes, os.sep)
  ]
  for path in planned:
    console.line(f'  {path}')
  if request.collection is not None:
    console.line(f'Rewritten: {tree.root}/{collection.name(request.release.publisher, request.collection)}')
  console.line('\nDry run: nothing was written.')
  return planned


def _rows_of_encoder(
  release: spec.EncoderRelease, source: source_lib.Source, parts: frozenset[weight_map.Part]
) -> list[list[str]]:
  config = source.config
  return [
    *(['', f'has {lack}'] for lack in source_lib.lacks(source)),
    [
      'sizes',
      f'L={config.num_hidden_layers} H={config.hidden_size} A={config.num_attention_heads}, '
      f'{config.vocab_size} pieces in {source.sp_model_name}',
    ],
    [
      'interface',
      f'{release.interface} in, {release.interface} out' + ('' if config.pooler else ', without pooled output'),
    ],
    [
      'heads',
      ', '.join(f'.{part.value}' for part in weight_map.Part if part in parts and part is not weight_map.Part.ENCODER)
      or 'none',
    ],
    ['weights', f'{len(weight_map.rows(config, parts))} tensors'],
  ]
