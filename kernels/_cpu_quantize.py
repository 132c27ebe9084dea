"""The group quantiser in numba: whole runs and samples, shared among threads."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels import arguments, checks
from kernels._cpu_codes import SPAN
from kernels._cpu_formats import bf16_value, computable, load, store, window
from kernels._cpu_group import decode_group, encode_group, group_minimum, split_minima
from kernels._cpu_noise import seed_stream
from kernels._cpu_threads import jit, jit_parallel, most_threads, run
from kernels.formats import STORAGE
from kernels.quantized import Quantized


@jit
def quantize_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Code part t of the groups of all samples."""
    x, length, widths, offsets, group, wide, stream, start, codes, minima, wide_minima, steps, energy, codes_8 = args
    q = codes_8[t]
    groups = (length + group - 1) // group
    total = widths.size * groups
    sample, spent = np.int64(0), 0.0
    for unit in range(t * total // parts, (t + 1) * total // parts):
        if unit // groups != sample:
            energy[t, sample] += spent
            sample, spent = unit // groups, 0.0
        bits, first = widths[sample], (unit - sample * groups) * group
        count = min(group, length - first)
        into = codes[offsets[sample] + first * bits // 8 : offsets[sample + 1]]
        at = sample * length + first
        load(x, at, count, scratch[t])
        values = window(x, at, count, scratch[t])
        spent += encode_group(values, bits, wide, stream, start + at, q, into, unit, minima, wide_minima, steps)
    if total > 0:
        energy[t, sample] += spent


@jit_parallel
def quantize_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        quantize_part(np.int64(t), parts, args, scratch)


def _quantize(
    values: np.ndarray, runs: arguments.SampleRuns, wide: bool, codes: np.ndarray, minima: np.ndarray, steps: np.ndarray
) -> np.ndarray:
    """Code samples into the given arrays; returns the energy of each."""
    energy = np.zeros((most_threads(), runs.samples))
    narrow = np.empty(1, np.uint16) if wide else minima.reshape(-1)
    full = minima.reshape(-1) if wide else np.empty(1, np.float32)
    args = (
        computable(values.reshape(-1), runs.name),
        runs.length,
        np.array(runs.widths, np.int64),
        np.array(runs.offsets, np.int64),
        runs.group,
        wide,
        seed_stream(runs.seed),
        runs.start,
        codes.reshape(-1),
        narrow,
        full,
        steps.reshape(-1),
        energy,
        np.empty((most_threads(), SPAN), np.uint8),
    )
    scratch = np.empty((most_threads(), min(runs.group, runs.length)), np.float32)
    run(quantize_parts, quantize_part, values.size, args, scratch)
    with np.errstate(over="ignore"):
        return energy.sum(axis=0).astype(np.float32)


def quantize(
    values: np.ndarray,
    bits: int,
    *,
    seed: int,
    group: int = 256,
    start: int = 0,
    dtype: str | None = None,
    wide_minimum: bool = False,
    codes: np.ndarray | None = None,
    minima: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> Quantized:
    """As `kernels.reference.quantize`."""
    outputs = (codes, minima, steps)
    one = arguments.quantize("quantize", values, bits, seed, group, start, dtype, wide_minimum, outputs)
    codes = np.empty(one.size, np.uint8) if codes is None else codes
    minima = np.empty(one.groups, np.float32 if wide_minimum else np.uint16) if minima is None else minima
    steps = np.empty(one.groups, np.uint16) if steps is None else steps
    runs = arguments.SampleRuns(
        one.name, one.count, (one.bits,), (0, one.size), one.group, one.groups, one.seed, one.start
    )
    return Quantized(codes, minima, steps, _quantize(values, runs, wide_minimum, codes, minima, steps))


def quantize_samples(
    values: np.ndarray,
    bits: Any,
    *,
    seed: int,
    group: int = 256,
    start: int = 0,
    dtype: str | None = None,
    wide_minimum: bool = False,
) -> Quantized:
    """As `kernels.reference.quantize_samples`."""
    runs = arguments.quantize_samples("quantize_samples", values, bits, seed, group, start, dtype)
    shape = (runs.samples, runs.groups)
    codes = np.empty(runs.offsets[-1], np.uint8)
    minima, steps = np.empty(shape, np.float32 if wide_minimum else np.uint16), np.empty(shape, np.uint16)
    energy = _quantize(values, runs, wide_minimum, codes, minima, steps)
    return Quantized(codes, minima, steps, energy, np.array(runs.offsets, np.int64))


@jit
def dequantize_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Decode part t of the groups of all samples."""
    codes, minima, wide_minima, steps, length, widths, offsets, group, out, codes_8 = args
    groups = (length + group - 1) // group
    total = widths.size * groups
    for unit in range(t * total // parts, (t + 1) * total // parts):
        sample = unit // groups
        bits, first = widths[sample], (unit - sample * groups) * group
        count, at = min(group, length - first), sample * length + first
        part = codes[offsets[sample] + first * bits // 8 : offsets[sample + 1]]
        minimum, step = group_minimum(unit, minima, wide_minima), bf16_value(steps[unit])
        into = window(out, at, count, scratch[t])
        decode_group(part, minimum, step, bits, count, codes_8[t], into)
        store(out, at, count, into, True)


@jit_parallel
def dequantize_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        dequantize_part(np.int64(t), parts, args, scratch)


def _dequantize(
    codes: np.ndarray,
    minima: np.ndarray,
    steps: np.ndarray,
    runs: arguments.SampleRuns,
    shape: tuple[int, ...],
    dtype: str,
    out: np.ndarray | None,
) -> np.ndarray:
    made = np.empty(shape, STORAGE[dtype]) if out is None else out
    args = (
        codes.reshape(-1),
        *split_minima(minima),
        steps.reshape(-1),
        runs.length,
        np.array(runs.widths, np.int64),
        np.array(runs.offsets, np.int64),
        runs.group,
        computable(made.reshape(-1), dtype),
        np.empty((most_threads(), SPAN), np.uint8),
    )
    scratch = np.empty((most_threads(), min(runs.group, runs.length)), np.float32)
    run(dequantize_parts, dequantize_part, made.size, args, scratch)
    return made


def dequantize(
    codes: np.ndarray,
    minima: np.ndarray,
    steps: np.ndarray,
    bits: int,
    count: int,
    *,
    group: int = 256,
    dtype: str = "float32",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """As `kernels.reference.dequantize`."""
    where = "dequantize"
    one = arguments.coded_run(where, codes, minima, steps, bits, count, group)
    name = checks.out_format(where, out, one.count, dtype)
    runs = arguments.SampleRuns(name, one.count, (one.bits,), (0, one.size), one.group, one.groups)
    return _dequantize(codes, minima, steps, runs, (one.count,), name, out)


def dequantize_samples(
    codes: np.ndarray,
    minima: np.ndarray,
    steps: np.ndarray,
    bits: Any,
    offsets: np.ndarray,
    length: int,
    *,
    group: int = 256,
    dtype: str = "float32",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """As `kernels.reference.dequantize_samples`."""
    where = "dequantize_samples"
    runs = arguments.dequantize_samples(where, codes, minima, steps, bits, offsets, length, group)
    arguments.same_offsets(where, offsets.tolist(), runs)
    name = checks.out_format(where, out, runs.samples * runs.length, dtype)
    return _dequantize(codes, minima, steps, runs, (runs.samples, runs.length), name, out)
