"""Fixed point, exact codes and max pooling on a GPU: as kernels/reference.py, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kernels import _cuda_device, _cuda_plan, arguments, checks, norm_arguments
from kernels._cuda_device import Device
from kernels._cuda_group import f32, f64, i32, i64, mixed, storage, u64
from kernels.norm_arguments import Pooling


def _into(gpu: Device, given: Any, size: int | tuple[int, ...], dtype: str) -> Any:
    return gpu.empty(size, dtype) if given is None else given


def _step(step: Any) -> tuple[Any, Any]:
    """A step as the kernels take it: an array or null, and one number."""
    return (step, f32(0)) if _is_array(step) else (None, f32(float(step)))


def _is_array(step: Any) -> bool:
    return hasattr(step, "dtype") and step.ndim > 0


def _open_step(where: str, step: Any, **arrays: Any) -> tuple[Device, dict[str, Any]]:
    """The device and arrays; the step is one of them where there is one a channel."""
    if _is_array(step):
        return _cuda_device.opened(where, step=step, **arrays)
    gpu, found = _cuda_device.opened(where, **arrays)
    return gpu, {**found, "step": step}


def quantize_fixed(
    values: Any,
    bits: int,
    step: Any,
    *,
    signed: bool,
    seed: int | None = None,
    start: int = 0,
    dtype: str | None = None,
    channels: int = 1,
    inner: int = 1,
    codes: Any = None,
) -> Any:
    """As `kernels.reference.quantize_fixed`."""
    where = "quantize_fixed"
    gpu, a = _open_step(where, step, values=values, codes=codes)
    run = arguments.quantize_fixed(where, a["values"], bits, a["step"], seed, start, dtype, channels, inner, a["codes"])
    into = _into(gpu, a["codes"], run.size, "uint8")
    gpu.run(
        "quantize_fixed",
        (run.name,),
        _cuda_plan.octets(where, run.count),
        *(a["values"], into, *_step(a["step"]), i64(run.count), i64(run.channels), i64(run.inner)),
        *(i32(run.bits), i32(bool(signed)), i32(run.seed is not None), mixed(run.seed or 0), u64(run.start)),
    )
    return into if codes is None else codes


def dequantize_fixed(
    codes: Any,
    bits: int,
    step: Any,
    count: int,
    *,
    signed: bool,
    channels: int = 1,
    inner: int = 1,
    dtype: str = "float32",
    out: Any = None,
) -> Any:
    """As `kernels.reference.dequantize_fixed`."""
    where = "dequantize_fixed"
    gpu, a = _open_step(where, step, codes=codes, out=out)
    run = arguments.dequantize_fixed(where, a["codes"], bits, a["step"], count, channels, inner, dtype, a["out"])
    into = _into(gpu, a["out"], run.count, storage(run.name))
    gpu.run(
        "dequantize_fixed",
        (run.name,),
        _cuda_plan.octets(where, run.count),
        *(a["codes"], *_step(a["step"]), into, i64(run.count), i64(run.channels), i64(run.inner)),
        *(i32(run.bits), i32(bool(signed))),
    )
    return into if out is None else out


def pack_integers(values: Any, bits: int, *, codes: Any = None) -> Any:
    """As `kernels.reference.pack_integers`."""
    where = "pack_integers"
    gpu, a = _cuda_device.opened(where, values=values, codes=codes)
    bits = arguments.packed(where, "values", a["values"], bits, a["codes"], "uint16", "uint8")
    count = a["values"].size
    into = _into(gpu, a["codes"], checks.packed_bytes(count, bits), "uint8")
    kind = "u8" if a["values"].itemsize == 1 else "u16"
    gpu.run("pack_integers", (kind,), _cuda_plan.octets(where, count), a["values"], into, i64(count), i32(bits))
    return into if codes is None else codes


def unpack_integers(codes: Any, bits: int, count: int, *, out: Any = None) -> Any:
    """As `kernels.reference.unpack_integers`."""
    where = "unpack_integers"
    gpu, a = _cuda_device.opened(where, codes=codes, out=out)
    bits, count = arguments.unpacked(where, a["codes"], bits, count, a["out"], "uint16")
    into = _into(gpu, a["out"], count, "uint16")
    gpu.run("unpack_integers", (), _cuda_plan.octets(where, count), a["codes"], into, i64(count), i32(bits))
    return into if out is None else out


def pack_bits(flags: Any, *, codes: Any = None) -> Any:
    """As `kernels.reference.pack_bits`."""
    where = "pack_bits"
    gpu, a = _cuda_device.opened(where, flags=flags, codes=codes)
    arguments.packed(where, "flags", a["flags"], 1, a["codes"], "uint8", "bool")
    count = a["flags"].size
    into = _into(gpu, a["codes"], checks.packed_bytes(count, 1), "uint8")
    gpu.run("pack_bits", (), _cuda_plan.octets(where, count), a["flags"], into, i64(count))
    return into if codes is None else codes


def unpack_bits(codes: Any, count: int, *, out: Any = None) -> Any:
    """As `kernels.reference.unpack_bits`."""
    return _unpack("unpack_bits", codes, 1, count, out)


def unpack_regions(codes: Any, count: int, *, out: Any = None) -> Any:
    """As `kernels.reference.unpack_regions`."""
    return _unpack("unpack_regions", codes, 2, count, out)


def _unpack(where: str, codes: Any, bits: int, count: int, out: Any) -> Any:
    gpu, a = _cuda_device.opened(where, codes=codes, out=out)
    bits, count = arguments.unpacked(where, a["codes"], bits, count, a["out"], "uint8")
    into = _into(gpu, a["out"], count, "uint8")
    gpu.run("unpack_bits", (), _cuda_plan.octets(where, count), a["codes"], into, i64(count), i32(bits))
    return into if out is None else out


def pack_positive(values: Any, *, dtype: str | None = None, codes: Any = None) -> Any:
    """As `kernels.reference.pack_positive`."""
    return _compare("pack_positive", values, 1, dtype, codes)


def pack_regions(values: Any, low: float, high: float, *, dtype: str | None = None, codes: Any = None) -> Any:
    """As `kernels.reference.pack_regions`."""
    arguments.thresholds("pack_regions", low, high)
    return _compare("pack_regions", values, 2, dtype, codes, f64(low), f64(high))


def _compare(where: str, values: Any, bits: int, dtype: str | None, codes: Any, *thresholds: Any) -> Any:
    gpu, a = _cuda_device.opened(where, values=values, codes=codes)
    name = arguments.compared(where, a["values"], dtype, a["codes"], bits)
    count = a["values"].size
    into = _into(gpu, a["codes"], checks.packed_bytes(count, bits), "uint8")
    gpu.run(where, (name,), _cuda_plan.octets(where, count), a["values"], into, i64(count), *thresholds)
    return into if codes is None else codes


def zero_compress(values: Any, *, dtype: str | None = None) -> tuple[Any, Any, int]:
    """As `kernels.reference.zero_compress`; waits for the stream, because the size of the result is in the data."""
    where = "zero_compress"
    gpu, a = _cuda_device.opened(where, values=values)
    name = arguments.compared(where, a["values"], dtype, None, 1)
    count = a["values"].size
    blocks = _cuda_plan.octets(where, count)
    mask, begins = gpu.empty(checks.packed_bytes(count, 1), "uint8"), gpu.empty(blocks + 1, "int64")
    gpu.run("mark_nonzeros", (name,), blocks, a["values"], mask, begins, i64(count))
    gpu.run("begin_blocks", (), 1, begins, i64(blocks))
    kept = gpu.download(begins[blocks:])[0]
    nonzeros = gpu.empty(kept, str(a["values"].dtype.name))
    kind = f"u{8 * a['values'].itemsize}"
    gpu.run("move_nonzeros", (kind, False), blocks, a["values"], mask, begins, nonzeros, i64(count))
    return mask, nonzeros, kept


def zero_expand(mask: Any, nonzeros: Any, count: int, *, out: Any = None) -> Any:
    """As `kernels.reference.zero_expand`; waits for the stream, to compare the mask with the number of values."""
    where = "zero_expand"
    gpu, a = _cuda_device.opened(where, mask=mask, nonzeros=nonzeros, out=out)
    count = arguments.zero_expand(where, a["mask"], a["nonzeros"], count, a["out"])
    if a["nonzeros"].itemsize not in (2, 4, 8):
        raise TypeError(f"{where}: nonzeros must be of 2, 4 or 8 bytes each, not {a['nonzeros'].dtype}")
    blocks = _cuda_plan.octets(where, count)
    begins = gpu.empty(blocks + 1, "int64")
    gpu.run("count_ones", (), blocks, a["mask"], begins, i64(count))
    gpu.run("begin_blocks", (), 1, begins, i64(blocks))
    arguments.same_ones(where, gpu.download(begins[blocks:])[0], a["nonzeros"].size)
    into = _into(gpu, a["out"], count, str(a["nonzeros"].dtype.name))
    kind = f"u{8 * a['nonzeros'].itemsize}"
    gpu.run("move_nonzeros", (kind, True), blocks, a["nonzeros"], a["mask"], begins, into, i64(count))
    return into if out is None else out


def _window(window: Pooling) -> list[Any]:
    """The window as the kernels take it."""
    pairs = (window.kernel, window.stride, window.padding, window.dilation)
    sizes = [i64(size) for size in (window.height, window.width, *window.size)]
    return [i32(window.bits), *sizes, *(i32(part) for pair in pairs for part in pair)]


def max_pool_positions(
    values: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, *, dtype: str | None = None
) -> tuple[Any, Any]:
    """As `kernels.reference.max_pool_positions`."""
    where = "max_pool_positions"
    gpu, a = _cuda_device.opened(where, values=values)
    window = norm_arguments.pooling(where, a["values"].shape, kernel, stride, padding, dilation)
    name = arguments.compared(where, a["values"], dtype, None, 1)
    shape = (*a["values"].shape[:2], *window.size)
    count = shape[0] * shape[1] * shape[2] * shape[3]
    pooled = gpu.empty(shape, str(a["values"].dtype.name))
    codes = gpu.empty(checks.packed_bytes(count, window.bits), "uint8")
    blocks = _cuda_plan.octets(where, count)
    gpu.run("max_pool_positions", (name,), blocks, a["values"], pooled, codes, i64(count), *_window(window))
    return pooled, codes


def max_pool_gradient(
    d_out: Any,
    codes: Any,
    shape: Sequence[int],
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    *,
    dtype: str | None = None,
    out: Any = None,
) -> Any:
    """As `kernels.reference.max_pool_gradient`."""
    where = "max_pool_gradient"
    gpu, a = _cuda_device.opened(where, d_out=d_out, codes=codes, out=out)
    window = norm_arguments.pooling(where, shape, kernel, stride, padding, dilation)
    name = norm_arguments.pool_gradient(where, a["d_out"], a["codes"], shape, window, dtype, a["out"])
    count = shape[0] * shape[1] * shape[2] * shape[3]
    into = _into(gpu, a["out"], tuple(shape), str(a["d_out"].dtype.name))
    blocks = _cuda_plan.threads(where, count)
    gpu.run("max_pool_gradient", (name,), blocks, a["d_out"], a["codes"], into, i64(count), *_window(window))
    return into if out is None else out
