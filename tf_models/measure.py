"""Memory and time of a training step in TensorFlow: bytes from its profiler, or from XLA's buffer assignment."""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tf_models.allocations import LEAST_TOLD_BYTES, TELLS_ALL, Allocations, record_most
from tf_models.devices import device_name, tensorflow_device
from tf_models.step import END_OF_FORWARD, make_step, shaped_input
from tf_models.tensorflow_names import tf
from tf_models.zoo_model import ZooModel
from zoo.choices import unknown
from zoo.report import MemoryReport

MODES = ("eager", "graph", "xla")
MOST_PARTS = 6


def measure_step(
    model: ZooModel,
    input_shape: Sequence[int],
    *,
    device: str = "cpu",
    dtype: Any = np.float32,
    repeats: int = 3,
    execute: bool = True,
    policy: str = "",
    mode: str = "graph",
) -> MemoryReport:
    """Measure one training step (forward, cross-entropy, backward) of a zoo model on random inputs.

    The model's variables end as they were. Bytes of different modes are counted differently: compare none with another.

    Args:
        model: one of this package's.
        input_shape: of one batch as zoo counts, batch first: images (N, C, H, W) whatever the model's data_format.
        dtype: of the images; the model's own dtype policy decides what it computes in.
        repeats: timed steps after two that warm up; the median is reported. 0 = measure no time.
        execute: False = nothing is computed: the step is compiled by XLA and its buffer assignment read.
        policy: what to call this configuration in the report; by default the model's own policy.
        mode: "eager"; "graph" (tf.function); "xla" (jit_compile=True). In eager and graph mode, bytes are those that
            operators asked for, as the profiler tells; under XLA, those of its one temporary buffer and the results.

    Returns:
        A report. Peak bytes count the parameters' gradients; XLA tells what is saved only as part of its buffer: there
        saved bytes are the buffer's.

    Raises:
        TypeError: not one of this package's models.
        ValueError: a shape that is no batch, or one so small that TensorFlow tells nothing; another mode.

    Example:
        >>> from tf_models import ResNet
        >>> report = measure_step(ResNet(layers=(1, 1), width=16), (32, 3, 32, 32), repeats=0)
        >>> report.peak_bytes > report.saved_bytes > 0
        True
    """
    shape = _checked(model, input_shape, repeats, mode, execute)
    if not execute:
        mode = "xla"
    place = tensorflow_device(device)
    with _put_back(model), tf.device(place):
        inputs, labels = random_batch(model, shape, dtype)
        step = make_step(model, mode)

        def run() -> Any:
            return step(inputs, labels)

        found = (
            _recorded(run, 1 if mode == "xla" and model.learnt_bits is None else 2)
            if execute
            else assigned_by_xla(step, inputs, labels)
        )
        seconds = _seconds(run, repeats) if execute and repeats else None
    saves = model.policy.efficient or model.policy.compressed is not None or model.carried_plan is not None
    _check_told(found, shape, needs_kept=mode != "xla" and not saves)
    held = found.held_bytes if mode != "xla" else found.largest_bytes
    return MemoryReport(
        model=type(model).__name__,
        policy=policy or str(model.policy),
        input_shape=shape,
        dtype=str(model.compute_dtype),
        device=device_name(place),
        saved_bytes=held or 0,
        peak_bytes=found.peak_bytes,
        parts=_parts(found.at_peak),
        model_bytes=sum(int(np.prod(one.shape)) * np.dtype(one.dtype).itemsize for one in model.variables),
        step_seconds=seconds,
        ran_on=_ran_on(mode, place),
        counted=mode,
    )


def _checked(model: Any, input_shape: Sequence[int], repeats: int, mode: str, execute: bool) -> tuple[int, ...]:
    if not isinstance(model, ZooModel):
        raise TypeError(f"measure_step: a model of tf_models is needed, not {type(model).__name__}")
    if mode not in MODES:
        raise ValueError(f"measure_step: {unknown('mode', mode, MODES)}")
    shape = tuple(int(size) for size in input_shape)
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"input_shape must be positive sizes with the batch first, not {input_shape!r}")
    if not execute and model.learnt_bits is not None:
        raise ValueError(
            f"measure_step: execute=False with compressed={model.policy.compressed}: its bits are learnt by running; "
            "leave execute out"
        )
    if repeats < 0:
        raise ValueError(f"repeats must be 0 or more, not {repeats}")
    return shape


def random_batch(model: ZooModel, shape: tuple[int, ...], dtype: Any) -> tuple[Any, Any]:
    """Inputs of a shape as zoo counts it, in the layout of the model, and labels; always the same."""
    draw = np.random.default_rng(0)
    if getattr(model.spec, "is_language_model", False):
        tokens = draw.integers(0, model.spec.num_classes, shape, dtype=np.int64)
        return tf.constant(tokens), tf.constant(tokens)
    images = draw.standard_normal(shape, dtype=np.float32).astype(np.dtype(dtype).name)
    return tf.constant(shaped_input(model, images)), tf.zeros(shape[:1], tf.int64)


def step_allocations(model: ZooModel, shape: tuple[int, ...]) -> Allocations:
    """What a step in graph mode on the CPU allocates: of three, the one that needed most.

    Raises:
        ValueError: as `measure_step`.
    """
    with _put_back(model), tf.device(tensorflow_device("cpu")):
        inputs, labels = random_batch(model, shape, np.float32)
        step = make_step(model, "graph")
        found = _recorded(lambda: step(inputs, labels), before=2, times=3)
    _check_told(found, shape)
    return found


@contextlib.contextmanager
def _put_back(model: ZooModel) -> Iterator[None]:
    """What steps move, as it was before."""
    kept = [variable.numpy() for variable in model.non_trainable_variables]
    try:
        yield
    finally:
        for variable, value in zip(model.non_trainable_variables, kept, strict=True):
            variable.assign(value)


def _check_told(found: Allocations, shape: tuple[int, ...], needs_kept: bool = False) -> None:
    """Whether TensorFlow has told of any tensor, or also of one that is kept."""
    if not found.peak_bytes or (needs_kept and not found.held_bytes):
        raise ValueError(
            f"measure_step: no tensor that a step with input {shape} keeps has 256 KiB; TensorFlow tells of no "
            f"smaller one on a CPU: give a larger batch, or mode='xla', or start the process with {TELLS_ALL}=true, "
            "which makes it tell of all"
        )


def _recorded(run: Callable[[], Any], before: int, times: int = 1) -> Allocations:
    """After some runs: one makes the graph, another lays out constants; or learns the bits, and the graph is new."""
    for _ in range(before):
        run()
    return record_most(run, END_OF_FORWARD, times)


def _seconds(run: Callable[[], Any], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        loss, _, _ = run()
        loss.numpy()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _ran_on(mode: str, place: str) -> str:
    """The mode, and what was not counted."""
    if mode == "xla" or "CPU" not in place or LEAST_TOLD_BYTES == 1:
        return f"TensorFlow, {mode}"
    return f"TensorFlow, {mode} (bytes are those of tensors of {LEAST_TOLD_BYTES // 2**10} KiB and more)"


def _parts(at_peak: Mapping[str, int]) -> dict[str, int]:
    """What was held at the peak, by the kind of operator that had made it."""
    kinds: dict[str, int] = {}
    for operator, size in at_peak.items():
        kind = re.sub(r"(_\d+)+$", "", operator.rpartition("/")[2]) or "unnamed"
        kinds[kind] = kinds.get(kind, 0) + size
    largest = sorted(kinds, key=kinds.__getitem__, reverse=True)
    parts = {f"made by {kind}": kinds[kind] for kind in largest[:MOST_PARTS]}
    rest = sum(kinds[kind] for kind in largest[MOST_PARTS:])
    return parts | ({"made by others": rest} if rest else {})


def assigned_by_xla(step: Any, *arguments: Any) -> Allocations:
    """What XLA's buffer assignment gives a function of `jit_compile=True`, without running it.

    Raises:
        RuntimeError: this TensorFlow does not tell it.
    """
    from tensorflow.compiler.xla.service import hlo_pb2

    proto = hlo_pb2.HloProto()
    proto.ParseFromString(step.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo_proto_serialized"))
    buffers = proto.buffer_assignment.buffer_allocations
    own = [one.size for one in buffers if not one.is_entry_computation_parameter and not one.is_constant]
    if not own:
        raise RuntimeError(f"TensorFlow {tf.__version__} does not tell XLA's buffer assignment: measure by running")
    total = sum(own)
    return Allocations(total, None, {"XLA's buffers": total}, max(own))
