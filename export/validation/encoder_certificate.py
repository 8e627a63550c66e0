"""Proves that an exported encoder computes and trains as its source does.

The source's graph and the published graph are widened to float64 and run on the same weights. Three comparisons decide:

* The published graph agrees with the source's graph: the conversion is correct.
* The published graph agrees with the NumPy reference: both are ALBERT as in the paper. A source without a graph has
  this comparison only.
* The published float32 artifact agrees with float64 up to rounding: users get the proven outputs.

Derivatives are compared for one scalar of the outputs. All others follow, because no operation of the published graph
stops a gradient.
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
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import numpy as np
import threadpoolctl

from converters import errors
from converters import interface as interface_lib
from converters import source as source_lib
from converters import weight_map
from converters.reference import inputs as proof_inputs
from converters.reference import measures
from converters.reference import outputs as reference_outputs
from export.source import policy as source_policy
from export.source import process as source_process
from export.ui import trace
from export.validation import exported_encoder
from export.validation import negative_controls
from export.validation import padding_free_check
from export.validation import parity
from export.validation import preprocessor_certificate

_ADVICE = 'check that the source is an unmodified ALBERT, and report the conversion if it is'


@dataclasses.dataclass(frozen=True)
class Certificate:
  """The proof of parity of an export with its source.

  Attributes:
    against: 'graph' if the export was compared with the source's graph and the reference; 'reference' if the source has
      no graph.
    bounds: largest relative distances of float64 outputs and gradients, and the smallest of negative controls.
    outputs: comparisons by output name, with the layers as 'layer_0' and so on.
    gradient: comparisons of the scalar's derivatives, by canonical name of the weight.
    dropout: whether the training mode is random, as the config states.
    controls: relative distance of each negative control, by name.
    padding_free: comparison of the padding-free call with the plain call for other masks; None without that call.
  """

  against: str
  bounds: dict[str, float]
  outputs: dict[str, parity.Output]
  gradient: dict[str, parity.Derivative]
  dropout: bool
  controls: dict[str, float]
  padding_free: padding_free_check.Comparison | None = None

  def as_json(self) -> dict[str, Any]:
    """Returns the form of records, console and reports: figures with two digits."""
    return parity.rounded(dataclasses.asdict(self))


# Largest number of values of a small model, of which several float64 copies of 268 MB fit in memory.
_SMALL = 1 << 25

Step = Callable[[str], contextlib.AbstractContextManager[Any]]


class Examination:
  """Compares an exported encoder with its source.

  Attributes:
    run: the run of the source's graph; None for a source without a graph.
    batch: inputs of both sides.
    scalar: scalar of the outputs that both sides differentiate.
    signatures: the compared signatures of the source.
  """

  def __init__(
    self,
    source: source_lib.Source,
    parts: Iterable[weight_map.Part],
    run: source_process.Run | None,
    expected: Callable[[], reference_outputs.Expected] | None = None,
    finished: Callable[[], None] = lambda: None,
  ):
    """Creates an examination; `examine` is the usual way.

    Args:
      source: the source.
      parts: the compared parts of the model.
      run: the run of the source's graph; None for a source without a graph.
      expected: function that waits for the reference; None computes the reference on demand.
      finished: called after the last use of the source's subprocess.
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

  def certify(
    self,
    path: pathlib.Path,
    interface: str,
    step: Step = contextlib.nullcontext,
    preprocessor: pathlib.Path | None = None,
    padding_free: bool = True,
  ) -> Certificate:
    """Loads an exported encoder in float32 and in float64, and compares it with its source.

    Args:
      path: directory of the SavedModel.
      interface: 'dict' or 'list'.
      step: context manager that is entered with the name of each step.
      preprocessor: directory of the SavedModel that is published with it, whose result it must take; None for none.
      padding_free: whether an encoder with the interface 'dict' has the padding-free call, which earlier releases lack.

    Raises:
      ParityError: the export differs, or a negative control passes; names all faults.
    """
    with contextlib.ExitStack() as stack:
      stack.enter_context(exported_encoder.as_it_stands())
      return self._certify(path, interface, step, stack, preprocessor, padding_free and interface == 'dict')

  def _certify(
    self,
    path: pathlib.Path,
    interface: str,
    step: Step,
    stack: contextlib.ExitStack,
    preprocessor: pathlib.Path | None,
    padding_free: bool,
  ) -> Certificate:
    calls = [*self.signatures, *([interface_lib.PADDING_FREE] if padding_free else [])]
    calls += [name for name, call in interface_lib.SERVING.items() if call == 'tokens' or padding_free]

    def run_in_float32() -> tuple[dict[str, np.ndarray], bool]:
      with step('run the export in float32'):
        return self._in_float32(path, interface, preprocessor, calls)

    # To save memory, a large model is loaded in one precision at a time, and differentiated after the end of the
    # source's subprocess.
    small = self._small
    before = None if small else run_in_float32()
    if not small and self.run is not None:
      with step('wait for the source'):
        self.run.gradient()  # frees the memory of the subprocess before this process needs as much
    with step('widen the export'):
      exported = exported_encoder.Exported(path, interface, widened=True)
      differentiate: Callable[[], tuple[dict[str, Any], dict[str, np.ndarray]]] = functools.partial(
        exported.gradient, self.scalar
      )
      if small:  # mostly Python, so it runs in parallel with native code
        differentiate = stack.enter_context(futures.ThreadPoolExecutor(1, 'gradient')).submit(differentiate).result
    in_float32, random = before or run_in_float32()
    with step('run the export in float64'):
      ours = exported.outputs(self.batch, calls)
    with step('wait for the reference'):
      expected = self._expected()
    with step('wait for the source'):
      theirs = self.run.outputs() if self.run is not None else None
    faults = _Faults()
    outputs = self._compare_outputs(ours, in_float32, theirs, expected, interface, padding_free, faults)
    if random != self._source.config.has_dropout:
      faults.add(
        f'training=True is {"" if random else "not "}random, but the config has {"no " if random else ""}dropout'
      )
    faults.check(_ADVICE)
    if stopped := exported.stopped_gradients():
      raise errors.ParityError(
        f'encoder: no parity with its source (the gradient is stopped at {", ".join(stopped[:5])}); {_ADVICE}'
      )
    if small:
      with step('wait for the gradient'):
        differentiate()  # before the negative controls change the variables
    with step('run the negative controls'):
      wrong = negative_controls.run(exported, self.batch, expected.outputs)
    masks: padding_free_check.Comparison | None = None
    if padding_free:
      with step('compare other masks'):
        masks, controls = padding_free_check.run(exported, self._source.config, faults.add)
      wrong |= controls
    with step('compare the gradient'):
      gradient = self._compare_gradient(exported, interface, differentiate, expected, outputs, padding_free, faults)
    faults.check(_ADVICE)
    self._finished()
    bounds = {
      'outputs': parity.OUTPUT_BOUND,
      'gradient': parity.GRADIENT_BOUND,
      'controls': parity.CONTROL_FACTOR * parity.OUTPUT_BOUND,
    }
    return Certificate('reference' if self.run is None else 'graph', bounds, outputs, gradient, random, wrong, masks)

  def _in_float32(
    self, path: pathlib.Path, interface: str, preprocessor: pathlib.Path | None, calls: Sequence[str]
  ) -> tuple[dict[str, np.ndarray], bool]:
    """Runs the published float32 artifact, and frees it.

    Returns:
      The outputs, and whether two calls in training mode differ.
    """
    exported = exported_encoder.Exported(path, interface)
    outputs = exported.outputs(self.batch, calls)
    if preprocessor is not None:
      self._run_together(preprocessor, exported)
    random = False
    if not exported.modes_are_one('tokens'):
      rows = self.batch.first(2)
      runs = (exported.outputs(rows, ['tokens'], training=True)['tokens/sequence_output'] for _ in range(2))
      first, second = (measures.packed(value, rows.input_mask, 'sequence_output') for value in runs)
      # Without dropout, calls differ only where a kernel changes its order of summation.
      random = not measures.relative(second, first).rms < _SAME
    del exported
    if not self._small:
      gc.collect()  # a loaded model has reference cycles
    return outputs, random

  def _run_together(self, preprocessor: pathlib.Path, exported: exported_encoder.Exported) -> None:
    """Runs a text through the preprocessor and then the encoder, at the preprocessor's default length."""
    import tensorflow as tf

    packed = preprocessor_certificate.Preprocessor(preprocessor).packed([_TEXT])
    batch = proof_inputs.Batch(**packed, masked_lm_positions=np.zeros((1, 1), np.int32))
    advice = 'give another option preprocessor, whose length and vocabulary are the encoder\'s'
    try:
      outputs = exported.outputs(batch, ['tokens'])
    except (ValueError, tf.errors.OpError) as e:
      reason = ' '.join(str(e).split())[:200]
      raise errors.ParityError(f'encoder: it does not take what {preprocessor} gives ({reason}); {advice}') from e
    found = outputs.get('tokens/sequence_output', np.zeros(0))
    wanted = (*packed['input_word_ids'].shape, self._source.config.hidden_size)
    if found.shape != wanted or not np.isfinite(found).all():
      raise errors.ParityError(
        f'encoder: after {preprocessor} it gives {list(found.shape)} or no numbers, not {list(wanted)}; {advice}'
      )

  def _compare_outputs(
    self,
    ours: Mapping[str, np.ndarray],
    in_float32: Mapping[str, np.ndarray],
    theirs: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]] | None,
    expected: reference_outputs.Expected,
    interface: str,
    padding_free: bool,
    faults: '_Faults',
  ) -> dict[str, parity.Output]:
    mask = self.batch.input_mask
    float32_of_source, float64_of_source = theirs or ({}, {})
    wanted = {name for signature in self.signatures for name in self._names(signature)}
    wanted |= {name for name in expected.outputs if name.startswith('layer_')} if interface == 'dict' else set()
    calls = {name: [call for call in ours if call.rpartition('/')[2] == name] for name in sorted(wanted, key=_order)}
    required = [call for signature in self.signatures for call in self._calls(signature, interface)]
    required += self._calls(interface_lib.PADDING_FREE, interface) if padding_free else []
    for served, call in interface_lib.SERVING.items():
      if call == 'tokens' or padding_free:
        required += [f'{served}/{name}' for name in self._names('tokens')]
        required += [f'default/{served}/pooled_output'] if self._source.config.pooler else []
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
      allowed = expected.float32[name].times(reference_outputs.FLOAT32_FACTOR)
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
    padding_free: bool,
    faults: '_Faults',
  ) -> dict[str, parity.Derivative]:
    config = self._source.config
    # The source's derivatives first: their subprocess ends and frees its memory.
    theirs = self.run.gradient() if self.run is not None else {}
    if not self.scalar.training:
      _check_random_gradient(exported.gradient(dataclasses.replace(self.scalar, training=True))[0])
    ours, differentiated = differentiate()
    self._compare_training_outputs(
      exported, interface, differentiated if self.scalar.training else {}, expected, outputs, padding_free, faults
    )
    rows = weight_map.rows(config, self._parts)
    missing = [row.tf_models for row in rows if row.tf_models not in ours]
    missing += [row.tf1 for row in rows if self.run is not None and row.tf1 not in theirs]
    if missing:
      raise errors.ParityError(f'encoder or its source: no gradient by {", ".join(missing)}; {_ADVICE}')
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
            f'the derivative by {name} is {distance:.1e} from {witness} in float64, more than '
            f'{parity.GRADIENT_BOUND:.0e}'
          )
      result[name] = derivative
    return result

  def _names(self, signature: str) -> list[str]:
    """Returns the names of the outputs of a call without layers."""
    return list(interface_lib.outputs(signature, self._source.config.pooler))

  def _calls(self, signature: str, interface: str) -> list[str]:
    """Returns the names of the outputs that a call of 'tokens', 'padding_free', 'mlm' or 'sop' must have."""
    names = [f'{signature}/{name}' for name in self._names(signature)]
    if interface == 'list':
      return names
    return [
      *names,
      *(f'{signature}/layer_{n}' for n in range(len(self._source.config.block_of_layer))),
      *([f'default/{signature}/pooled_output'] if self._source.config.pooler else []),
    ]

  def _compare_training_outputs(
    self,
    exported: exported_encoder.Exported,
    interface: str,
    differentiated: Mapping[str, np.ndarray],
    expected: reference_outputs.Expected,
    outputs: dict[str, parity.Output],
    padding_free: bool,
    faults: '_Faults',
  ) -> None:
    """Compares the training mode with the source's training graph, or with the reference if there is no graph.

    Dropout keeps every unit. With dropout, the float32 tolerances apply, because graphs round 1 / (1 - rate) to float32
    in several ways.
    """
    batch, dropout = self.scalar.batch, self._source.config.has_dropout
    calls = [*self.signatures, *([interface_lib.PADDING_FREE] if padding_free else [])]
    apart = [call for call in calls if not exported.modes_are_one(call)]
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
      # An unexpected output is a fault already, and the graph may lack a layer.
      if name not in outputs or their_call not in theirs:
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


_TEXT = 'The preprocessor and the encoder are published together: 1 + 1 = 2.'
# Relative distance below which two calls on the same inputs count as equal.
_SAME = 1e-4


class _Faults:
  """Collects faults, so that one message names all of them."""

  def __init__(self) -> None:
    self._found: list[str] = []

  def add(self, fault: str) -> None:
    """Adds a fault."""
    self._found.append(fault)

  def add_worst(self, calls: list[tuple[str, float]], fault: str) -> None:
    """Adds one fault of several calls, and names the call with the largest distance."""
    if calls:
      call, distance = max(calls, key=lambda found: (math.isnan(found[1]), found[1]))
      self.add(
        f'{call} is {distance:.1e} {fault}' + (f' (and {len(calls) - 1} more of its calls)' if len(calls) > 1 else '')
      )

  def check(self, advice: str) -> None:
    """Raises ParityError if there are faults."""
    if self._found:
      raise errors.ParityError(f'encoder: no parity with its source ({"; ".join(self._found)}); {advice}')


def _order(name: str) -> tuple[int, int, str]:
  """Returns a sort key: outputs first, then layers by number."""
  number = int(name.removeprefix('layer_')) if name.startswith('layer_') else -1
  fixed = interface_lib.OUTPUT_NAMES
  return (number >= 0, number if number >= 0 else fixed.index(name) if name in fixed else len(fixed), name)


def _most(values: Iterable[float]) -> float:
  return functools.reduce(measures.larger, values)


def given(
  source: source_lib.Source, parts: Iterable[weight_map.Part]
) -> tuple[proof_inputs.Batch, proof_inputs.Scalar, list[str]]:
  """Returns the batch and the scalar for both sides, and the source's signatures, for parts of a model."""
  parts = frozenset(parts)
  return (
    proof_inputs.make(source.config),
    proof_inputs.make_scalar(source.config, parts),
    interface_lib.signatures(parts),
  )


@contextlib.contextmanager
def examine(
  source: source_lib.Source,
  parts: Iterable[weight_map.Part],
  trust: source_policy.Trust = source_policy.Trust(),
  child: source_process.Child | None = None,
  profile: trace.Profile | None = None,
) -> Iterator[Examination]:
  """Starts the work that needs no export: the source's graph in a subprocess, and the reference in a thread.

  Both end with the context. A source without a graph has no subprocess.

  Args:
    source: the source.
    parts: the compared parts of the model.
    trust: options for running the source's graph.
    child: subprocess for the source's graph; None starts one.
    profile: receives the time spans of both.

  Raises:
    UntrustedGraphError: the graph has an operation that is not on the allow-list.
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

    # BLAS threads wait actively, which would take processor time from the source's graph and the export.
    stack.enter_context(threadpoolctl.threadpool_limits(1, 'blas'))
    reference = pool.submit(expected)
    yield Examination(
      source, parts, run, reference.result, functools.partial(run.add_to, profile) if run is not None else lambda: None
    )


def _check_random_gradient(gradient: Mapping[str, Any]) -> None:
  """Checks that every variable has a gradient in training mode with dropout, where derivatives are random."""
  dead = [name for name, value in gradient.items() if not 0 < float(np.linalg.norm(np.from_dlpack(value))) < math.inf]
  if dead:
    raise errors.ParityError(
      f'encoder: the gradient by {", ".join(dead)} is zero, infinite or NaN with training=True; report this fault of '
      'the conversion'
    )
