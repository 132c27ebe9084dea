"""The fused passes around normalisation in NumPy: statistics, affine map and activation, coding, gradients.

Arrays are (rows, C), channels last, or (N, C, P), with any stride in the first dimension, so that a channel slice of a
wider buffer passes. Vectors have one element a channel, float32 (float64 for float64 arrays), the type of arithmetic.
A product with a sum, a * b + c, is rounded once in float32 and twice in float64. Codes and masks run over the view in
row-major order, without its gaps.
"""

from __future__ import annotations

import numpy as np

from kernels import arguments, checks, norm_arguments
from kernels._reference_activation import activate, affine, mask_of, masked, multiply_add, rebuilt, rows_of
from kernels._reference_group import decode_run, quantize
from kernels.formats import narrow, widen
from kernels.quantized import Quantized


def channel_statistics(values: np.ndarray, *, dtype: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of every channel, better than 1e-6 relative even where |mean| is 300 deviations.

    Raises:
        TypeError, ValueError: arguments that do not fit; a channel without values.
    """
    name = norm_arguments.statistics("channel_statistics", values, dtype).name
    x = rows_of(widen(values, name)).astype(np.float64)
    kind = np.float64 if name == "float64" else np.float32
    return x.mean(axis=(0, 2)).astype(kind), x.var(axis=(0, 2)).astype(kind)


def affine_activation(
    values: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    out: np.ndarray,
    *,
    activation: str = "relu",
    slope: float = 0.0,
    mask: np.ndarray | None = None,
    dtype: str | None = None,
) -> np.ndarray:
    """out = activation(values * scale + shift), and the activation's mask where an array for it is given.

    values * scale + shift is rounded once (float64: twice); its sign is exact, and the mask the same in all backends.

    Args:
        values, out: same shape and dtype; out may be values.
        activation: identity, relu, relu6, or leaky_relu with `slope`.
        mask: uint8 to write into: 1 bit a value (u > 0), for relu6 2-bit regions.
    """
    where = "affine_activation"
    name = norm_arguments.rows(where, "values", values, dtype, {"out": out}, scale=scale, shift=shift).name
    norm_arguments.mask(where, activation, mask, values.size, needed=False)
    u = affine(rows_of(widen(values, name)), scale, shift)
    if mask is not None:
        mask.reshape(-1)[...] = mask_of(u, activation)
    rows_of(out)[...] = narrow(activate(u, activation, slope), name).view(out.dtype)
    return out


def normalize_quantize_mask(
    values: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    bits: int,
    *,
    seed: int,
    group: int = 256,
    start: int = 0,
    activation: str = "relu",
    slope: float = 0.0,
    out: np.ndarray | None = None,
    wide_minimum: bool = False,
    codes: np.ndarray | None = None,
    minima: np.ndarray | None = None,
    steps: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    dtype: str | None = None,
) -> Quantized:
    """In one read of the values: (values - mean) * inv_std coded by the group quantiser, and the activation's mask.

    Args:
        out: where given, activation(values * scale + shift) is written there.
        others: as `quantize` and `affine_activation`.

    Returns:
        Quantized with its mask (None for identity).
    """
    where = "normalize_quantize_mask"
    vectors = {"mean": mean, "inv_std": inv_std, "scale": scale, "shift": shift}
    name = norm_arguments.rows(where, "values", values, dtype, {"out": out}, **vectors).name
    norm_arguments.mask(where, activation, mask, values.size, needed=False)
    arguments.group_run(where, name, values.size, bits, seed, group, start, wide_minimum, (codes, minima, steps))
    if mask is None and activation != "identity":
        mask = np.empty(checks.mask_bytes(activation, values.size), np.uint8)
    x = rows_of(widen(values, name))
    with np.errstate(all="ignore"):
        zhat = ((x - mean[:, None]) * inv_std[:, None]).astype(np.float32)
    coded = quantize(
        np.ascontiguousarray(zhat),
        bits,
        seed=seed,
        group=group,
        start=start,
        wide_minimum=wide_minimum,
        codes=codes,
        minima=minima,
        steps=steps,
    )
    u = affine(x, scale, shift)
    if mask is not None:
        mask.reshape(-1)[...] = mask_of(u, activation)
    if out is not None:
        rows_of(out)[...] = narrow(activate(u, activation, slope), name).view(out.dtype)
    return Quantized(coded.codes, coded.minima, coded.steps, coded.energy, mask=mask)


def dequantize_affine(
    codes: np.ndarray,
    minima: np.ndarray,
    steps: np.ndarray,
    bits: int,
    weight: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
    *,
    group: int = 256,
    activation: str = "relu",
    slope: float = 0.0,
    mask: np.ndarray | None = None,
    dtype: str | None = None,
) -> np.ndarray:
    """out = mask * (weight * zhat + bias) with zhat from its codes: the activation rebuilt for a weight's gradient.

    It is never clamped again: where the mask is 1 the noise may make it negative, and cutting that off would shift its
    mean. relu6 gives 6 where its region is 2; leaky_relu multiplies by `slope` where its bit is 0.
    """
    where = "dequantize_affine"
    name = norm_arguments.rows(where, "out", out, dtype, weight=weight, bias=bias).name
    run = norm_arguments.coded(where, out, codes, minima, steps, bits, group)
    norm_arguments.mask(where, activation, mask, out.size, needed=True)
    zhat = decode_run(codes, minima, steps, run).astype(weight.dtype).reshape(rows_of(out).shape)
    a = rebuilt(zhat, weight, bias, mask, activation, slope)
    rows_of(out)[...] = narrow(a, name).view(out.dtype)
    return out


def rebuild_activation(
    values: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    mask: np.ndarray | None,
    out: np.ndarray,
    *,
    activation: str = "relu",
    slope: float = 0.0,
    dtype: str | None = None,
) -> np.ndarray:
    """`dequantize_affine` of values that are zhat already: out = what the mask chooses of weight * values + bias.

    For zhat that was decoded once, into a buffer, from where many layers read it, each with a mask, weight and bias of
    its own: a dense block's features. As there, nothing is clamped: relu gives the sum or 0, leaky_relu the sum or
    `slope` times it, relu6 0, the sum or 6, as the mask says.

    Args:
        values, out: same shape and dtype, of any row strides; out may be values.
        mask: of the activation, over the view in row-major order; None for identity only.
    """
    where = "rebuild_activation"
    name = norm_arguments.rows(where, "values", values, dtype, {"out": out}, weight=weight, bias=bias).name
    norm_arguments.mask(where, activation, mask, values.size, needed=True)
    a = rebuilt(rows_of(widen(values, name)), weight, bias, mask, activation, slope)
    rows_of(out)[...] = narrow(a, name).view(out.dtype)
    return out


def norm_backward(
    d_out: np.ndarray,
    values: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    *,
    target: np.ndarray,
    accumulate: bool,
    activation: str = "relu",
    slope: float = 0.0,
    mask: np.ndarray | None = None,
    dtype: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient through activation and scale into `target`, and the two sums that the rest of the norm needs.

    d = d_out * activation'(values * scale + shift), or by `mask` where given; target = d * scale, or += if
    `accumulate`; zhat = (values - mean) * inv_std.

    Returns:
        sum of d and sum of d * zhat of every channel, in the type of `mean`.
    """
    where = "norm_backward"
    vectors = {"mean": mean, "inv_std": inv_std, "scale": scale, "shift": shift}
    name = norm_arguments.rows(where, "values", values, dtype, {"d_out": d_out, "target": target}, **vectors).name
    norm_arguments.mask(where, activation, mask, values.size, needed=False)
    x = rows_of(widen(values, name))
    if mask is None and activation != "identity":
        mask = mask_of(affine(x, scale, shift), activation)
    zhat = (x - mean[:, None]) * inv_std[:, None]
    d = masked(rows_of(widen(d_out, name)), mask, activation, slope)
    return _spread(d, zhat, scale, target, accumulate, name)


def norm_backward_coded(
    d_out: np.ndarray,
    codes: np.ndarray,
    minima: np.ndarray,
    steps: np.ndarray,
    bits: int,
    scale: np.ndarray,
    *,
    target: np.ndarray,
    accumulate: bool,
    group: int = 256,
    activation: str = "relu",
    slope: float = 0.0,
    mask: np.ndarray | None = None,
    dtype: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`norm_backward` with zhat from its codes and the activation's mask as kept."""
    where = "norm_backward_coded"
    name = norm_arguments.rows(where, "d_out", d_out, dtype, {"target": target}, scale=scale).name
    run = norm_arguments.coded(where, d_out, codes, minima, steps, bits, group)
    norm_arguments.mask(where, activation, mask, d_out.size, needed=True)
    zhat = decode_run(codes, minima, steps, run).reshape(rows_of(d_out).shape)
    d = masked(rows_of(widen(d_out, name)), mask, activation, slope)
    return _spread(d, zhat, scale, target, accumulate, name)


def subtract_norm_terms(
    target: np.ndarray,
    values: np.ndarray,
    mean: np.ndarray,
    constant: np.ndarray,
    slope: np.ndarray,
    *,
    dtype: str | None = None,
) -> np.ndarray:
    """target -= constant + (values - mean) * slope, in place: what the batch statistics take from a norm's gradient."""
    where = "subtract_norm_terms"
    vectors = {"mean": mean, "constant": constant, "slope": slope}
    name = norm_arguments.rows(where, "values", values, dtype, {"target": target}, **vectors).name
    x, into = rows_of(widen(values, name)), rows_of(target)
    terms = affine(x - mean[:, None], slope, constant)
    into[...] = narrow(widen(into, name) - terms, name).view(target.dtype)
    return target


def _spread(
    d: np.ndarray, zhat: np.ndarray, scale: np.ndarray, target: np.ndarray, accumulate: bool, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Put d * scale into the target; sum d and d * zhat of every channel."""
    sums = d.sum(axis=(0, 2), dtype=np.float64), (d.astype(np.float64) * zhat).sum(axis=(0, 2))
    into = rows_of(target)
    step = multiply_add(d, scale[:, None], widen(into, name)) if accumulate else d * scale[:, None]
    into[...] = narrow(step, name).view(target.dtype)
    return sums[0].astype(scale.dtype), sums[1].astype(scale.dtype)
