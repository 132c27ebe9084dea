"""The loops of the norm passes over vectors, one for every activation, for numba kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kernels._cpu_formats import multiply_add
from kernels._cpu_threads import jit_inline
from kernels._cpu_vectors import Vector, fused, vector_loop, where

IDENTITY, RELU, RELU6, LEAKY_RELU = range(4)
ACTIVATION_NAMES = ("identity", "relu", "relu6", "leaky_relu")
SIX = 6.0
Formula = Callable[..., tuple[Vector, ...]]


def activation_number(name: str) -> int:
    """The activation as kernels take it."""
    return ACTIVATION_NAMES.index(name)


def _relu(u: Vector, slope: Vector) -> Vector:
    return where(u < u.of(0), u.of(0), u)


def _relu6(u: Vector, slope: Vector) -> Vector:
    positive = _relu(u, slope)
    return where(positive > u.of(SIX), u.of(SIX), positive)


def _leaky_relu(u: Vector, slope: Vector) -> Vector:
    return where(u > u.of(0), u, u * slope)


def _mapped(activation: Callable[[Vector, Vector], Vector]) -> Any:
    def formula(x: Vector, scale: Vector, shift: Vector, slope: Vector, out: Vector) -> tuple[Vector]:
        return (activation(fused(x, scale, shift), slope),)

    return vector_loop(formula, 1)


def _relu_gate(d: Vector, u: Vector, slope: Vector) -> Vector:
    return where(u > u.of(0), d, d.of(0))


def _relu6_gate(d: Vector, u: Vector, slope: Vector) -> Vector:
    return where(u <= u.of(0), d.of(0), where(u >= u.of(SIX), d.of(0), d))


def _leaky_relu_gate(d: Vector, u: Vector, slope: Vector) -> Vector:
    return where(u > u.of(0), d, d * slope)


def _terms(gate: Callable[[Vector, Vector, Vector], Vector], accumulate: bool) -> Any:
    """target = or += gated * scale; sums of gated and of gated * (x - mean)."""

    def formula(
        d: Vector, x: Vector, mean: Vector, scale: Vector, shift: Vector, slope: Vector,
        into: Vector, sum_d: Vector, sum_dx: Vector,
    ) -> tuple[Vector, ...]:  # fmt: skip
        gated = gate(d, fused(x, scale, shift), slope)
        put = fused(gated, scale, into) if accumulate else gated * scale
        return put, sum_d + gated, fused(gated, x - mean, sum_dx)

    return vector_loop(formula, 3)


_map_identity, _map_relu = _mapped(lambda u, slope: u), _mapped(_relu)
_map_relu6, _map_leaky_relu = _mapped(_relu6), _mapped(_leaky_relu)
_put_identity, _add_identity = (_terms(lambda d, u, slope: d, adding) for adding in (False, True))
_put_relu, _add_relu = (_terms(_relu_gate, adding) for adding in (False, True))
_put_relu6, _add_relu6 = (_terms(_relu6_gate, adding) for adding in (False, True))
_put_leaky_relu, _add_leaky_relu = (_terms(_leaky_relu_gate, adding) for adding in (False, True))
_subtract = vector_loop(lambda x, mean, constant, slope, into: (into - fused(x - mean, slope, constant),), 1)
_copy = vector_loop(lambda source, into: (source,), 1)


@jit_inline
def copy(source: np.ndarray, into: np.ndarray) -> None:
    """Copy a vector to the beginning of another of its type."""
    _copy(source.size, (source, into))


@jit_inline
def activate(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, kind: int, slope: float, out: np.ndarray) -> None:
    """out = activation(x * scale + shift); NaN passes. x and out may be one array."""
    operands = (x, scale, shift, slope, out)
    if kind == RELU:
        _map_relu(x.size, operands)
    elif kind == IDENTITY:
        _map_identity(x.size, operands)
    elif kind == RELU6:
        _map_relu6(x.size, operands)
    else:
        _map_leaky_relu(x.size, operands)


@jit_inline
def add_terms(count: int, kind: int, accumulate: bool, operands: tuple[Any, ...]) -> None:
    """`_terms` of `count` values, given d, x, mean, scale, shift, slope, target and the two sums."""
    if kind == RELU:
        if accumulate:
            _add_relu(count, operands)
        else:
            _put_relu(count, operands)
    elif kind == RELU6:
        if accumulate:
            _add_relu6(count, operands)
        else:
            _put_relu6(count, operands)
    elif kind == LEAKY_RELU:
        if accumulate:
            _add_leaky_relu(count, operands)
        else:
            _put_leaky_relu(count, operands)
    else:
        add_all_terms(count, accumulate, operands)


@jit_inline
def add_all_terms(count: int, accumulate: bool, operands: tuple[Any, ...]) -> None:
    """`add_terms` of identity: d has been chosen by a mask already."""
    if accumulate:
        _add_identity(count, operands)
    else:
        _put_identity(count, operands)


@jit_inline
def subtract(x: np.ndarray, mean: np.ndarray, constant: np.ndarray, slope: np.ndarray, into: np.ndarray) -> None:
    """into -= constant + (x - mean) * slope."""
    _subtract(x.size, (x, mean, constant, slope, into))


@jit_inline
def flag(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, kind: int, flags: np.ndarray) -> None:
    """The activation's mask, a byte a value: u > 0, or the region of relu6."""
    zero, six = x.dtype.type(0), x.dtype.type(SIX)
    if kind == RELU6:
        for j in range(x.size):
            u = multiply_add(x[j], scale[j], shift[j])
            flags[j] = np.uint8(0) if u <= zero else (np.uint8(2) if u >= six else np.uint8(1))
    else:
        for j in range(x.size):
            u = multiply_add(x[j], scale[j], shift[j])
            flags[j] = np.uint8(u > zero)


@jit_inline
def choose(d: np.ndarray, flags: np.ndarray, kind: int, slope: float, high: float, out: np.ndarray) -> None:
    """out = d where the flag is 1; else what is left of it: `high` at 2, d * slope for leaky_relu, or 0.

    Masks choose over whole spans, and values are read before they are chosen: what does not become vectors becomes
    branches, often guessed wrong.
    """
    zero = out.dtype.type(0)
    if kind == IDENTITY:
        for j in range(d.size):
            out[j] = d[j]
    elif kind == LEAKY_RELU:
        for j in range(d.size):
            value = d[j]
            out[j] = value if flags[j] == 1 else value * slope
    else:
        for j in range(d.size):
            value = d[j]
            other = high if flags[j] == 2 else zero
            out[j] = value if flags[j] == 1 else other
