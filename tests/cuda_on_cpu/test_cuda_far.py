"""Indices beyond 2^32: the last block of a launch over a huge array (a sparse file) finds its values and places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernels import reference
from kernels.formats import narrow

FAR = 2**32


@pytest.fixture
def huge(tmp_path: Path) -> Callable[..., np.ndarray]:
    """An array of zeros that takes room only where it is touched."""
    made: list[np.ndarray] = []

    def make(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        mapped = np.memmap(tmp_path / f"{len(made)}", dtype, "w+", shape=shape)
        made.append(np.asarray(mapped).view(np.ndarray))
        return made[-1]

    return make


@pytest.fixture
def last(device: Any, cuda_of: Callable[[Any], Any]) -> Any:
    """kernels.cuda that runs only the last block of each launch."""
    device.only_last_block = True
    return cuda_of(device)


def bf16(count: int, seed: int = 0) -> np.ndarray:
    return narrow(np.random.default_rng(seed).normal(size=count).astype(np.float32), "bfloat16")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_quantise(last: Any, huge: Callable[..., np.ndarray], same: Any, bits: int) -> None:
    tail = 3 * 256 + 41
    x = huge((FAR + tail,), np.uint16)
    x[-tail:] = bf16(tail)
    groups = -(-x.size // 256)
    codes = huge((-(-x.size * bits // 8),), np.uint8)
    minima, steps = huge((groups,), np.uint16), huge((groups,), np.uint16)
    options: dict[str, Any] = {"seed": 3, "dtype": "bfloat16"}
    last.quantize(x, bits, start=5, codes=codes, minima=minima, steps=steps, **options)
    expected = reference.quantize(x[-tail:], bits, start=5 + FAR, **options)
    same(codes[-expected.codes.size :], expected.codes)
    same(minima[-4:], expected.minima)
    same(steps[-4:], expected.steps)
    out = huge(x.shape, np.uint16)
    last.dequantize(codes, minima, steps, bits, x.size, dtype="bfloat16", out=out)
    coded = (expected.codes, expected.minima, expected.steps)
    same(out[-tail:], reference.dequantize(*coded, bits, tail, dtype="bfloat16"))


def test_samples(last: Any, huge: Callable[..., np.ndarray], same: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six samples of 2^30 - 55 values and a few: the last one begins beyond 2^32 values and 2^31 bytes."""
    length, widths = 2**30 - 55, (8, 8, 4, 2, 1, 4)
    x = huge((6, length), np.uint16)
    tail = length % (64 * 256)
    x[-1, -tail:] = bf16(tail)
    device = last.quantize.__globals__["_cuda_device"].current()
    monkeypatch.setattr(
        device, "empty", lambda shape, dtype: huge(shape if isinstance(shape, tuple) else (shape,), dtype)
    )
    made = last.quantize_samples(x, widths, seed=3, dtype="bfloat16")
    expected = reference.quantize(x[-1, -tail:], 4, seed=3, start=6 * length - tail, dtype="bfloat16")
    same(made.codes[-expected.codes.size :], expected.codes)
    same(made.minima[-1, -expected.minima.size :], expected.minima)
    out = last.dequantize_samples(made.codes, made.minima, made.steps, widths, made.offsets, length, dtype="bfloat16")
    coded = (expected.codes, expected.minima, expected.steps)
    same(out[-1, -tail:], reference.dequantize(*coded, 4, tail, dtype="bfloat16"))


@pytest.mark.parametrize("bits", [3, 16])
def test_integers_and_fixed_point(last: Any, huge: Callable[..., np.ndarray], same: Any, bits: int) -> None:
    tail, channels, inner = 2 * 5 * 77, 5, 77
    count = FAR // (channels * inner) * channels * inner + tail
    x = huge((count,), np.uint16)
    x[-2048:] = bf16(2048)
    codes = huge((-(-count * bits // 8),), np.uint8)
    first = count // 2048 * 2048  # the last block's first value
    expected = reference.pack_integers(x[first:], bits)
    last.pack_integers(x, bits, codes=codes)
    same(codes[-expected.size :], expected)
    out = huge((count,), np.uint16)
    last.unpack_integers(codes, bits, count, out=out)
    same(out[first:], x[first:] & np.uint16(2**bits - 1))
    steps = np.random.default_rng(0).uniform(0.1, 0.3, channels).astype(np.float32)
    shape: dict[str, Any] = {"channels": channels, "inner": inner, "signed": True}
    last.quantize_fixed(x, bits, steps, seed=4, start=9, dtype="bfloat16", codes=codes, **shape)
    last.dequantize_fixed(codes, bits, steps, count, dtype="bfloat16", out=out, **shape)
    begin = (count - 4096) // (channels * inner) * channels * inner
    noise = {"seed": 4, "start": 9 + begin, "dtype": "bfloat16"}
    expected = reference.quantize_fixed(x[begin:], bits, steps, **noise, **shape)
    decoded = reference.dequantize_fixed(expected, bits, steps, count - begin, dtype="bfloat16", **shape)
    same(out[first:], decoded[first - begin :])


def test_masks(last: Any, huge: Callable[..., np.ndarray], same: Any) -> None:
    x = huge((FAR + 700,), np.uint16)
    x[-700:] = bf16(700)
    for bits, pack, unpack, options in (
        (1, "pack_positive", "unpack_bits", ()),
        (2, "pack_regions", "unpack_regions", (-0.5, 0.5)),
    ):
        codes = huge((-(-x.size * bits // 8),), np.uint8)
        expected = getattr(reference, pack)(x[-700:], *options, dtype="bfloat16")
        getattr(last, pack)(x, *options, dtype="bfloat16", codes=codes)
        same(codes[-expected.size :], expected)
        flags = huge(x.shape, np.uint8)
        getattr(last, unpack)(codes, x.size, out=flags)
        same(flags[-700:], getattr(reference, unpack)(expected, 700))


@pytest.mark.parametrize(
    "shape", [(FAR // 12 // 128 * 128 + 168, 12), (FAR // 49152 + 1, 12, 4096), (3, 3, FAR // 288 * 32 + 32)]
)
def test_norm_passes(last: Any, huge: Callable[..., np.ndarray], same: Any, shape: tuple[int, ...]) -> None:
    """Views inside buffers of one channel more; codes, masks and values of the last block's end."""
    wider = (shape[0], shape[1] + 1, *shape[2:])
    x, out, target = (huge(wider, np.uint16)[:, 1:] for _ in range(3))
    rest = shape[2:] or (1,)
    tail = min(rest[0], 32) if len(shape) == 3 else 8  # values of the last channel, or rows
    part = (slice(-1, None), slice(-1, None), slice(-tail, None)) if len(shape) == 3 else (slice(-tail, None),)
    x[part] = bf16(x[part].size).reshape(x[part].shape)
    target[part] = x[part]
    count = x.size
    channels = np.random.default_rng(1).uniform(0.3, 1, (4, shape[1])).astype(np.float32)
    ours = channels[:, -x[part].shape[1] :].copy()
    codes, mask = huge((-(-count // 2),), np.uint8), huge((-(-count // 8),), np.uint8)
    minima, steps = (huge((-(-count // 32),), np.uint16) for _ in range(2))
    arrays: dict[str, Any] = {"codes": codes, "minima": minima, "steps": steps, "mask": mask}
    options: dict[str, Any] = {"seed": 3, "group": 32, "dtype": "bfloat16"}
    last.normalize_quantize_mask(x, *channels, 4, out=out, **arrays, **options)
    values = x[part]
    expected_out = np.empty_like(values)
    expected = reference.normalize_quantize_mask(
        values, *ours, 4, start=count - values.size, out=expected_out, **options
    )
    same(out[part], expected_out)
    assert count % 32 == values.size % 32 == 0
    assert count > FAR
    same(codes[-expected.codes.size :], expected.codes)
    same(mask[-expected.mask.size :], expected.mask)
    decoded = huge(wider, np.uint16)[:, 1:]
    last.dequantize_affine(codes, minima, steps, 4, *channels[2:], decoded, mask=mask, group=32, dtype="bfloat16")
    kept = {"group": 32, "mask": expected.mask, "dtype": "bfloat16"}
    coded = (expected.codes, expected.minima, expected.steps, 4)
    same(decoded[part], reference.dequantize_affine(*coded, *ours[2:], np.empty_like(values), **kept))
    last.norm_backward_coded(
        x, codes, minima, steps, 4, channels[2], target=target, accumulate=True, mask=mask, group=32, dtype="bfloat16"
    )
    doubled = values.copy()
    reference.norm_backward(
        values, values, *ours, target=doubled, accumulate=True, mask=expected.mask, dtype="bfloat16"
    )
    same(target[part], doubled)
