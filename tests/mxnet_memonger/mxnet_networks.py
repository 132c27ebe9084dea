"""Small Symbols, and what one training step of a Symbol gives; skips where MXNet is not installed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from zoo.frameworks import FRAMEWORKS, why_missing

_MISSING = why_missing(FRAMEWORKS["mxnet"])
if _MISSING is not None:
    pytest.skip(_MISSING, allow_module_level=True)

from mxnet_memonger.numpy_names import mx  # noqa: E402 - after the skip

IMAGES = {"data": (4, 3, 24, 24)}


def unit(inputs: Any, channels: int, size: int, name: str, activation: bool = True, stride: int = 1) -> Any:
    """Convolution, norm, ReLU."""
    pad = (size // 2,) * 2
    values = mx.sym.Convolution(
        inputs,
        num_filter=channels,
        kernel=(size,) * 2,
        stride=(stride,) * 2,
        pad=pad,
        no_bias=True,
        name=f"{name}_conv",
    )
    values = mx.sym.BatchNorm(values, fix_gamma=False, name=f"{name}_bn")
    return mx.sym.Activation(values, act_type="relu", name=f"{name}_relu") if activation else values


def residual_network(blocks: int = 4, marked: bool = False, drop_rate: float = 0.0) -> Any:
    """A ResNet of so many bottlenecks."""
    values = unit(mx.sym.Variable("data"), 16, 3, "stem")
    for block in range(blocks):
        name = f"b{block}"
        inner = unit(unit(values, 4, 1, f"{name}a"), 4, 3, f"{name}b")
        inner = unit(inner, 16, 1, f"{name}c", activation=False)
        if drop_rate:
            inner = mx.sym.Dropout(inner, p=drop_rate, name=f"{name}_drop")
        values = mx.sym.Activation(values + inner, act_type="relu", name=f"{name}_out")
        if marked:
            values._set_attr(mirror_stage="True")
    return with_head(values)


def dense_network(layers: int = 6, growth: int = 16) -> Any:
    """A dense block, a chain of concatenations."""
    values = unit(mx.sym.Variable("data"), growth, 3, "stem")
    for layer in range(layers):
        new = unit(unit(values, 16, 1, f"l{layer}a"), growth, 3, f"l{layer}b")
        values = mx.sym.Concat(values, new, name=f"l{layer}_concat")
    return with_head(values)


def with_head(values: Any) -> Any:
    """Mean over pixels, linear layer, softmax."""
    pooled = mx.sym.Pooling(values, global_pool=True, pool_type="avg", kernel=(1, 1), name="pool")
    scores = mx.sym.FullyConnected(mx.sym.Flatten(pooled, name="flat"), num_hidden=5, name="fc")
    return mx.sym.SoftmaxOutput(scores, name="softmax")


def recurrent_network(steps: int, layers: int = 2, hidden: int = 16, batch: int = 4) -> tuple[Any, dict[str, Any]]:
    """An unrolled LSTM with a loss at every step, and its inputs' shapes."""
    cell = mx.rnn.SequentialRNNCell()
    for layer in range(layers):
        cell.add(mx.rnn.LSTMCell(hidden, prefix=f"l{layer}_"))
    outputs, _ = cell.unroll(steps, inputs=[mx.sym.Variable(f"t{step}_data") for step in range(steps)])
    weight, bias = mx.sym.Variable("cls_weight"), mx.sym.Variable("cls_bias")
    losses = []
    for step, output in enumerate(outputs):
        scores = mx.sym.FullyConnected(output, weight=weight, bias=bias, num_hidden=5, name=f"t{step}_cls")
        losses.append(mx.sym.SoftmaxOutput(scores, name=f"t{step}_softmax"))
    return mx.sym.Group(losses), {f"t{step}_data": (batch, 8) for step in range(steps)}


def step_results(sym: Any, shapes: dict[str, Any], seed: int = 0, steps: int = 1) -> dict[str, np.ndarray]:
    """Outputs, gradients and moving statistics after training steps on values that depend on names alone."""
    argument_shapes, _, state_shapes = sym.infer_shape(**shapes)
    arguments = _filled(sym.list_arguments(), argument_shapes)
    states = _filled(sym.list_auxiliary_states(), state_shapes)
    gradients = {name: mx.nd.zeros(array.shape) for name, array in arguments.items()}
    executor = sym.bind(mx.cpu(), args=arguments, args_grad=gradients, aux_states=states)
    for step in range(steps):
        mx.random.seed(seed + step)
        executor.forward(is_train=True)
        executor.backward([mx.nd.ones(output.shape) for output in executor.outputs])
    mx.nd.waitall()
    found = {f"output {i}": output for i, output in enumerate(executor.outputs)}
    found |= {f"gradient {name}": array for name, array in gradients.items()}
    found |= {f"state {name}": array for name, array in states.items()}
    return {name: array.asnumpy() for name, array in found.items()}


def assert_same_bits(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Every array equal to the bit, and none of them without information."""
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert np.array_equal(found[name], array), f"{name} differs by {np.abs(found[name] - array).max()}"
    assert any(np.abs(array).max() > 0 for name, array in expected.items() if name.startswith("gradient"))


def _filled(names: list[str], shapes: Any) -> dict[str, Any]:
    arrays = {}
    for name, shape in zip(names, shapes, strict=True):
        draw = np.random.default_rng([sum(map(ord, name)), math.prod(shape)])
        values = draw.integers(0, 5, shape) if name.endswith("label") else draw.standard_normal(shape) * 0.2
        if name.endswith(("gamma", "var")):
            values = 1 + np.abs(values)
        arrays[name] = mx.nd.array(values.astype(np.float32))
    return arrays
