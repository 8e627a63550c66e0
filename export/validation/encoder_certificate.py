"""The proof that an exported encoder computes what its source does, and trains as it did.

The verdict is in float64: the source's graph and the published graph are widened and run on the same weights. Three
comparisons:

* published graph against the source's graph: the conversion is right;
* published graph against the NumPy reference: both are ALBERT as the paper states it (the only comparison for a source
without a graph);
* published float32 artifact against float64: users get what was proven, up to float32's rounding.

Derivatives are compared for one scalar of the outputs. All others follow: no operation of the published graph stops a
gradient.
"""

import contextlib
import dataclasses
import functools
import gc
import math
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
from export.reference import inputs as proof_inputs
from export.reference import measures
from export.reference import outputs as reference_outputs
from export.source import graph as source_graph
from export.source import policy as source_policy
from export.source import process as source_process
from export.ui import trace
from export.validation import exported_encoder
from export.validation import negative_controls
from export.validation import parity

_ADVICE = 'check that the source is an unmodified ALBERT, and report the conversion if it is'


@dataclasses.dataclass(frozen=True)
class Certificate:
  """The proof that an export computes what its source does.

  Attributes:
    against: 'graph' if the export was compared with the source's graph and the reference, 'reference' if the source has
      no graph.
    bounds: the relative distances that float64 outputs and gradients may have, and that controls must have.
    outputs: comparisons by output, the layers as 'layer_0' and so on.
    gradient: comparisons of a scalar's derivatives by every weight, by canonical name.
    dropout: whether the training mode is random, as the config says.
    controls: relative distance of each wrong conversion, by name.
  """

  against: str
  bounds: dict[str, float]
  outputs: dict[str, parity.Output]
  gradient: dict[str, parity.Derivative]
  dropout: bool
  controls: dict[str, float]

  def as_json(self) -> dict[str, Any]:
    """The form in which it is recorded, printed and shown: figures with two digits."""
    return parity.rounded(dataclasses.asdict(self))


# Values of a model of which much may be held at once: 268 MB for every copy.
_SMALL = 1 << 25

Step = Callable[[str], contextlib.AbstractContextManager[Any]]


class Examination:
  """Of an exported encoder, against its source.

  Attributes:
    batch, scalar: what both sides are given.
    signatures: of the source, that are compared.
  """

  def __init__(
    self,
    source: source_lib.Source,
    parts: Iterable[weight_map.Part],
    run: source_process.Run | None,
    expected: Callable[[], reference_outputs.Expected] | None = None,
    finished: Callable[[], None] = lambda: None,
  ):
    """Made by `examine`.

    Args:
      source, parts: the model.
      run: the run of the source's graph; None for a source without one.
      expected: waits for the reference; None to compute it when it is needed.
      finished: called when the source's process has done all of its work.
    """
    self._source = source
    self._parts = frozenset(parts)
    self.run = run
    self.batch, self.scalar, self.signatures = given(source, self._parts)
    self._finished = finished
    self._expected = expected or (lambda: reference_outputs.Expected(source, self._parts, self.batch, self.scalar))

  @property
  def _small(self) -> bool:
    return weight_map.parameters(self._source.config, self._parts) <= _SMALL

  def certify(self, path: pathlib.Path, interface: str, step: Step = contextlib.nullcontext) -> Certificate:
    """Loads an exported encoder, in float32 and in float64, and compares it with its source.

    Args:
      path: directory of the SavedModel.
      interface: 'dict' or 'list'.
      step: entered with the name of each step.

    Raises:
      ParityError: the export differs, or a negative control would not; names all.
    """
    with contextlib.ExitStack() as stack:
      stack.enter_context(exported_encoder.as_it_stands())
      return self._certify(path, interface, step, stack)

  def _certify(self, path: pathlib.Path, interface: str, step: Step, stack: contextlib.ExitStack) -> Certificate:
    def run_in_float32() -> tuple[dict[str, np.ndarray], bool]:
      with step('run the export in float32'):
        return self._in_float32(path, interface)

    # A large model is held in one precision at a time. Its derivatives are computed after the source's process has
    # ended.
    small = self._small
    before = None if small else run_in_float32()
    if not small and self.run is not None:
      with step('wait for the source'):
        self.run.gradient()  # its process is gone then, before this one takes as much memory
    with step('widen the export'):
      exported = exported_encoder.Exported(path, interface, widened=True)
      differentiate: Callable[[], tuple[dict[str, Any], dict[str, np.ndarray]]] = functools.partial(
        exported.gradient, self.scalar
      )
      if small:  # most of this is Python, and most of the rest is not: one beside the other
        differentiate = stack.enter_context(futures.ThreadPoolExecutor(1, 'gradient')).submit(differentiate).result
    in_float32, random = before or run_in_float32()
    with step('run the export in float64'):
      ours = exported.outputs(self.batch, [*self.signatures, 'serving_default'])
    with step('wait for the reference'):
      expected = self._expected()
    with step('wait for the source'):
      theirs = self.run.outputs() if self.run is not None else None
    faults = _Faults()
    outputs = self._compare_outputs(ours, in_float32, theirs, expected, interface, faults)
    if random != self._source.config.has_dropout:
      faults.add(
        f'training=True is {"" if random else "not "}random, but the config has {"no " if random else ""}dropout'
      )
    faults.check(_ADVICE)
    if stopped := exported.stopped_gradients():
      raise errors.ParityError(
        f'no parity (the gradient is stopped at {", ".join(stopped[:5])}) in the encoder against its source: {_ADVICE}'
      )
    if small:
      with step('wait for the gradient'):
        differentiate()  # before anything is changed in the model
    with step('try wrong models'):
      wrong = negative_controls.run(exported, self.batch, expected.outputs)
    with step('compare the gradient'):
      gradient = self._compare_gradient(exported, interface, differentiate, expected, outputs, faults)
    faults.check(_ADVICE)
    self._finished()
    bounds = {
      'outputs': parity.OUTPUT_BOUND,
      'gradient': parity.GRADIENT_BOUND,
      'controls': parity.CONTROL_FACTOR * parity.OUTPUT_BOUND,
    }
    return Certificate('reference' if self.run is None else 'graph', bounds, outputs, gradient, random, wrong)

  def _in_float32(self, path: pathlib.Path, interface: str) -> tuple[dict[str, np.ndarray], bool]:
    """Runs the artifact as it is published. Returns its outputs, and whether two calls in training mode differ. The model is freed."""
    exported = exported_encoder.Exported(path, interface)
    outputs = exported.outputs(self.batch, [*self.signatures, 'serving_default'])
    random = False
    if not exported.modes_are_one('tokens'):
      rows = self.batch.first(2)
      calls = (exported.outputs(rows, ['tokens'], training=True)['tokens/sequence_output'] for _ in range(2))
      first, second = (measures.packed(value, rows.input_mask, 'sequence_output') for value in calls)
      # Calls without dropout are the same but for kernels that add up in another order from call to call.
      random = not measures.relative(second, first).rms < _SAME
    del exported
    if not self._small:
      gc.collect()  # a loaded model refers to itself
    return outputs, random

  def _compare_outputs(
    self,
    ours: Mapping[str, np.ndarray],
    in_float32: Mapping[str, np.ndarray],
    theirs: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]] | None,
    expected: reference_outputs.Expected,
    interface: str,
    faults: '_Faults',
  ) -> dict[str, parity.Output]:
    mask = self.batch.input_mask
    float32_of_source, float64_of_source = theirs or ({}, {})
    wanted = {'pooled_output', 'sequence_output'}
    wanted |= {head for signature in self.signatures for head in source_graph.SIGNATURES[signature][1]}
    wanted |= {name for name in expected.outputs if name.startswith('layer_')} if interface == 'dict' else set()
    calls = {name: [call for call in ours if call.rpartition('/')[2] == name] for name in sorted(wanted, key=_order)}
    required = [call for signature in self.signatures for call in self._calls(signature, interface)]
    required += [f'serving_default/{name}' for name in ('pooled_output', 'sequence_output')] + [
      'default/serving_default/pooled_output'
    ]
    for call in (call for call in required if call not in ours or call not in in_float32):
      faults.add(f'{call} is missing in the export')
    for name in sorted({call.rpartition('/')[2] for call in ours} - wanted, key=_order):
      faults.add(f'{name} is an unexpected output of the export')
    result = {}
    for name in (name for name, found in calls.items() if found and all(call in in_float32 for call in found)):
      right = expected.outputs[name]
      of_reference, of_source, of_export = [], [], []
      for call in calls[name]:
        value = measures.packed(ours[call], mask, name)
        of_reference.append((call, measures.relative(value, right)))
        signature = call.rpartition('/')[0]
        their_call = call if signature in self.signatures else f'tokens/{name}'
        if their_call in float64_of_source:
          of_source.append((call, measures.relative(value, measures.packed(float64_of_source[their_call], mask, name))))
        elif theirs is not None and not name.startswith('layer_'):
          faults.add(f'{their_call} is missing in the source')
        of_export.append((call, measures.relative(measures.packed(in_float32[call], mask, name), right)))
      for witness, distances in (('the reference', of_reference), ("the source's graph", of_source)):
        faults.add_worst(
          [(call, distance.rms) for call, distance in distances if not distance.rms <= parity.OUTPUT_BOUND],
          f'from {witness} in float64, more than {parity.OUTPUT_BOUND:.0e}',
        )
      allowed = expected.float32[name].times(parity.FLOAT32_FACTOR)
      faults.add_worst(
        [(call, distance.largest) for call, distance in of_export if not distance.within(allowed)],
        f'from float64 in float32, at most, more than {allowed}',
      )
      shown = [
        measures.packed(float32_of_source[call], mask, name) for call in calls[name] if call in float32_of_source
      ]
      result[name] = parity.Output(
        int(right.size),
        measures.rms(right),
        _most(distance.rms for _, distance in of_source) if of_source else None,
        _most(distance.rms for _, distance in of_reference),
        parity.Float32(
          functools.reduce(measures.Distance.worst, (measures.relative(value, right) for value in shown))
          if shown
          else None,
          functools.reduce(measures.Distance.worst, (distance for _, distance in of_export)),
          allowed,
        ),
      )
    return result

  def _compare_gradient(
    self,
    exported: exported_encoder.Exported,
    interface: str,
    differentiate: Callable[[], tuple[dict[str, Any], dict[str, np.ndarray]]],
    expected: reference_outputs.Expected,
    outputs: dict[str, parity.Output],
    faults: '_Faults',
  ) -> dict[str, parity.Derivative]:
    config = self._source.config
    # The source's first: then its process is gone, and with it the memory that it held.
    theirs = self.run.gradient() if self.run is not None else {}
    if not self.scalar.training:
      _check_random_gradient(exported.gradient(dataclasses.replace(self.scalar, training=True))[0])
    ours, differentiated = differentiate()
    self._compare_training_outputs(
      exported, interface, differentiated if self.scalar.training else {}, expected, outputs, faults
    )
    rows = weight_map.rows(config, self._parts)
    missing = [row.tf_models for row in rows if row.tf_models not in ours]
    missing += [row.tf1 for row in rows if self.run is not None and row.tf1 not in theirs]
    if missing:
      raise errors.ParityError(
        f'no gradient by {", ".join(missing)} in the encoder or its source: nothing can be compared'
      )
    sizes, scales, distances = dict[str, int](), dict[str, float](), dict[str, tuple[float | None, float]]()
    for row in rows:
      value = row.transform.invert(
        np.from_dlpack(ours.pop(row.tf_models)), weight_map.shape(row.shape, config)
      ).reshape(-1)
      scale, of_reference = parity.compare_derivative(row, config, expected.gradient, [value])
      sizes[row.name], scales[row.name] = value.size, max(scale.rms, expected.gradient.terms.get(row.name, 0.0))
      distances[row.name] = (
        measures.distance(value, theirs[row.tf1]).rms if self.run is not None else None,
        of_reference.rms,
      )
    result = {}
    for name, (from_source, from_reference) in distances.items():
      scale_of_name = parity.gradient_scale(name, scales)
      derivative = parity.Derivative(
        sizes[name],
        scale_of_name,
        None if from_source is None else measures.over(from_source, scale_of_name),
        measures.over(from_reference, scale_of_name),
      )
      for witness, distance in (('the reference', derivative.reference), ("the source's graph", derivative.source)):
        if distance is not None and not distance <= parity.GRADIENT_BOUND:
          faults.add(
            f'the derivative by {name} is {distance:.1e} from {witness} in float64, more than {parity.GRADIENT_BOUND:.0e}'
          )
      result[name] = derivative
    return result

  def _calls(self, signature: str, interface: str) -> list[str]:
    """Names the outputs that a call of 'tokens', 'mlm' or 'sop' must give."""
    names = [f'{signature}/{name}' for name in source_graph.SIGNATURES[signature][1]]
    if interface == 'list':
      return names
    return [
      *names,
      *(f'{signature}/layer_{n}' for n in range(self._source.config.num_hidden_layers)),
      f'default/{signature}/pooled_output',
    ]

  def _compare_training_outputs(
    self,
    exported: exported_encoder.Exported,
    interface: str,
    differentiated: Mapping[str, np.ndarray],
    expected: reference_outputs.Expected,
    outputs: dict[str, parity.Output],
    faults: '_Faults',
  ) -> None:
    """Compares the training mode with the source's training graph, or without a graph with the reference. Dropout keeps every unit.

    With dropout, the float32 bounds apply: graphs round 1 / (1 - rate) to float32 in several ways.
    """
    batch, dropout = self.scalar.batch, self._source.config.has_dropout
    apart = [signature for signature in self.signatures if not exported.modes_are_one(signature)]
    ours = {
      **differentiated,
      **exported.outputs(batch, [s for s in apart if s != self.scalar.signature or not differentiated], training=True),
    }
    if self.run is not None:
      theirs: Mapping[str, np.ndarray] = self.run.training_outputs()
    elif dropout:
      theirs = {f'{signature}/{name}': value for signature in apart for name, value in expected.training.items()}
    else:
      theirs = exported.outputs(batch, apart)
    for call in (call for signature in apart for call in self._calls(signature, interface) if call not in ours):
      faults.add(f'{call} with training=True is missing in the export')
    too_far = dict[str, list[tuple[str, float]]]()
    for call, value in ours.items():
      name = call.rpartition('/')[2]
      their_call = call if call in theirs else f'tokens/{name}'
      if (
        name not in outputs or their_call not in theirs
      ):  # unexpected, which is a fault already; or a layer that the graph does not show
        continue
      distance = measures.relative(
        *(measures.packed(array, batch.input_mask, name) for array in (value, theirs[their_call]))
      ).rms
      bound = outputs[name].float32.allowed.rms if dropout else parity.OUTPUT_BOUND
      if not distance <= bound:
        too_far.setdefault(f'from the source in float64, more than {bound:.0e}', []).append(
          (f'{call} with training=True', distance)
        )
      if outputs[name].source is not None and not dropout:
        outputs[name] = dataclasses.replace(
          outputs[name], source=measures.larger(outputs[name].source or 0.0, distance)
        )
    for fault, found in too_far.items():
      faults.add_worst(found, fault)


# Relative distance of two calls on the same inputs, below which they are the same.
_SAME = 1e-4


class _Faults:
  """Everything that was found, so that one message names all."""

  def __init__(self) -> None:
    self._found: list[str] = []

  def add(self, fault: str) -> None:
    self._found.append(fault)

  def add_worst(self, calls: list[tuple[str, float]], fault: str) -> None:
    """Adds the same fault of several calls, of which the worst is named."""
    if calls:
      call, distance = max(calls, key=lambda found: (math.isnan(found[1]), found[1]))
      self.add(
        f'{call} is {distance:.1e} {fault}' + (f' (and {len(calls) - 1} more of its calls)' if len(calls) > 1 else '')
      )

  def check(self, advice: str) -> None:
    if self._found:
      raise errors.ParityError(f'no parity ({"; ".join(self._found)}) in the encoder against its source: {advice}')


def _order(name: str) -> tuple[int, int, str]:
  """Outputs first, then layers by number."""
  number = int(name.removeprefix('layer_')) if name.startswith('layer_') else -1
  fixed = ('pooled_output', 'sequence_output', 'mlm_logits', 'sop_log_probs')
  return (number >= 0, number if number >= 0 else fixed.index(name) if name in fixed else len(fixed), name)


def _most(values: Iterable[float]) -> float:
  return functools.reduce(measures.larger, values)


def given(
  source: source_lib.Source, parts: Iterable[weight_map.Part]
) -> tuple[proof_inputs.Batch, proof_inputs.Scalar, list[str]]:
  """What both sides are given, and the source's signatures for the pieces of a model."""
  parts = frozenset(parts)
  return (
    proof_inputs.make(source.config),
    proof_inputs.make_scalar(source.config, parts),
    source_graph.signatures(parts),
  )


@contextlib.contextmanager
def examine(
  source: source_lib.Source,
  parts: Iterable[weight_map.Part],
  trust: source_policy.Trust = source_policy.Trust(),
  child: source_process.Child | None = None,
  profile: trace.Profile | None = None,
) -> Iterator[Examination]:
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
  parts, profile = frozenset(parts), profile or trace.Profile()
  batch, scalar, signatures = given(source, parts)
  with contextlib.ExitStack() as stack:
    run: source_process.Run | None = None
    if source.graph is not None:
      child = child or stack.enter_context(source_process.prepare(trust))
      run = child.run(source.path, batch, signatures, scalar)
    pool = stack.enter_context(futures.ThreadPoolExecutor(1, 'reference'))
    done = threading.Event()
    stack.callback(done.set)  # before the pool waits for its thread

    def expected() -> reference_outputs.Expected:
      with profile.span('compute the reference'):
        return reference_outputs.Expected(source, parts, batch, scalar, lambda: not done.is_set())

    # The source's graph runs beside it, and the export is made: threads that wait actively for each other would take
    # their processor.
    stack.enter_context(threadpoolctl.threadpool_limits(1, 'blas'))
    reference = pool.submit(expected)
    yield Examination(
      source, parts, run, reference.result, functools.partial(run.add_to, profile) if run is not None else lambda: None
    )


def _check_random_gradient(gradient: Mapping[str, Any]) -> None:
  """Checks that every variable trains with dropout, too, where the derivatives differ from call to call."""
  dead = [name for name, value in gradient.items() if not 0 < float(np.linalg.norm(np.from_dlpack(value))) < math.inf]
  if dead:
    raise errors.ParityError(
      f'the gradient by {", ".join(dead)} is zero, infinite or NaN with training=True in the encoder: it would not train, the '
      'conversion is wrong'
    )
