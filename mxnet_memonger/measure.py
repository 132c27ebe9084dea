"""Memory and time of a training step in MXNet: bytes from its own planner, time from a real step."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from mxnet_memonger.binding import plan_bytes, saved_bytes
from mxnet_memonger.devices import context_of, device_name
from mxnet_memonger.numpy_names import mx
from mxnet_memonger.step import StepRunner
from mxnet_memonger.symbol_graph import BYTES_A_VALUE
from mxnet_memonger.symbol_model import SymbolModel
from zoo.report import MemoryReport


def measure_step(
    model: SymbolModel,
    input_shape: Sequence[int],
    *,
    device: str = "cpu",
    dtype: Any = np.float32,
    repeats: int = 3,
    execute: bool = True,
    policy: str = "",
) -> MemoryReport:
    """Measure one training step (forward, cross-entropy, backward) of a zoo model on random inputs.

    The model's arrays end as they were; MXNet's generator does not.

    Args:
        model: one of this package's.
        input_shape: of one batch, batch size first.
        dtype: float32, which is what the models compute in.
        repeats: timed steps after one warm-up; the median is reported. 0 = measure no time.
        execute: False = bytes only: nothing is computed, any size can be measured.
        policy: what to call this configuration in the report; by default the model's own policy.

    Returns:
        A report. Peak bytes are what MXNet's planner allocates, and the parameters' gradients; what an operator
        allocates while it runs is not told by MXNet and not in it.

    Raises:
        TypeError: not one of this package's models, or another dtype.
        ValueError: a shape that is no batch.

    Example:
        >>> from mxnet_memonger import ResNet
        >>> report = measure_step(ResNet(layers=(1, 1), width=16), (32, 3, 32, 32), repeats=0)
        >>> report.peak_bytes > report.saved_bytes > 0
        True
    """
    if not isinstance(model, SymbolModel):
        raise TypeError(f"measure_step: a model of mxnet_memonger is needed, not {type(model).__name__}")
    if np.dtype(dtype) != np.float32:
        raise TypeError(f"measure_step: the models compute in float32, not {np.dtype(dtype).name}")
    shape = tuple(int(size) for size in input_shape)
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"input_shape must be positive sizes with the batch first, not {input_shape!r}")
    if repeats < 0:
        raise ValueError(f"repeats must be 0 or more, not {repeats}")
    context = context_of(device)
    sym = model.for_training(shape)
    shapes = model.shapes(shape)
    pool = plan_bytes(sym, None, shapes)
    gradients = sum(BYTES_A_VALUE * math.prod(model.arrays[name].shape) for name in model.parameter_names())
    return MemoryReport(
        model=type(model).__name__,
        policy=policy or str(model.policy),
        input_shape=shape,
        dtype="float32",
        device=device_name(context),
        saved_bytes=saved_bytes(sym, shapes),
        peak_bytes=pool + gradients,
        parts={"activations and their gradients": pool, "parameter gradients": gradients},
        model_bytes=model.parameter_bytes(),
        step_seconds=_step_seconds(model, shape, context, repeats) if execute and repeats else None,
    )


def _step_seconds(model: SymbolModel, shape: tuple[int, ...], context: Any, repeats: int) -> float:
    states = {name: model.arrays[name].copy() for name in model.state_names}
    runner = StepRunner(model, context)
    draw = np.random.default_rng(0)
    images = mx.nd.array(model.random_inputs(shape, draw), context)
    labels = mx.nd.zeros(model.label_shape(shape), context)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        runner.train(images, labels)
        mx.nd.waitall()
        seconds.append(time.perf_counter() - start)
    for name, value in states.items():
        model.arrays[name][:] = value
    return statistics.median(seconds[1:])
