"""The fused passes around normalisation on a GPU: as kernels/reference.py, codes and masks to the bit."""

from __future__ import annotations

from typing import Any

from kernels import _cuda_device, _cuda_plan, arguments, checks, norm_arguments
from kernels._cuda_device import Device
from kernels._cuda_group import coded_outputs, f64, i32, i64, is_wide, mixed, summed_energy, u64
from kernels._cuda_plan import ChannelPlan
from kernels._cuda_rows import last, number, shape_of, stride_of
from kernels.norm_arguments import Rows
from kernels.quantized import Quantized


def _sum_plan(where: str, rows: Rows, array: Any) -> tuple[ChannelPlan, list[Any]]:
    """The plan of a pass that sums over channels, also as the kernels take it."""
    plan = _cuda_plan.channels(where, rows.outer, rows.channels, rows.inner, last(array))
    return plan, [i32(plan.tile), i64(plan.tiles), i64(plan.chunk), i64(plan.chunks)]


def channel_statistics(values: Any, *, dtype: str | None = None) -> tuple[Any, Any]:
    """As `kernels.reference.channel_statistics`."""
    where = "channel_statistics"
    gpu, a = _cuda_device.opened(where, values=values)
    rows = norm_arguments.statistics(where, a["values"], dtype)
    plan, tile = _sum_plan(where, rows, a["values"])
    partial = gpu.empty(2 * rows.channels * plan.chunks, "float64")
    stride = stride_of(where, a["values"])
    parameters = (rows.name, last(a["values"]))
    gpu.run("channel_statistics", parameters, plan.total, a["values"], stride, partial, *shape_of(rows), *tile)
    mean, variance = (gpu.empty(rows.channels, "float64" if rows.wide else "float32") for _ in range(2))
    gpu.run(
        "finish_statistics",
        (rows.name,),
        _cuda_plan.warps(where, rows.channels),
        *(partial, a["values"], mean, variance),
        *(i64(rows.channels), i64(rows.inner), i64(plan.chunks), i64(rows.outer * rows.inner)),
    )
    return mean, variance


def affine_activation(
    values: Any,
    scale: Any,
    shift: Any,
    out: Any,
    *,
    activation: str = "relu",
    slope: float = 0.0,
    mask: Any = None,
    dtype: str | None = None,
) -> Any:
    """As `kernels.reference.affine_activation`."""
    where = "affine_activation"
    gpu, a = _cuda_device.opened(where, values=values, scale=scale, shift=shift, out=out, mask=mask)
    x = a["values"]
    rows = norm_arguments.rows(where, "values", x, dtype, {"out": a["out"]}, scale=a["scale"], shift=a["shift"])
    norm_arguments.mask(where, activation, a["mask"], x.size, needed=False)
    gpu.run(
        "affine_activation",
        (rows.name, last(x)),
        _cuda_plan.octets(where, x.size),
        *(x, stride_of(where, x), a["scale"], a["shift"], a["out"], stride_of(where, a["out"]), a["mask"]),
        *(*shape_of(rows), number(activation), f64(slope)),
    )
    return out


def normalize_quantize_mask(
    values: Any,
    mean: Any,
    inv_std: Any,
    scale: Any,
    shift: Any,
    bits: int,
    *,
    seed: int,
    group: int = 256,
    start: int = 0,
    activation: str = "relu",
    slope: float = 0.0,
    out: Any = None,
    wide_minimum: bool = False,
    codes: Any = None,
    minima: Any = None,
    steps: Any = None,
    mask: Any = None,
    dtype: str | None = None,
) -> Quantized:
    """As `kernels.reference.normalize_quantize_mask`, but `out` must not be `values`."""
    where = "normalize_quantize_mask"
    vectors = {"mean": mean, "inv_std": inv_std, "scale": scale, "shift": shift}
    gpu, a = _cuda_device.opened(
        where, values=values, out=out, codes=codes, minima=minima, steps=steps, mask=mask, **vectors
    )
    x, outputs = a["values"], (a["codes"], a["minima"], a["steps"])
    rows = norm_arguments.rows(where, "values", x, dtype, {"out": a["out"]}, **{name: a[name] for name in vectors})
    norm_arguments.mask(where, activation, a["mask"], x.size, needed=False)
    run = arguments.group_run(where, rows.name, x.size, bits, seed, group, start, wide_minimum, outputs)
    if x.size and gpu.pointer(a["out"]) == gpu.pointer(x):
        raise ValueError(f"{where}: out is values, which are still read: pass another array")
    plan = _cuda_plan.groups(where, 1, run.groups, run.group)
    made, into = coded_outputs(gpu, run.size, (run.groups,), wide_minimum, (codes, minima, steps), outputs)
    flags = a["mask"]
    if flags is None and activation != "identity":
        flags = gpu.empty(checks.mask_bytes(activation, x.size), "uint8")
    partial = gpu.empty(plan.total, "float64")
    gpu.run(
        "normalize_quantize_mask",
        (rows.name, last(x)),
        plan.total,
        *(x, stride_of(where, x), *(a[name] for name in vectors)),
        *(a["out"], i64(0) if out is None else stride_of(where, a["out"]), *into, flags, partial),
        *(*shape_of(rows), i32(run.bits), i32(run.group), i32(plan.groups_per_block), i32(wide_minimum)),
        *(number(activation), f64(slope), mixed(run.seed), u64(run.start)),
    )
    energy = summed_energy(gpu, partial, 1, plan.blocks)
    return Quantized(*made, energy, mask=flags if mask is None else mask)


def _finished_sums(where: str, gpu: Device, rows: Rows, partial: Any, plan: ChannelPlan) -> tuple[Any, Any]:
    """The two sums of every channel, from what the blocks found."""
    kind = "float64" if rows.wide else "float32"
    first, second = gpu.empty(rows.channels, kind), gpu.empty(rows.channels, kind)
    blocks = _cuda_plan.warps(where, rows.channels)
    gpu.run("finish_sums", (kind,), blocks, partial, first, second, i64(rows.channels), i64(plan.chunks))
    return first, second


def norm_backward(
    d_out: Any,
    values: Any,
    mean: Any,
    inv_std: Any,
    scale: Any,
    shift: Any,
    *,
    target: Any,
    accumulate: bool,
    activation: str = "relu",
    slope: float = 0.0,
    mask: Any = None,
    dtype: str | None = None,
) -> tuple[Any, Any]:
    """As `kernels.reference.norm_backward`; `target` may be `d_out`."""
    where = "norm_backward"
    vectors = {"mean": mean, "inv_std": inv_std, "scale": scale, "shift": shift}
    gpu, a = _cuda_device.opened(where, d_out=d_out, values=values, target=target, mask=mask, **vectors)
    x, others = a["values"], {"d_out": a["d_out"], "target": a["target"]}
    rows = norm_arguments.rows(where, "values", x, dtype, others, **{name: a[name] for name in vectors})
    norm_arguments.mask(where, activation, a["mask"], x.size, needed=False)
    plan, tile = _sum_plan(where, rows, x)
    partial = gpu.empty(2 * rows.channels * plan.chunks, "float64")
    gpu.run(
        "norm_backward",
        (rows.name, last(x)),
        plan.total,
        *(a["d_out"], stride_of(where, a["d_out"]), x, stride_of(where, x), *(a[name] for name in vectors)),
        *(a["mask"], a["target"], stride_of(where, a["target"]), partial, *shape_of(rows), *tile),
        *(number(activation), i32(bool(accumulate)), f64(slope)),
    )
    return _finished_sums(where, gpu, rows, partial, plan)


def norm_backward_coded(
    d_out: Any,
    codes: Any,
    minima: Any,
    steps: Any,
    bits: int,
    scale: Any,
    *,
    target: Any,
    accumulate: bool,
    group: int = 256,
    activation: str = "relu",
    slope: float = 0.0,
    mask: Any = None,
    dtype: str | None = None,
) -> tuple[Any, Any]:
    """As `kernels.reference.norm_backward_coded`; `target` may be `d_out`."""
    where = "norm_backward_coded"
    gpu, a = _cuda_device.opened(
        where, d_out=d_out, codes=codes, minima=minima, steps=steps, scale=scale, target=target, mask=mask
    )
    d = a["d_out"]
    rows = norm_arguments.rows(where, "d_out", d, dtype, {"target": a["target"]}, scale=a["scale"])
    run = norm_arguments.coded(where, d, a["codes"], a["minima"], a["steps"], bits, group)
    norm_arguments.mask(where, activation, a["mask"], d.size, needed=True)
    plan, tile = _sum_plan(where, rows, d)
    partial = gpu.empty(2 * rows.channels * plan.chunks, "float64")
    gpu.run(
        "norm_backward_coded",
        (rows.name, last(d)),
        plan.total,
        *(d, stride_of(where, d), a["codes"], a["minima"], a["steps"], a["scale"], a["mask"]),
        *(a["target"], stride_of(where, a["target"]), partial, *shape_of(rows), *tile),
        *(i32(run.bits), i32(run.group), i32(is_wide(a["minima"]))),
        *(number(activation), i32(bool(accumulate)), f64(slope)),
    )
    return _finished_sums(where, gpu, rows, partial, plan)
