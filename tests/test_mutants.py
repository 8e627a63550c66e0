"""Every mutation of `make mutants` can be applied, and names tests that exist."""

import pathlib

import pytest
from support import commands

from mutants import mutations

_ROOT = pathlib.Path(commands.ROOT)


@pytest.mark.parametrize('mutation', mutations.MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutation_fits_the_product(mutation):
  assert (_ROOT / mutation.path).read_text(encoding='utf-8').count(mutation.old) == 1
  assert mutation.new != mutation.old
  for selected in (word for word in mutation.tests.split() if word.startswith('tests/')):
    file, _, name = selected.partition('::')
    assert f'def {name.partition("[")[0]}' in (_ROOT / file).read_text(encoding='utf-8')


def test_names_are_distinct():
  assert len({mutation.name for mutation in mutations.MUTATIONS}) == len(mutations.MUTATIONS)
