"""The proof that an exported encoder computes what its source does, and trains as it did."""

import contextlib
import dataclasses
import functools
import pathlib
import threading
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import numpy as np
import threadpoolctl

from converters import errors
from converters import source as source_lib
from converters import weight_map
from export import profile as profile_lib
from export import trust as trust_lib
from export.proof import batch as batch_lib
from export.proof import controls
from export.proof import expected as expected_lib
from export.proof import exported as exported_lib
from export.proof import graphless
from export.proof import parity
from export.proof import reference
from export.proof import source_graph
from export.proof import source_run


@dataclasses.dataclass(frozen=True)
class Certificate:
  """The proof that an export computes what its source does.

  Attributes:
    against: what it was compared with: 'graph', the source's own, or 'float32', the reference with float32's rounding.
    outputs: the checks by output, the layers as 'layer_0' and so on.
    gradient: the checks of a scalar's derivatives by every weight, by canonical name.
    dropout: whether the training mode is random, as the config says.
    controls: the wrong conversions that failed the check of outputs, as they must.
  """
  against: str
  outputs: dict[str, parity.Check]
  gradient: dict[str, parity.Check]
  dropout: bool
  controls: dict[str, controls.Control]

  def as_json(self) -> dict[str, Any]:
    """For the record: figures with three digits."""
    def rounded(value: Any) -> Any:
      if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
      return float(f'{value:.2e}') if isinstance(value, float) else value
    return rounded(dataclasses.asdict(self))


# Values of a model of which much may be held at once: 134 MB for every copy.
_SMALL = 1 << 25

Step = Callable[[str], contextlib.AbstractContextManager[Any]]


class Examination:
  """Of an exported encoder, against its source.

  Attributes:
    batch, scalar: what both sides are given.
    signatures: of the source, that are compared.
  """

  def __init__(self, source: source_lib.Source, parts: Iterable[weight_map.Part], run: source_run.Run | graphless.Run,
               expected: Callable[[], expected_lib.Expected] | None = None, finished: Callable[[], None] = lambda: None):
    """Made by `examine`.

    Args:
      source, parts: the model.
      run: of the source's graph, or what stands in for it.
      expected: waits for what both sides should give; None to work it out when it is needed.
      finished: called when the source's process has done all of its work.
    """
    self._source = source
    self._parts = frozenset(parts)
    self._run = run
    self.batch, self.scalar, self.signatures = given(source, self._parts)
    self._finished = finished
    self._expected = expected or (lambda: expected_lib.Expected(source, self._parts, self.batch, self.scalar))

  def certify(self, path: pathlib.Path, interface: str, step: Step = contextlib.nullcontext) -> Certificate:
    """Loads an exported encoder, compares it with its source, and sees the comparison fail for wrong ones.

    Args:
      path: the SavedModel.
      interface: 'dict' or 'list'.
      step: entered with the name of each step.

    Raises:
      ParityError: the export differs, or a wrong one would not.
    """
    with contextlib.ExitStack() as stack:
      stack.enter_context(exported_lib.as_it_stands())
      with step('load the export'):
        exported = exported_lib.Exported(path, interface)
      differentiate: Callable[[], dict[str, Any]] = functools.partial(exported.gradient, self.scalar)
      beside = exported.values <= _SMALL
      if beside:
        # Most of this is Python, and most of the rest is not: one beside the other. A large model's derivatives would take memory.
        differentiate = stack.enter_context(futures.ThreadPoolExecutor(1, 'gradient')).submit(differentiate).result
      with step('run the export'):
        outputs = exported.outputs(self.batch, [*self.signatures, 'serving_default'])
      with step('wait for the reference'):
        expected = self._expected()
      with step('compare the outputs'):
        theirs = self._source_outputs(outputs, interface, expected)
        checks = parity.compare(theirs, outputs, expected, self.batch.input_mask)
        dropout = _compare_modes(exported, self.batch, outputs, not self.scalar.training, checks)
      if beside:
        with step('wait for the gradient'):
          differentiate()  # before anything is changed in the model
      with step('try wrong models'):
        wrong = controls.run(exported, self.batch, expected, theirs)
      with step('compare the gradient'):
        against = 'float32' if self._source.graph is None else 'graph'
        result = Certificate(against, checks, self._compare_gradient(exported, differentiate, expected), dropout, wrong)
      self._finished()
      return result

  def _source_outputs(self, outputs: Mapping[str, np.ndarray], interface: str, expected: expected_lib.Expected) -> dict[str, np.ndarray]:
    """The source's outputs, as far as the export has them too."""
    theirs = self._run.outputs()
    layers = {f'tokens/layer_{number}' for number in range(len(expected.layers) if interface == 'dict' else 0)}
    if {name for name in outputs if '/layer_' in name} != layers:
      raise errors.ParityError(f'the encoder gives other layers than {len(expected.layers)} as encoder_outputs: the conversion is at fault')
    shown = sum('/layer_' in name for name in theirs)
    if interface == 'list' or shown != len(expected.layers):  # not given by the export, or not found in the source's graph
      theirs = {name: value for name, value in theirs.items() if '/layer_' not in name}
    # What the export gives once more: as `default`, and through its signature.
    return theirs | {name: theirs[f'tokens/{name.rpartition("/")[2]}'] for name in outputs
                     if name.startswith(('default/', 'serving_default/'))}

  def _compare_gradient(self, exported: exported_lib.Exported, differentiate: Callable[[], dict[str, Any]],
                        expected: expected_lib.Expected) -> dict[str, parity.Check]:
    # The source's first: then its process is gone, and with it what it held, before a large export's are worked out.
    config, theirs = self._source.config, self._run.gradient()
    if not self.scalar.training:
      _check_random_gradient(exported.gradient(dataclasses.replace(self.scalar, training=True)))
    ours = differentiate()
    rows = weight_map.rows(config, self._parts)
    missing = [row.tf1 for row in rows if row.tf1 not in theirs] + [row.tf_models for row in rows if row.tf_models not in ours]
    if missing:
      raise errors.ParityError(f'no gradient by {", ".join(missing)} in the encoder or its source: nothing can be compared')
    return parity.compare_gradient(
        rows, config, lambda row: theirs[row.tf1],
        lambda row: row.transform.invert(np.from_dlpack(ours.pop(row.tf_models)), weight_map.shape(row.shape, config)), expected.gradient)


def given(source: source_lib.Source, parts: Iterable[weight_map.Part]) -> tuple[batch_lib.Batch, batch_lib.Scalar, list[str]]:
  """What both sides are given, and the source's signatures for the pieces of a model."""
  parts = frozenset(parts)
  return batch_lib.make(source.config), batch_lib.make_scalar(source.config, parts), source_graph.signatures(parts)


@contextlib.contextmanager
def examine(source: source_lib.Source, parts: Iterable[weight_map.Part], trust: trust_lib.Trust = trust_lib.Trust(),
            child: source_run.Child | None = None, profile: profile_lib.Profile | None = None) -> Iterator[Examination]:
  """Starts what takes time and needs no export: running the source's graph, if it has one, in a process of its own, and computing the
  reference, in a thread. Both are gone when the context ends.

  Args:
    source, parts: the model.
    trust: how far the source is trusted.
    child: the process to run it in; None to start one.
    profile: notes what was done.

  Raises:
    UntrustedGraphError: it may not be run.
  """
  parts, profile = frozenset(parts), profile or profile_lib.Profile()
  batch, scalar, signatures = given(source, parts)
  with contextlib.ExitStack() as stack:
    run: source_run.Run | graphless.Run | None = None
    if source.graph is not None:
      child = child or stack.enter_context(source_run.prepare(trust))
      run = child.run(source.path, batch, signatures, scalar)
    pool = stack.enter_context(futures.ThreadPoolExecutor(1, 'reference'))
    done = threading.Event()
    stack.callback(done.set)  # before the pool waits for its thread

    def expected(dtype: reference.Float = np.float64) -> expected_lib.Expected:
      with profile.span(f'compute the reference in {np.dtype(dtype).name}'):
        return expected_lib.Expected(source, parts, batch, scalar, lambda: not done.is_set(), dtype)
    # The source's graph runs beside it, and the export is made: threads that wait actively for each other would take their processor.
    stack.enter_context(threadpoolctl.threadpool_limits(1, 'blas'))
    exact = pool.submit(expected)
    if run is None:
      run = graphless.Run(pool.submit(expected, np.float32).result, signatures, source.config, parts)
    yield Examination(source, parts, run, exact.result, functools.partial(run.add_to, profile))


def _check_random_gradient(gradient: Mapping[str, Any]) -> None:
  """That with dropout, too, every variable trains. What the derivatives are is another thing at every call."""
  dead = [name for name, value in gradient.items() if not 0 < float(np.linalg.norm(np.from_dlpack(value))) < np.inf]
  if dead:
    raise errors.ParityError(
        f'the gradient by {", ".join(dead)} is zero, infinite or NaN with training=True in the encoder: it would not train, the '
        'conversion is at fault')


def _compare_modes(exported: exported_lib.Exported, batch: batch_lib.Batch, outputs: Mapping[str, np.ndarray], random: bool,
                   checks: Mapping[str, parity.Check]) -> bool:
  """Whether the training mode is random. It must be with dropout, and only then; without, both modes are the same.

  Args:
    exported: the model.
    batch: the inputs; only the first two rows are run, of which the second has padding.
    outputs: what training=False gave for the whole batch.
    random: whether the config has dropout.
    checks: of these outputs: what is called the same may differ by what rounding may come to.

  Raises:
    ParityError: it is not so.
  """
  def same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    names = {name: name.rpartition('/')[2] for name in one if name.rpartition('/')[2] in checks}
    return one.keys() == other.keys() and all(
        parity.distance(one[name], other[name]).rms <= 2 * checks[output].allowed.rms for name, output in names.items())

  rows = batch.first(2)
  first = exported.outputs(rows, ['tokens'], training=True)
  calm = {name: value[:2] for name, value in outputs.items() if name.startswith('tokens/') or name == 'default/pooled_output'}
  alike = same(first, calm)
  faults = {
      'training=False is not the same from call to call': (random or not alike) and not same(calm, exported.outputs(rows, ['tokens'])),
      'training=True is the same from call to call, but the config has dropout': random and same(
          first, exported.outputs(rows, ['tokens'], training=True)),
      'training=True is not the same as training=False, but the config has no dropout': not random and not alike,
  }
  if any(faults.values()):
    raise errors.ParityError(
        f'{"; ".join(fault for fault, there in faults.items() if there)} in the encoder: the conversion is at fault')
  return random
