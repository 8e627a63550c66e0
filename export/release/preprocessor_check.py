"""Checks the preprocessor of a release before it is made: its vocabulary, and a published one of that version."""

from converters import albert_config
from converters import errors
from converters import source as source_lib
from converters import tokenization
from export import record as record_lib
from export import spec
from export.release import collection
from export.release import request as request_lib
from export.store import tree as tree_lib

_SPLITS_COMMAS = 4  # the first version that does


def seq_length(config: albert_config.AlbertConfig) -> int:
  """Returns the default length of a preprocessor: an encoder that knows fewer positions cannot take more ids."""
  return min(spec.SEQ_LENGTH, config.max_position_embeddings)


def check(tree: tree_lib.Tree, request: request_lib.Request, source: source_lib.Source) -> None:
  """Checks that the preprocessor of a release can be made of a source, and that a published one is the same.

  Raises:
    VocabularyError: the vocabulary has no comma, which version 4 and later ones need.
    PublishError: the preprocessor is already published, and differs from the one that the source needs.
  """
  path = request.preprocessor.path
  if request.preprocessor.version >= _SPLITS_COMMAS:
    user = f'version {request.preprocessor.version} of the preprocessor'
    action = 'give option preprocessor=NAME/3' if request.encoder is not None else 'give option version=3'
    tokenization.check_comma(source.sp_model, source.sp_model_name, user, action)
  if not tree_lib.holds(tree, path):
    return
  old = collection.read_record(tree, path)
  if not isinstance(old, record_lib.Preprocessor):
    return
  differences = [
    f'{name} {there} instead of {wanted}'
    for name, there, wanted in (
      ('SentencePiece model', old.source.sp_model.digest, source.sp_model_digest),
      ('default length', old.seq_length, seq_length(source.config)),
      ('lower_case', old.tokenization.lower_case, source.tokenization.lower_case),
      ('keep_accents', old.tokenization.keep_accents, source.tokenization.keep_accents),
    )
    if there != wanted
  ]
  if differences:
    raise errors.PublishError(
      f'{path}: already exists in {tree.root}, and does not suit this source ({", ".join(differences)}); give another '
      'one with option preprocessor'
    )
