"""Operators whose backward passes read packed codes: what stands in for norms, convolutions, ReLUs and pools.

In the forward pass they give zeros: values are computed by the ordinary operators beside them, so that these, and the
layouts in which MKL-DNN holds them, stay as they are. Their gradients are the ordinary operators' for values rebuilt
from codes: normalised inputs with their statistics, and exact masks (ActNN, arXiv:2104.14129).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

import kernels
from kernels import checks
from mxnet_memonger.codes import CodeLayout, ConvolutionShape, as_words
from mxnet_memonger.numpy_names import mx

if TYPE_CHECKING:
    from mxnet_memonger.coded_kinds import Kind

Shapes = Sequence[Sequence[int]]
Arrays = Sequence[Any]


def rows(array: np.ndarray) -> np.ndarray:
    """(N, C, ...) -> a view (N, C, P), as the kernels take it."""
    return array.reshape(array.shape[0], array.shape[1], -1)


def float32(array: Any) -> np.ndarray:
    """An array's values, in the type that kernels take."""
    values: np.ndarray = array.asnumpy()
    return values.astype(np.float32, copy=False)


def convolution_gradients(
    inputs: np.ndarray, weight: Any, d_out: np.ndarray, shape: ConvolutionShape
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of a convolution's input and weight. MXNet offers them with a forward pass alone, which is run too."""
    values, kernel = mx.nd.array(inputs), mx.nd.array(float32(weight))
    values.attach_grad()
    kernel.attach_grad()
    attributes = {**shape.attributes, "no_bias": "True"}
    with mx.autograd.record():
        made = mx.nd.Convolution(values, kernel, **attributes)
    made.backward(mx.nd.array(d_out))
    return values.grad.asnumpy(), kernel.grad.asnumpy()


def normalised_gradient(
    d_out: np.ndarray, zhat: np.ndarray, scale: np.ndarray, activation: str, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a norm's input, weight and bias; zhat is its normalised input (N, C, P), scale is weight * inv_std."""
    zeros, ones = np.zeros_like(scale), np.ones_like(scale)
    target = np.empty_like(zhat)
    d_bias, d_weight = kernels.norm_backward(
        rows(d_out), zhat, zeros, ones, scale, zeros, target=target, accumulate=False, activation=activation, mask=mask
    )
    # float32: by a Python integer beyond 65535, NumPy 1 divides in float64, which the kernels refuse.
    count = np.float32(zhat.size // len(scale))
    kernels.subtract_norm_terms(target, zhat, zeros, scale * d_bias / count, scale * d_weight / count)
    return target, d_weight, d_bias


class Operator(mx.operator.CustomOp):  # type: ignore[name-defined]
    """An operator's work, for shapes that are known."""

    def __init__(self, kind: Kind, shapes: Shapes) -> None:
        super().__init__()
        self.kind, self.shapes = kind, [tuple(shape) for shape in shapes]

    def _give(self, place: int, req: Sequence[str], into: Arrays, value: Any) -> None:
        if req[place] != "null":
            array = value
            if not isinstance(value, mx.nd.NDArray):
                array = mx.nd.array(value.reshape(into[place].shape), dtype=into[place].dtype)
            self.assign(into[place], req[place], array)

    def forward(self, is_train: bool, req: Any, in_data: Any, out_data: Any, aux: Any) -> None:
        out_data[0][:] = 0

    def backward(self, req: Any, out_grad: Any, in_data: Any, out_data: Any, in_grad: Any, aux: Any) -> None:
        for place in range(1, len(in_grad)):
            if req[place] not in ("null", "add"):
                in_grad[place][:] = 0


class Encode(Operator):
    """data -> codes, (mean, inv_std): of the normalised data, or with eps "" of the data itself."""

    @cached_property
    def layout(self) -> CodeLayout:
        return self.kind.code_layout(self.shapes[0])

    def forward(self, is_train: bool, req: Any, in_data: Any, out_data: Any, aux: Any) -> None:
        values = float32(in_data[0])
        epsilon, statistics = self.kind.settings["eps"], np.zeros((2, 1), np.float32)
        if epsilon is not None:
            mean, variance = kernels.channel_statistics(rows(values))
            statistics = np.stack([mean, 1 / np.sqrt(variance + np.float32(epsilon))]).astype(np.float32)
            values = (rows(values) - statistics[0][:, None]) * statistics[1][:, None]
        # Rounding follows from what is rounded: a run that is resumed rounds alike, and MXNet's generator is not drawn.
        some = values.reshape(-1)[:: max(1, values.size // 4096)]
        seed = zlib.crc32(self.kind.settings["name"].encode() + some.tobytes() + statistics.tobytes())
        self._give(0, req, out_data, self.layout.encode(values, seed))
        self._give(1, req, out_data, statistics)

    def backward(self, req: Any, out_grad: Any, in_data: Any, out_data: Any, in_grad: Any, aux: Any) -> None:
        in_grad[0][:] = 0


class Unit(Operator):
    """Norm, activation and convolution, of which the two last may be missing."""

    def forward(self, is_train: bool, req: Any, in_data: Any, out_data: Any, aux: Any) -> None:
        super().forward(is_train, req, in_data, out_data, aux)
        mask = np.zeros(1, np.float32)
        if self.kind.activation == "relu":
            mask = as_words([kernels.pack_positive(float32(in_data[1]))])
        elif self.kind.activation == "relu6":
            mask = as_words([kernels.pack_regions(float32(in_data[1]), 0.0, 6.0)])
        self._give(1, req, out_data, mask)

    def backward(self, req: Any, out_grad: Any, in_data: Any, out_data: Any, in_grad: Any, aux: Any) -> None:
        super().backward(req, out_grad, in_data, out_data, in_grad, aux)
        kind, named = self.kind, dict(zip(self.kind.list_arguments(), range(len(in_data)), strict=True))
        zhat, inv_std = self._normalised(in_data, named)
        weight = np.ones_like(inv_std) if kind.settings["fix_gamma"] else float32(in_data[named["gamma"]])
        bias = float32(in_data[named["beta"]])
        mask = self._mask(out_data[1], zhat.size)
        d_out = float32(out_grad[0])
        if kind.convolution is not None:
            activation = np.empty_like(zhat)
            kernels.rebuild_activation(zhat, weight, bias, mask, activation, activation=kind.activation)
            if kind.convolution.has_bias:
                self._give(named["bias"], req, in_grad, d_out.sum(axis=(0, 2, 3)))
            kernel = in_data[named["weight"]]
            d_out, d_kernel = convolution_gradients(activation.reshape(self.shapes[0]), kernel, d_out, kind.convolution)
            self._give(named["weight"], req, in_grad, d_kernel)
        d_values, d_weight, d_bias = normalised_gradient(d_out, zhat, weight * inv_std, kind.activation, mask)
        self._give(0, req, in_grad, d_values)
        if not kind.settings["fix_gamma"]:
            self._give(named["gamma"], req, in_grad, d_weight)
        self._give(named["beta"], req, in_grad, d_bias)
        share, norm_inv_std = np.float32(kind.settings["momentum"]), float32(in_data[named["inv_std"]])
        variance = 1 / np.square(norm_inv_std, dtype=np.float64) - kind.settings["eps"]
        for moving, new in zip(aux, (in_data[named["mean"]].asnumpy(), variance), strict=True):  # as BatchNorm's does
            moving[:] = moving.asnumpy() * share + new.astype(np.float32) * (1 - share)

    def _mask(self, carried: Any, count: int) -> np.ndarray | None:
        if self.kind.activation == "identity":
            return None
        return carried.asnumpy().view(np.uint8)[: checks.mask_bytes(self.kind.activation, count)]

    def _normalised(self, in_data: Arrays, named: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """(N, C, P) from the codes of all parts, and inv_std (C,)."""
        samples, channels = self.shapes[0][:2]
        zhat = np.empty((samples, channels, math.prod(self.shapes[0][2:])), np.float32)
        inv_std, start = np.empty(channels, np.float32), 0
        for place in range(self.kind.settings["parts"]):
            statistics = in_data[named[f"statistics{place}"]].asnumpy()
            end = start + statistics.shape[1]
            layout = self.kind.code_layout((samples, end - start, zhat.shape[2]))
            decoded = layout.decode(in_data[named[f"codes{place}"]].asnumpy())
            zhat[:, start:end] = decoded.reshape(samples, end - start, -1)
            inv_std[start:end] = statistics[1]
            start = end
        return zhat, inv_std


class Convolution(Operator):
    """A convolution of values that no norm made."""

    def backward(self, req: Any, out_grad: Any, in_data: Any, out_data: Any, in_grad: Any, aux: Any) -> None:
        super().backward(req, out_grad, in_data, out_data, in_grad, aux)
        kind, shape = self.kind, self.shapes[0]
        assert kind.convolution is not None, "this kind has one"
        if kind.settings["codec"] is None:
            values = float32(in_data[0])
        else:
            values = kind.code_layout(shape).decode(in_data[-2].asnumpy()).reshape(shape)
        d_out = float32(out_grad[0])
        d_values, d_kernel = convolution_gradients(values, in_data[1], d_out, kind.convolution)
        self._give(0, req, in_grad, d_values)
        self._give(1, req, in_grad, d_kernel)
        if kind.convolution.has_bias:
            self._give(2, req, in_grad, d_out.sum(axis=(0, 2, 3)))


class Mask(Unit):
    """A ReLU that no norm is before."""

    def backward(self, req: Any, out_grad: Any, in_data: Any, out_data: Any, in_grad: Any, aux: Any) -> None:
        Operator.backward(self, req, out_grad, in_data, out_data, in_grad, aux)
        d_out = float32(out_grad[0])
        mask = self._mask(out_data[1], d_out.size)
        assert mask is not None, "this kind has one"
        if self.kind.activation == "relu6":
            flags = kernels.unpack_regions(mask, d_out.size) == 1
        else:
            flags = kernels.unpack_bits(mask, d_out.size)
        self._give(0, req, in_grad, d_out * flags.reshape(d_out.shape))


class MaxPool(Operator):
    """Keeps where each maximum was."""

    def forward(self, is_train: bool, req: Any, in_data: Any, out_data: Any, aux: Any) -> None:
        super().forward(is_train, req, in_data, out_data, aux)
        _, codes = kernels.max_pool_positions(float32(in_data[1]), *self.kind.window)
        self._give(1, req, out_data, as_words([codes]))

    def backward(self, req: Any, out_grad: Any, in_data: Any, out_data: Any, in_grad: Any, aux: Any) -> None:
        d_out = float32(out_grad[0])
        codes = out_data[1].asnumpy().view(np.uint8)[: self.kind.position_bytes(d_out.size)]
        self._give(0, req, in_grad, kernels.max_pool_gradient(d_out, codes, self.shapes[0], *self.kind.window))


class AveragePool(Operator):
    """Keeps nothing: its gradient follows from shapes."""

    def backward(self, req: Any, out_grad: Any, in_data: Any, out_data: Any, in_grad: Any, aux: Any) -> None:
        values = mx.nd.zeros(self.shapes[0], dtype=out_grad[0].dtype)
        values.attach_grad()
        with mx.autograd.record():
            made = mx.nd.Pooling(values, **self.kind.settings["pool"])
        made.backward(out_grad[0])
        self._give(0, req, in_grad, values.grad)


class Join(Operator):
    """A concatenation, which keeps nothing; MXNet's own keeps its inputs."""

    def backward(self, req: Any, out_grad: Any, in_data: Any, out_data: Any, in_grad: Any, aux: Any) -> None:
        start, axis = 0, self.kind.settings["dim"]
        for place, shape in enumerate(self.shapes):
            part = mx.nd.slice_axis(out_grad[0], axis=axis, begin=start, end=start + shape[axis])
            self._give(place, req, in_grad, part)
            start += shape[axis]
