"""The arguments of every public kernel, checked before any work: one function a kernel, shared by all backends.

They look at attributes only (dtype, shape, strides, flags), so NumPy and CuPy arrays pass alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kernels import checks


@dataclass(frozen=True)
class GroupRun:
    """A run of values for the group quantiser: name of their format, and the sizes of what is made of them."""

    name: str
    count: int
    bits: int
    group: int
    groups: int
    size: int
    seed: int = 0
    start: int = 0


def quantize(
    where: str,
    values: Any,
    bits: Any,
    seed: Any,
    group: Any,
    start: Any,
    dtype: str | None,
    wide_minimum: bool,
    outputs: tuple[Any, Any, Any],
) -> GroupRun:
    """Arguments of `quantize`; `outputs` are codes, minima and steps to write into, or None."""
    name = checks.float_format(where, values.dtype, dtype)
    checks.contiguous(where, "values", values)
    return group_run(where, name, values.size, bits, seed, group, start, wide_minimum, outputs)


def group_run(
    where: str,
    name: str,
    count: int,
    bits: Any,
    seed: Any,
    group: Any,
    start: Any,
    wide_minimum: bool,
    outputs: tuple[Any, Any, Any],
) -> GroupRun:
    """Arguments about coding `count` values."""
    bits, group, seed = checks.group_bits(where, bits), checks.group_size(where, group), checks.seed_of(where, seed)
    start = checks.first_index(where, start, count)
    run = GroupRun(
        name, count, bits, group, checks.group_count(count, group), checks.packed_bytes(count, bits), seed, start
    )
    kinds = ("uint8", "float32" if wide_minimum else "uint16", "uint16")
    for label, array, need, kind in zip(
        ("codes", "minima", "steps"), outputs, (run.size, run.groups, run.groups), kinds, strict=True
    ):
        if array is not None:
            checks.buffer(where, label, array, need, kind)
            checks.writable(where, label, array)
    return run


def coded_run(where: str, codes: Any, minima: Any, steps: Any, bits: Any, count: Any, group: Any) -> GroupRun:
    """Codes, minima and steps that belong to `count` values."""
    bits, group = checks.group_bits(where, bits), checks.group_size(where, group)
    count = checks.count_of(where, count)
    run = GroupRun("float32", count, bits, group, checks.group_count(count, group), checks.packed_bytes(count, bits))
    checks.buffer(where, "codes", codes, run.size, "uint8")
    checks.buffer(where, "minima", minima, run.groups, "uint16", "float32")
    checks.buffer(where, "steps", steps, run.groups, "uint16")
    return run


@dataclass(frozen=True)
class SampleRuns:
    """One run a sample: their widths, and the first byte of each with the end."""

    name: str
    length: int
    widths: tuple[int, ...]
    offsets: tuple[int, ...]
    group: int
    groups: int
    seed: int = 0
    start: int = 0

    @property
    def samples(self) -> int:
        return len(self.widths)


def quantize_samples(
    where: str, values: Any, bits: Any, seed: Any, group: Any, start: Any, dtype: str | None
) -> SampleRuns:
    """Arguments of `quantize_samples`."""
    name = checks.float_format(where, values.dtype, dtype)
    checks.contiguous(where, "values", values)
    if len(values.shape) != 2:
        raise ValueError(f"{where}: values must be (samples, length), not of shape {tuple(values.shape)}: reshape them")
    runs = _sample_runs(where, name, values.shape[1], bits, group)
    if runs.samples != values.shape[0]:
        raise ValueError(f"{where}: {runs.samples} widths in bits for {values.shape[0]} samples: give one a sample")
    start = checks.first_index(where, start, values.size)
    return SampleRuns(
        name, runs.length, runs.widths, runs.offsets, runs.group, runs.groups, checks.seed_of(where, seed), start
    )


def dequantize_samples(
    where: str, codes: Any, minima: Any, steps: Any, bits: Any, offsets: Any, length: Any, group: Any
) -> SampleRuns:
    """Arguments of `dequantize_samples` (the contents of `offsets` are the caller's to compare)."""
    runs = _sample_runs(where, "float32", checks.count_of(where, length), bits, group)
    checks.buffer(where, "codes", codes, runs.offsets[-1], "uint8")
    checks.buffer(where, "minima", minima, runs.samples * runs.groups, "uint16", "float32")
    checks.buffer(where, "steps", steps, runs.samples * runs.groups, "uint16")
    checks.buffer(where, "offsets", offsets, runs.samples + 1, "int64")
    return runs


def _sample_runs(where: str, name: str, length: int, bits: Any, group: Any) -> SampleRuns:
    group = checks.group_size(where, group)
    if not hasattr(bits, "__iter__"):
        raise TypeError(f"{where}: bits must be one width a sample, not {bits!r}: for equal widths use quantize")
    widths = tuple(checks.group_bits(where, width) for width in (bits.tolist() if hasattr(bits, "tolist") else bits))
    offsets = [0]
    for width in widths:
        offsets.append(offsets[-1] + checks.packed_bytes(length, width))
    return SampleRuns(name, length, widths, tuple(offsets), group, checks.group_count(length, group))


def same_offsets(where: str, offsets: Sequence[int], runs: SampleRuns) -> None:
    """Offsets that came are those of the widths that came.

    Raises:
        ValueError: they are not.
    """
    if tuple(offsets) != runs.offsets:
        raise ValueError(f"{where}: offsets are not those of these bits and length {runs.length}: pass all as coded")


@dataclass(frozen=True)
class FixedRun:
    """Values in fixed point: channel of value i is (i // inner) % channels."""

    name: str
    count: int
    bits: int
    channels: int
    inner: int
    size: int
    seed: int | None = None
    start: int = 0


def quantize_fixed(
    where: str,
    values: Any,
    bits: Any,
    step: Any,
    seed: Any,
    start: Any,
    dtype: str | None,
    channels: Any,
    inner: Any,
    codes: Any,
) -> FixedRun:
    """Arguments of `quantize_fixed`."""
    name = checks.float_format(where, values.dtype, dtype)
    checks.contiguous(where, "values", values)
    run = _fixed_run(where, name, values.size, bits, step, channels, inner)
    if codes is not None:
        checks.buffer(where, "codes", codes, run.size, "uint8")
        checks.writable(where, "codes", codes)
    start = checks.first_index(where, start, values.size)
    seed = None if seed is None else checks.seed_of(where, seed)
    return FixedRun(name, run.count, run.bits, run.channels, run.inner, run.size, seed, start)


def dequantize_fixed(
    where: str, codes: Any, bits: Any, step: Any, count: Any, channels: Any, inner: Any, dtype: Any, out: Any
) -> FixedRun:
    """Arguments of `dequantize_fixed`."""
    count = checks.count_of(where, count)
    name = checks.out_format(where, out, count, dtype)
    run = _fixed_run(where, name, count, bits, step, channels, inner)
    checks.buffer(where, "codes", codes, run.size, "uint8")
    return run


def _fixed_run(where: str, name: str, count: int, bits: Any, step: Any, channels: Any, inner: Any) -> FixedRun:
    bits = checks.width(where, bits)
    channels = checks.integer(where, "channels", channels, 1, checks.MAX_INDEX)
    inner = checks.integer(where, "inner", inner, 1, checks.MAX_INDEX)
    checks.step_of(where, step, channels)
    if channels > 1 and count % (channels * inner):
        raise ValueError(f"{where}: {count} values are not whole blocks of {channels} channels x {inner} values")
    return FixedRun(name, count, bits, channels, inner, checks.packed_bytes(count, bits))


def code_range(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest code of a fixed-point width.

    Example:
        >>> code_range(6, True), code_range(6, False)
        ((-32, 31), (0, 63))
    """
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def compared(where: str, values: Any, dtype: str | None, codes: Any, bits: int) -> str:
    """Arguments of the codes made by comparing values: `bits` bits a value."""
    name = checks.float_format(where, values.dtype, dtype)
    checks.contiguous(where, "values", values)
    if codes is not None:
        checks.buffer(where, "codes", codes, checks.packed_bytes(values.size, bits), "uint8")
        checks.writable(where, "codes", codes)
    return name


def thresholds(where: str, low: Any, high: Any) -> None:
    """Two numbers in order.

    Raises:
        ValueError: they are not.
    """
    if not low < high:
        raise ValueError(f"{where}: low must be below high, not {low!r} and {high!r}")


def packed(where: str, name: str, values: Any, bits: Any, codes: Any, *dtypes: str) -> int:
    """Arguments of packing integers: the width."""
    bits = checks.width(where, bits)
    checks.of_type(where, name, values, *dtypes)
    checks.contiguous(where, name, values)
    if codes is not None:
        checks.buffer(where, "codes", codes, checks.packed_bytes(values.size, bits), "uint8")
        checks.writable(where, "codes", codes)
    return bits


def unpacked(where: str, codes: Any, bits: Any, count: Any, out: Any, kind: str) -> tuple[int, int]:
    """Arguments of unpacking integers: width and count."""
    bits, count = checks.width(where, bits), checks.count_of(where, count)
    checks.buffer(where, "codes", codes, checks.packed_bytes(count, bits), "uint8")
    if out is not None:
        checks.buffer(where, "out", out, count, kind)
        checks.writable(where, "out", out)
    return bits, count


def zero_expand(where: str, mask: Any, nonzeros: Any, count: Any, out: Any) -> int:
    """Arguments of `zero_expand`: the count."""
    count = checks.count_of(where, count)
    checks.buffer(where, "mask", mask, checks.packed_bytes(count, 1), "uint8")
    checks.contiguous(where, "nonzeros", nonzeros)
    if out is not None:
        checks.buffer(where, "out", out, count, checks.name_of(nonzeros.dtype))
        checks.writable(where, "out", out)
    return count


def same_ones(where: str, ones: int, values: int) -> None:
    """As many ones in a mask as values came with it.

    Raises:
        ValueError: another number.
    """
    if ones != values:
        raise ValueError(f"{where}: the mask has {ones} ones, but {values} values came")
