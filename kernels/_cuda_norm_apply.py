"""Rebuilding an activation, and the statistics' share of a norm's gradient, on a GPU: as kernels/reference.py."""

from __future__ import annotations

from typing import Any

from kernels import _cuda_device, _cuda_plan, norm_arguments
from kernels._cuda_group import f64, i32, is_wide
from kernels._cuda_rows import last, number, shape_of, stride_of


def dequantize_affine(
    codes: Any,
    minima: Any,
    steps: Any,
    bits: int,
    weight: Any,
    bias: Any,
    out: Any,
    *,
    group: int = 256,
    activation: str = "relu",
    slope: float = 0.0,
    mask: Any = None,
    dtype: str | None = None,
) -> Any:
    """As `kernels.reference.dequantize_affine`."""
    where = "dequantize_affine"
    gpu, a = _cuda_device.opened(
        where, codes=codes, minima=minima, steps=steps, weight=weight, bias=bias, out=out, mask=mask
    )
    y = a["out"]
    rows = norm_arguments.rows(where, "out", y, dtype, weight=a["weight"], bias=a["bias"])
    run = norm_arguments.coded(where, y, a["codes"], a["minima"], a["steps"], bits, group)
    norm_arguments.mask(where, activation, a["mask"], y.size, needed=True)
    gpu.run(
        "dequantize_affine",
        (rows.name, last(y)),
        _cuda_plan.octets(where, y.size),
        *(a["codes"], a["minima"], a["steps"], a["weight"], a["bias"], a["mask"], y, stride_of(where, y)),
        *(*shape_of(rows), i32(run.bits), i32(run.group), i32(is_wide(a["minima"]))),
        *(number(activation), f64(slope)),
    )
    return out


def rebuild_activation(
    values: Any,
    weight: Any,
    bias: Any,
    mask: Any,
    out: Any,
    *,
    activation: str = "relu",
    slope: float = 0.0,
    dtype: str | None = None,
) -> Any:
    """As `kernels.reference.rebuild_activation`."""
    where = "rebuild_activation"
    gpu, a = _cuda_device.opened(where, values=values, weight=weight, bias=bias, mask=mask, out=out)
    x, y = a["values"], a["out"]
    rows = norm_arguments.rows(where, "values", x, dtype, {"out": y}, weight=a["weight"], bias=a["bias"])
    norm_arguments.mask(where, activation, a["mask"], x.size, needed=True)
    gpu.run(
        "rebuild_activation",
        (rows.name, last(x)),
        _cuda_plan.octets(where, x.size),
        *(x, stride_of(where, x), a["weight"], a["bias"], a["mask"], y, stride_of(where, y)),
        *(*shape_of(rows), number(activation), f64(slope)),
    )
    return out


def subtract_norm_terms(
    target: Any, values: Any, mean: Any, constant: Any, slope: Any, *, dtype: str | None = None
) -> Any:
    """As `kernels.reference.subtract_norm_terms`."""
    where = "subtract_norm_terms"
    vectors = {"mean": mean, "constant": constant, "slope": slope}
    gpu, a = _cuda_device.opened(where, target=target, values=values, **vectors)
    x, into = a["values"], a["target"]
    rows = norm_arguments.rows(where, "values", x, dtype, {"target": into}, **{name: a[name] for name in vectors})
    gpu.run(
        "subtract_norm_terms",
        (rows.name, last(x)),
        _cuda_plan.octets(where, x.size),
        *(into, stride_of(where, into), x, stride_of(where, x), *(a[name] for name in vectors), *shape_of(rows)),
    )
    return target
