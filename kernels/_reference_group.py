"""The group quantiser in NumPy: the definition every other backend is compared with, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels import arguments, checks
from kernels._reference_exact import pack_integers, unpack_integers
from kernels._reference_noise import noise
from kernels.formats import BF16_NAN, BF16_ONE, bf16_down, bf16_to_float32, bf16_up, narrow, to_float32
from kernels.quantized import Quantized

# Below this range a group counts as constant: 1 / D would leave float32.
SMALLEST_RANGE = np.float32(2**-100)


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
    """Code values in 1, 2, 4 or 8 bits with stochastic rounding, so that the mean over seeds is the value itself.

    Every group of consecutive values has a minimum Z (bfloat16, rounded down; float32 with `wide_minimum`) and a
    step D (bfloat16, rounded up from (max - Z) / (2^bits - 1)); a value x becomes floor((x - Z) / D) or one more. The
    error has mean 0 and variance D^2 f(1 - f) <= D^2 / 4. A group that holds a NaN or an infinity, or whose range
    overflows float32, decodes to NaN. Computed in float32, float64 values too.

    Args:
        values: C-contiguous, of any shape, taken flat; float16, float32, float64, or uint16 with dtype="bfloat16".
        bits: 1, 2, 4 or 8.
        seed: of the noise; another seed for every tensor and step, for errors that are independent.
        group: values in a group, a multiple of 32; the last group may be short.
        start: index of the first value in the noise stream.
        dtype: "bfloat16" for uint16 arrays.
        wide_minimum: keep minima in float32; better where |Z| / 128 > D.
        codes, minima, steps: arrays to write into.

    Raises:
        TypeError: a dtype that is not coded.
        ValueError: bits, group, start or an output array that does not fit; values with gaps.

    Source:
        ActNN (Chen et al. 2021), section 3, with metadata rounded so that no code overflows and nothing is biased.

    Example:
        >>> coded = quantize(np.float32([0.0, 1.0, 2.0, 3.0]), 2, seed=0)
        >>> coded.codes.tolist(), dequantize(coded.codes, coded.minima, coded.steps, 2, 4).tolist()
        ([228], [0.0, 1.0, 2.0, 3.0])
    """
    run = arguments.quantize("quantize", values, bits, seed, group, start, dtype, wide_minimum, (codes, minima, steps))
    flat = to_float32(values.reshape(-1), run.name)
    made = _quantize_run(flat, run.bits, noise(run.seed, run.start, run.count), run.group, wide_minimum)
    return Quantized(_into(codes, made.codes), _into(minima, made.minima), _into(steps, made.steps), made.energy)


def _quantize_run(flat: np.ndarray, bits: int, uniform: np.ndarray, group: int, wide: bool) -> Quantized:
    """Code one run of float32 values with the given noise."""
    groups = checks.group_count(flat.size, group)
    padding = groups * group - flat.size
    # Padding with the last value changes no minimum, no maximum and no finiteness.
    x = np.pad(flat, (0, padding), mode="edge").reshape(groups, group) if flat.size else flat.reshape(0, group)
    u = np.pad(uniform, (0, padding)).reshape(groups, group)
    with np.errstate(all="ignore"):
        minimum, step, inverse, broken = _ranges(x, bits, wide)
        t = (x - minimum[:, None]) * inverse[:, None]
        t[broken] = 0
        whole = np.floor(t)
        fraction = t - whole
        q = np.minimum(whole + (u < fraction), np.float32(2**bits - 1)).astype(np.uint16)
        f = fraction.reshape(-1)[: flat.size].astype(np.float64)
        per_value = np.repeat(step.astype(np.float64) ** 2, group)[: flat.size] * f * (1 - f)
        energy = np.array([np.nan if broken.any() else per_value.sum()], np.float32)
    minima = np.where(broken, np.float32(np.nan), minimum) if wide else _bits_or_nan(minimum, broken)
    steps = np.where(broken, BF16_ONE, bf16_up(step))
    return Quantized(pack_integers(q.reshape(-1)[: flat.size], bits), minima, steps, energy)


def _ranges(x: np.ndarray, bits: int, wide: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Minimum as stored, step as stored, its reciprocal, and whether the group cannot be coded; float32 per group."""
    top_code = np.float32(2**bits - 1)
    # Adding 0 turns -0 into +0, which the minimum of +0 and -0 would leave open.
    lowest = np.min(x, axis=1, initial=np.float32(np.inf)) + np.float32(0)
    minimum = lowest if wide else bf16_to_float32(bf16_down(lowest))
    extent = np.max(x, axis=1, initial=np.float32(-np.inf)) - minimum
    step = bf16_to_float32(bf16_up(extent * (np.float32(1) / top_code)))
    broken = ~(np.isfinite(x).all(axis=1) & np.isfinite(minimum + top_code * step))
    constant = extent < SMALLEST_RANGE
    step = np.where(constant | broken, np.float32(1), step)
    inverse = np.where(constant | broken, np.float32(0), np.float32(1) / step)
    return minimum, step, inverse, broken


def _bits_or_nan(minimum: np.ndarray, broken: np.ndarray) -> np.ndarray:
    return np.where(broken, BF16_NAN, minimum.view(np.uint32) >> 16).astype(np.uint16)


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
    """The values of codes: Z + q*D in float32, then rounded to `dtype`; a finite value stays finite.

    Args:
        codes, minima, steps: from `quantize`.
        bits, group: as given there.
        count: number of values.
        dtype: "float16", "bfloat16" (bits, uint16), "float32" or "float64".
        out: array of `count` elements to write into.

    Raises:
        TypeError: arrays of another dtype.
        ValueError: sizes that do not belong together.
    """
    where = "dequantize"
    run = arguments.coded_run(where, codes, minima, steps, bits, count, group)
    name = checks.out_format(where, out, run.count, dtype)
    return _into(out, narrow(decode_run(codes, minima, steps, run), name, saturate=True))


def decode_run(codes: np.ndarray, minima: np.ndarray, steps: np.ndarray, run: arguments.GroupRun) -> np.ndarray:
    """Z + q*D of one run, float32."""
    q = unpack_integers(codes.reshape(-1), run.bits, run.count).astype(np.float32)
    minimum = bf16_to_float32(minima) if minima.dtype == np.uint16 else minima
    lengths = np.minimum(run.group, run.count - run.group * np.arange(run.groups, dtype=np.int64))
    with np.errstate(all="ignore"):
        return np.repeat(minimum.reshape(-1), lengths) + q * np.repeat(bf16_to_float32(steps.reshape(-1)), lengths)


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
    """Code every row of (samples, length) values in bits of its own; as `quantize`, each sample a run by itself.

    Args:
        values: (samples, length), C-contiguous.
        bits: one of 1, 2, 4, 8 for every sample.

    Returns:
        codes of all samples one after the other, each from a byte boundary, at `offsets`; minima and steps of shape
        (samples, groups of a sample); energy of shape (samples,).

    Raises:
        TypeError, ValueError: as `quantize`; values that are not 2-D; not one width a sample.
    """
    runs = arguments.quantize_samples("quantize_samples", values, bits, seed, group, start, dtype)
    flat = [to_float32(row, runs.name) for row in values]
    parts = [
        _quantize_run(row, width, noise(runs.seed, runs.start + n * runs.length, row.size), runs.group, wide_minimum)
        for n, (row, width) in enumerate(zip(flat, runs.widths, strict=True))
    ]
    shape = (runs.samples, runs.groups)
    return Quantized(
        np.concatenate([np.zeros(0, np.uint8), *(part.codes for part in parts)]),
        np.array([part.minima for part in parts], np.float32 if wide_minimum else np.uint16).reshape(shape),
        np.array([part.steps for part in parts], np.uint16).reshape(shape),
        np.array([part.energy[0] for part in parts], np.float32),
        np.array(runs.offsets, np.int64),
    )


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
    """The values of `quantize_samples`' codes, of shape (samples, length); as `dequantize`.

    Raises:
        TypeError, ValueError: as `dequantize`; offsets that are not those of these widths.
    """
    where = "dequantize_samples"
    runs = arguments.dequantize_samples(where, codes, minima, steps, bits, offsets, length, group)
    arguments.same_offsets(where, offsets.tolist(), runs)
    name = checks.out_format(where, out, runs.samples * runs.length, dtype)
    shape = (runs.samples, runs.groups)
    rows = []
    for width, first, last, z, d in zip(
        runs.widths, runs.offsets, runs.offsets[1:], minima.reshape(shape), steps.reshape(shape), strict=False
    ):
        part = codes[first:last]
        run = arguments.coded_run(where, part, z, d, width, runs.length, runs.group)
        rows.append(decode_run(part, z, d, run))
    decoded = np.array(rows, np.float32).reshape(runs.samples, runs.length)
    return _into(out, narrow(decoded, name, saturate=True))


def _into(out: np.ndarray | None, made: np.ndarray) -> np.ndarray:
    if out is None:
        return made
    out.reshape(-1)[...] = made.reshape(-1).view(out.dtype)
    return out
