"""What each part of a TensorFlow model costs by each kind of keeping: a graph of it alone runs under the profiler."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tf_models.allocations import LEAST_TOLD_BYTES, record_most
from tf_models.carry_out import PartFunction
from tf_models.forward_pass import Pass
from tf_models.step import END_OF_FORWARD
from tf_models.tensorflow_names import tf
from tf_models.zoo_model import ZooModel, check_policy
from zoo.planner import CostGraph, Option, Part
from zoo.planner.kinds import KEEP, KINDS
from zoo.planner.noise import with_noise

LOSS = "(loss)"
FLOPS_PER_SECOND, BYTES_PER_SECOND = 5e10, 1e10  # of one core, about: only their ratio matters to a plan
REPEATS = 3
RECORDS = 2  # of a part; of a step there are more


@dataclass(frozen=True)
class TracedPart:
    """One part as it was seen in a step that computed nothing.

    Args:
        name, function: of the part.
        run: the forward pass it is looked at in, which moves no statistics.
        given, gives: shapes and dtypes of what it reads and of what it makes.
        variables: that it reads and that train.
        is_first: it reads the batch, which needs no gradient.
    """

    name: str
    function: PartFunction
    run: Pass
    given: Any
    gives: Any
    variables: tuple[Any, ...]
    is_first: bool

    @property
    def looks(self) -> tuple[Any, ...]:
        """Equal for parts that cost the same."""
        shapes = tuple(tuple(one.shape) for one in self.variables)
        return tuple(self.given.shape), self.given.dtype, tuple(self.gives.shape), shapes, self.is_first


def cost_graph(model: ZooModel, inputs: Any, kinds: Sequence[str], times: str, again: bool = True) -> CostGraph:
    """The model's parts and its loss as a chain.

    Args:
        inputs: a batch, in the model's layout.
        kinds: that may be chosen from; those that the family is not built with are left out.
        times: "measured" or "counted".
        again: whether parts may run again.
    """
    offered = [kind for kind in kinds if kind == KEEP or _takes(model, kind)]
    known: dict[Any, Option] = {}
    parts = []
    for part in traced_parts(model, inputs):
        options: list[Option] = []
        for kind in offered:
            if (part.looks, kind) not in known:
                known[part.looks, kind] = option_of(part, kind, times)
            option = known[part.looks, kind]
            if kind == KEEP or option.resident_bytes < options[0].resident_bytes:
                options.append(option)
        reruns = again and part.given.dtype.is_floating
        left = _bytes(part.variables)
        facts = (part.name, _size(part.gives), tuple(options))
        parts.append(Part(*facts, left_bytes=left, reruns=reruns, joins=reruns and not part.is_first))
    parts.append(Part(LOSS, 0, (Option(KEEP, 0, 0.0, 0.0),), reruns=False, joins=False))
    return CostGraph.chain(with_noise(parts))


def traced_parts(model: ZooModel, inputs: Any) -> list[TracedPart]:
    """The parts of a model on a batch; nothing is computed, and no variable moves."""
    noise = None if model.code_seeds is None else tf.constant(1, tf.uint64)
    run = Pass(True, KINDS[KEEP], noise, _seed(model), moves=False, in_order=True)
    found: list[TracedPart] = []

    def walk(values: Any) -> Any:
        for place, (name, function) in enumerate(model.part_functions()):
            with tf.GradientTape() as tape:
                made = function(values, run)
            given, gives = (tf.TensorSpec(one.shape, one.dtype) for one in (values, made))
            found.append(TracedPart(name, function, run, given, gives, tape.watched_variables(), place == 0))
            values = made
        return values

    spec = tf.TensorSpec(inputs.shape, inputs.dtype)
    tf.function(walk, autograph=False).get_concrete_function(spec)
    return found


def option_of(part: TracedPart, kind: str, times: str) -> Option:
    """What one part costs by one kind."""
    run = part.run.by(KINDS[kind])

    def step(values: Any) -> list[Any]:
        with tf.GradientTape() as tape:
            if not part.is_first:
                tape.watch(values)
            made = part.function(values, run)
        total = tf.reduce_sum(made, name=END_OF_FORWARD)
        # Made of what the forward pass ends with, so that it is not there before.
        gradient = tf.fill(made.shape, total)
        sources = [*part.variables, *(() if part.is_first else (values,))]
        return [one for one in tape.gradient(made, sources, output_gradients=gradient) if one is not None]

    values = _random(part.given)
    function = tf.function(step, autograph=False)
    concrete = function.get_concrete_function(tf.TensorSpec(part.given.shape, part.given.dtype))
    function(values)
    found = record_most(lambda: function(values), END_OF_FORWARD, RECORDS)
    seconds = _measured(lambda: function(values)) if times == "measured" else None
    output, before = _size(part.gives), 0 if part.is_first else _size(part.given)
    resident = found.held_bytes or 0
    scratch = found.peak_bytes - resident - output - before - _bytes(part.variables)
    forward, backward = _counted(concrete)
    if seconds is not None:
        share = forward / max(forward + backward, 1e-30)
        forward, backward = share * seconds, (1 - share) * seconds
    return Option(kind, resident, forward, backward, output, scratch, keeps_output=resident >= output)


def _takes(model: ZooModel, kind: str) -> bool:
    try:
        check_policy(type(model).__name__, model.spec, KINDS[kind], model.learns_bits)
    except ValueError:
        return False
    return True


def _seed(model: ZooModel) -> Any:
    return tf.constant([1, 2]) if model.dropout_seeds is not None else None


def _random(spec: Any) -> Any:
    if not spec.dtype.is_floating:
        return tf.zeros(spec.shape, spec.dtype)
    return tf.cast(tf.random.stateless_normal(spec.shape, (1, 2)), spec.dtype)


def _size(spec: Any) -> int:
    size = math.prod(spec.shape) * spec.dtype.size
    return int(size) if size >= LEAST_TOLD_BYTES else 0


def _bytes(variables: Sequence[Any]) -> int:
    return sum(_size(tf.TensorSpec(one.shape, tf.as_dtype(one.dtype))) for one in variables)


def _measured(run: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        tf.nest.map_structure(lambda one: one.numpy(), run())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _counted(concrete: Any) -> tuple[float, float]:
    """Seconds by operations and bytes, before and after the end of the forward pass."""
    seconds, passed = [0.0, 0.0], 0
    for operation in concrete.graph.get_operations():
        passed = 1 if operation.name == END_OF_FORWARD else passed
        moved = sum(_elements(one) * one.dtype.size for one in (*operation.inputs, *operation.outputs))
        seconds[passed] += _flops(operation) / FLOPS_PER_SECOND
        if operation.outputs and operation.type not in ("Placeholder", "Const", "Reshape", "Identity"):
            seconds[passed] += moved / BYTES_PER_SECOND
    return seconds[0], seconds[1]


def _flops(operation: Any) -> float:
    """Of a convolution or matrix product, forward or backward."""
    shapes = [one.shape for one in (*operation.inputs, *operation.outputs)]
    if operation.type == "MatMul":
        inner = shapes[0][0] if operation.get_attr("transpose_a") else shapes[0][1]
        return 2.0 * _elements(operation.outputs[0]) * (inner or 1)
    if not operation.type.startswith(("Conv2D", "DepthwiseConv2dNative")):
        return 0.0
    gradient = "Backprop" in operation.type
    values = operation.inputs[2] if gradient else operation.outputs[0]
    if operation.type.endswith("BackpropFilter"):
        kernel: Any = operation.outputs[0].shape
        given = tf.get_static_value(operation.inputs[1]) if kernel.rank is None or None in kernel else None
        kernel = kernel if given is None else given
    else:
        kernel = operation.inputs[1].shape
    inner = math.prod(int(size) for size in kernel[:3])
    if operation.type.startswith("Depthwise"):
        inner = int(kernel[0]) * int(kernel[1])
    return 2.0 * _elements(values) * inner


def _elements(tensor: Any) -> int:
    return math.prod(int(size) for size in tensor.shape) if tensor.shape.is_fully_defined() else 0
