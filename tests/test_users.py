"""Published Python is found and run as written, and the published install line is one.

It runs in this environment only; `make users` makes the environments of users.
"""

import pathlib
import re

import pytest
from support import commands

from runtimes import snippets
from runtimes import users

ENVIRONMENT = pathlib.Path(commands.BIN).parent
ENCODER, TEXT = 'tensorflow/albert_en_demo/3.md', 'tensorflow/albert_en_demo_text/3.md'
pytestmark = pytest.mark.real_processes


@pytest.fixture(scope='module')
def pages(history):
  return users.published_pages(history)


@pytest.fixture(scope='module')
def work(history, tmp_path_factory):
  """A work directory with the releases and the hub's cache."""
  directory = tmp_path_factory.mktemp('users')
  (directory / 'dist').symlink_to(history)
  users.fill_hub_cache(history, directory / 'hub_cache')
  return directory


def test_readme_and_cards_publish_one_install_line(pages):
  line = snippets.install_line(pages.values())
  assert line.split() == [
    'pip',
    'install',
    'tensorflow',
    'tensorflow-text',
    'tensorflow-hub',
    'tf-keras',
    '"setuptools<81"',
  ]
  with_line = [page for page, text in pages.items() if line in text]
  assert 'README.md' in with_line and set(pages) - set(with_line) == {p for p in pages if p.startswith('docs/')}


@pytest.mark.parametrize('texts', [[], ['pip install tensorflow numpy', 'run `pip install tensorflow scipy` # first']])
def test_no_line_and_two_lines_are_refused(texts):
  with pytest.raises(snippets.SnippetError, match=f'{len(texts)} install lines instead of 1'):
    snippets.install_line(texts)


def test_every_python_block_is_in_a_program(pages):
  found = {page: snippets.programs(text, page) for page, text in pages.items()}
  for page, text in pages.items():
    blocks = re.findall(r'^```py\w*\n(.*?)^```', text, re.M | re.S)
    assert '\n'.join(blocks) == '\n'.join(found[page]), page
  assert sum(map(len, found.values())) >= 20
  # Each program chooses its Keras itself.
  for program in (program for programs in found.values() for program in programs):
    assert ('os.environ["TF_USE_LEGACY_KERAS"] = "1"' in program) != ('import keras\n' in program)


def test_blocks_continue_the_program_before_them():
  one, two, three = ('import tensorflow as tf\n', 'x = 1\n', 'import os\nimport tensorflow as tf\n')
  text = f'```python\n{one}```\n\n```py\n{two}```\n\n```python\n{three}```\n'
  assert snippets.programs(f'{text}```sh\nls\n```\n', 'page') == [f'{one}\n{two}', three]
  with pytest.raises(snippets.SnippetError, match='^page: the first Python block does not import'):
    snippets.programs(f'```python\n{two}```\n{text}', 'page')


def test_the_layer_for_keras_3_is_the_same_everywhere(pages):
  layers = {
    page: re.findall(r'^@keras.*?\n\n\n', program, re.M | re.S)
    for page, text in pages.items()
    for program in snippets.programs(text, page)
    if 'import keras\n' in program
  }
  assert {'docs/usage.md', ENCODER, TEXT} <= set(layers)
  assert len({layer for found in layers.values() for layer in found}) == 1 and all(layers.values())


def test_a_program_that_fails_is_named(tmp_path):
  programs = ['import os\nassert os.environ["TF_USE_LEGACY_KERAS"] == ""', 'print(1)\nraise ValueError("late")']
  (fault,) = users.run_page(ENVIRONMENT, 'a/page.md', programs, tmp_path)
  assert fault.startswith('a/page.md, program 2: ') and 'ValueError: late' in fault


def _keras_3(pages, page):
  (program,) = (program for program in snippets.programs(pages[page], page) if 'import keras\n' in program)
  return program


@pytest.mark.slow
@pytest.mark.parametrize('page', [ENCODER, pytest.param(TEXT, marks=pytest.mark.slow)])
def test_keras_3_trains_saves_and_reloads_every_weight(pages, work, page):
  assert users.run_page(ENVIRONMENT, page, [_keras_3(pages, page)], work) == []


@pytest.mark.slow
@pytest.mark.parametrize(
  'old, new, fault',
  [
    ('in self.model.trainable_variables]', 'in self.model.trainable_variables[:-1]]', '24 weights instead of 25'),
    # As Keras before 3.10 does.
    ('keras.Variable(v)', 'keras.Variable(v.numpy())', 'needs Keras 3.10'),
    ('classifier.fit(inputs, labels)', 'classifier', 'fit does not change word_embeddings'),
    (
      'again = ',
      'classifier.fit(inputs, labels)\nagain = ',
      'the saved classifier has other values of word_embeddings',
    ),
  ],
)
def test_weights_that_are_left_out_are_named(pages, work, old, new, fault):
  program = _keras_3(pages, ENCODER)
  assert program.count(old) == 1
  users.run_page(ENVIRONMENT, ENCODER, [program.replace(old, new)], work)
  (log,) = (work / 'logs').glob('*demo_3_1.err')
  assert fault in log.read_text()


@pytest.mark.slow
def test_python_of_readme_and_docs_runs(pages, work):
  faults = [
    fault
    for page, text in pages.items()
    if page == 'README.md' or page.startswith('docs/')
    # The page on serving needs a server at a fixed port; tests/test_host.py loads models from one at another port.
    for fault in users.run_page(
      ENVIRONMENT, page, [p for p in snippets.programs(text, page) if '127.0.0.1' not in p], work
    )
  ]
  assert faults == []


def test_an_interpreter_that_cannot_run_is_refused(python_module, tmp_path):
  commands.fails(
    commands.run(python_module('runtimes.users', '--pythons=/nonexistent/python', f'--work_dir={tmp_path}')),
    2,
    '--pythons: /nonexistent/python cannot be run',
  )
