"""The group quantiser on a GPU: as kernels/reference.py, codes and metadata to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels import _cuda_device, _cuda_plan, arguments, checks
from kernels._cuda_device import Device
from kernels._reference_noise import GOLDEN64, mix64
from kernels.formats import STORAGE
from kernels.quantized import Quantized

# As they appear in the kernels' parameter lists.
f32, f64, i32, i64, u64 = np.float32, np.float64, np.int32, np.int64, np.uint64


def mixed(seed: int) -> np.uint64:
    """A seed as the kernels take it."""
    return u64(mix64(seed + GOLDEN64))


def storage(name: str) -> str:
    """Name of the dtype of an array that holds a format."""
    return np.dtype(STORAGE[name]).name


def noise(seed: int, start: int, count: int) -> Any:
    """As `kernels.reference.noise`, on the current device."""
    where = "noise"
    seed, count = checks.seed_of(where, seed), checks.count_of(where, count)
    start = checks.first_index(where, start, count)
    blocks = _cuda_plan.threads(where, count)
    gpu = _cuda_device.current()
    out = gpu.empty(count, "float32")
    gpu.run("noise", (), blocks, out, i64(count), mixed(seed), u64(start))
    return out


def quantize(
    values: Any,
    bits: int,
    *,
    seed: int,
    group: int = 256,
    start: int = 0,
    dtype: str | None = None,
    wide_minimum: bool = False,
    codes: Any = None,
    minima: Any = None,
    steps: Any = None,
) -> Quantized:
    """As `kernels.reference.quantize`."""
    where = "quantize"
    gpu, a = _cuda_device.opened(where, values=values, codes=codes, minima=minima, steps=steps)
    outputs = (a["codes"], a["minima"], a["steps"])
    run = arguments.quantize(where, a["values"], bits, seed, group, start, dtype, wide_minimum, outputs)
    plan = _cuda_plan.groups(where, 1, run.groups, run.group)
    made, into = coded_outputs(gpu, run.size, (run.groups,), wide_minimum, (codes, minima, steps), outputs)
    partial = gpu.empty(plan.total, "float64")
    gpu.run(
        "quantize",
        (run.name, run.bits),
        plan.total,
        a["values"],
        *into,
        partial,
        None,
        None,
        *(i64(run.count), i64(run.groups), i64(plan.blocks), i32(run.group), i32(plan.groups_per_block)),
        *(i32(wide_minimum), mixed(run.seed), u64(run.start)),
    )
    return Quantized(*made, summed_energy(gpu, partial, 1, plan.blocks))


Coded = tuple[Any, Any, Any]


def coded_outputs(
    gpu: Device, size: int, groups: tuple[int, ...], wide: bool, given: Coded, views: Coded
) -> tuple[Coded, Coded]:
    """codes, minima and steps to hand back, and the arrays to write into; what was not given is made."""
    kinds = (((size,), "uint8"), (groups, "float32" if wide else "uint16"), (groups, "uint16"))
    codes, minima, steps = (
        gpu.empty(shape, kind) if view is None else view for view, (shape, kind) in zip(views, kinds, strict=True)
    )
    into = (codes, minima, steps)
    made = tuple(array if came is None else came for came, array in zip(given, into, strict=True))
    return (made[0], made[1], made[2]), into


def summed_energy(gpu: Device, partial: Any, samples: int, blocks: int) -> Any:
    """The noise energy of every sample, from what its blocks found."""
    energy = gpu.empty(samples, "float32")
    gpu.run("sum_energies", (), samples, partial, energy, i64(blocks))
    return energy


def dequantize(
    codes: Any,
    minima: Any,
    steps: Any,
    bits: int,
    count: int,
    *,
    group: int = 256,
    dtype: str = "float32",
    out: Any = None,
) -> Any:
    """As `kernels.reference.dequantize`."""
    where = "dequantize"
    gpu, a = _cuda_device.opened(where, codes=codes, minima=minima, steps=steps, out=out)
    run = arguments.coded_run(where, a["codes"], a["minima"], a["steps"], bits, count, group)
    name = checks.out_format(where, a["out"], run.count, dtype)
    plan = _cuda_plan.groups(where, 1, run.groups, run.group)
    into = gpu.empty(run.count, storage(name)) if out is None else a["out"]
    gpu.run(
        "dequantize",
        (name, run.bits),
        plan.total,
        *(a["codes"], a["minima"], a["steps"], into, None, None),
        *(i64(run.count), i64(run.groups), i64(plan.blocks), i32(run.group), i32(plan.groups_per_block)),
        i32(is_wide(a["minima"])),
    )
    return into if out is None else out


def is_wide(minima: Any) -> bool:
    """Whether minima are float32, not bfloat16 bits."""
    return str(minima.dtype.name) == "float32"


def quantize_samples(
    values: Any,
    bits: Any,
    *,
    seed: int,
    group: int = 256,
    start: int = 0,
    dtype: str | None = None,
    wide_minimum: bool = False,
) -> Quantized:
    """As `kernels.reference.quantize_samples`; `bits` are numbers in host memory, `offsets` come on the GPU."""
    where = "quantize_samples"
    gpu, a = _cuda_device.opened(where, values=values)
    runs = arguments.quantize_samples(where, a["values"], bits, seed, group, start, dtype)
    plan = _cuda_plan.groups(where, runs.samples, runs.groups, runs.group)
    none = (None, None, None)
    made, _ = coded_outputs(gpu, runs.offsets[-1], (runs.samples, runs.groups), wide_minimum, none, none)
    widths, offsets = gpu.upload(runs.widths, "uint8"), gpu.upload(runs.offsets, "int64")
    partial = gpu.empty(plan.total, "float64")
    gpu.run(
        "quantize",
        (runs.name, 0),
        plan.total,
        *(a["values"], *made, partial, widths, offsets),
        *(i64(runs.length), i64(runs.groups), i64(plan.blocks), i32(runs.group), i32(plan.groups_per_block)),
        *(i32(wide_minimum), mixed(runs.seed), u64(runs.start)),
    )
    return Quantized(*made, summed_energy(gpu, partial, runs.samples, plan.blocks), offsets)


def dequantize_samples(
    codes: Any,
    minima: Any,
    steps: Any,
    bits: Any,
    offsets: Any,
    length: int,
    *,
    group: int = 256,
    dtype: str = "float32",
    out: Any = None,
) -> Any:
    """As `kernels.reference.dequantize_samples`; reading `offsets` back to compare them waits for the stream."""
    where = "dequantize_samples"
    gpu, a = _cuda_device.opened(where, codes=codes, minima=minima, steps=steps, offsets=offsets, out=out)
    runs = arguments.dequantize_samples(where, a["codes"], a["minima"], a["steps"], bits, a["offsets"], length, group)
    name = checks.out_format(where, a["out"], runs.samples * runs.length, dtype)
    plan = _cuda_plan.groups(where, runs.samples, runs.groups, runs.group)
    arguments.same_offsets(where, gpu.download(a["offsets"]), runs)
    into = gpu.empty((runs.samples, runs.length), storage(name)) if out is None else a["out"]
    gpu.run(
        "dequantize",
        (name, 0),
        plan.total,
        *(a["codes"], a["minima"], a["steps"], into, gpu.upload(runs.widths, "uint8"), a["offsets"]),
        *(i64(runs.length), i64(runs.groups), i64(plan.blocks), i32(runs.group), i32(plan.groups_per_block)),
        i32(is_wide(a["minima"])),
    )
    return into if out is None else out
