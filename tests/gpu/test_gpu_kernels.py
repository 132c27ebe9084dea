"""kernels.cuda on a GPU: streams, other libraries' arrays, sizes, and what tests/cuda_on_cpu cannot run there.

`python -m pytest tests/gpu tests/cuda_on_cpu` also runs every comparison of tests/cuda_on_cpu on the GPU it finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gpu_here import why_not

import kernels.cuda as cuda
from kernels import _cuda_source, reference
from kernels.formats import narrow

if WHY_NOT := why_not():
    pytest.skip(f"needs a GPU: {WHY_NOT}", allow_module_level=True)

cupy = pytest.importorskip("cupy")

FORMATS = ("float16", "bfloat16", "float32", "float64")


@pytest.fixture(autouse=True)
def _gives_memory_back() -> Iterator[None]:
    yield
    cupy.get_default_memory_pool().free_all_blocks()


def numbers(name: str, *shape: int, seed: int = 0) -> np.ndarray:
    return narrow(np.random.default_rng(seed).normal(size=shape).astype(np.float32) * np.float32(3), name)


def named(name: str) -> dict[str, str]:
    return {"dtype": name} if name == "bfloat16" else {}


def same(made: Any, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(made.get(), expected)


def test_every_instance_loads() -> None:
    """The compiler of this machine takes every kernel, and the driver loads it."""
    from kernels._cuda_device import _function

    for file in _cuda_source.files():
        for name in _cuda_source.instances(file):
            assert callable(_function(0, name))


def test_subnormal_numbers_are_not_flushed() -> None:
    x = np.float32([1e-40, -1e-40, 3e-45] * 40)
    ones, out = cupy.ones(1, "float32"), cupy.empty((120, 1), "float32")
    cuda.affine_activation(cupy.asarray(x[:, None]), ones, ones * 0, out, activation="identity")
    same(out[:, 0], x)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("name", FORMATS)
def test_millions_of_values(name: str, bits: int) -> None:
    x = numbers(name, 3_000_001)
    expected = reference.quantize(x, bits, seed=1, start=2**32 - 10**6, **named(name))
    made = cuda.quantize(cupy.asarray(x), bits, seed=1, start=2**32 - 10**6, **named(name))
    for field in ("codes", "minima", "steps"):
        same(getattr(made, field), getattr(expected, field))
    np.testing.assert_allclose(made.energy.get(), expected.energy, rtol=1e-5)
    coded = (expected.codes, expected.minima, expected.steps)
    decoded = cuda.dequantize(made.codes, made.minima, made.steps, bits, x.size, dtype=name)
    same(decoded, reference.dequantize(*coded, bits, x.size, dtype=name))


def test_casts_of_every_half_precision_number() -> None:
    """The GPU's own conversions, which the CPU replaces by arithmetic: every float16, and floats between them."""
    one, zero = cupy.ones(1, "float32"), cupy.zeros(1, "float32")
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)[:, None]
    out = cupy.empty(halves.shape, "float16")
    cuda.affine_activation(cupy.asarray(halves), one, zero, out, activation="identity")
    same(out, halves)
    for shift in (0.0, 1e-3, 1 / 3):
        with np.errstate(all="ignore"):
            expected = (halves.astype(np.float32) + np.float32(shift)).astype(np.float16)
        cuda.affine_activation(cupy.asarray(halves), one, zero + np.float32(shift), out, activation="identity")
        same(out, expected)


@pytest.mark.parametrize("shape", [(64 * 32 * 32, 132), (64, 132, 32 * 32), (33, 70, 49), (4001, 12)])
@pytest.mark.parametrize("name", FORMATS)
def test_norm_passes_at_the_size_of_a_layer(name: str, shape: tuple[int, ...]) -> None:
    if name == "float64":
        shape = (shape[0] // 4, *shape[1:])
    x = numbers(name, *shape)
    kind = np.float64 if name == "float64" else np.float32
    rng = np.random.default_rng(1)
    vectors = [rng.uniform(*ends, shape[1]).astype(kind) for ends in ((-1, 1), (0.1, 0.6), (-0.5, 0.9), (-1, 3))]
    on_gpu, on_gpu_vectors = cupy.asarray(x), [cupy.asarray(vector) for vector in vectors]
    options: dict[str, Any] = {"seed": 5, "activation": "relu6", **named(name)}
    expected_out, out = np.empty_like(x), cupy.empty_like(on_gpu)
    expected = reference.normalize_quantize_mask(x, *vectors, 4, out=expected_out, **options)
    made = cuda.normalize_quantize_mask(on_gpu, *on_gpu_vectors, 4, out=out, **options)
    for field in ("codes", "minima", "steps", "mask"):
        same(getattr(made, field), getattr(expected, field))
    same(out, expected_out)
    tolerance = 1e-12 if name == "float64" else 1e-6
    for ours, theirs in zip(
        cuda.channel_statistics(on_gpu, **named(name)), reference.channel_statistics(x, **named(name)), strict=True
    ):
        np.testing.assert_allclose(ours.get(), theirs, rtol=tolerance, atol=tolerance)
    target, expected_target = cupy.zeros_like(on_gpu), np.zeros_like(x)
    sums = cuda.norm_backward(on_gpu, on_gpu, *on_gpu_vectors, target=target, accumulate=True, **named(name))
    expected_sums = reference.norm_backward(x, x, *vectors, target=expected_target, accumulate=True, **named(name))
    for ours, theirs in zip(sums, expected_sums, strict=True):
        scale = tolerance * (x.size / shape[1]) ** 0.5 * 10
        np.testing.assert_allclose(ours.get(), theirs, rtol=tolerance, atol=scale)


def test_results_do_not_change_from_run_to_run() -> None:
    x = cupy.asarray(numbers("float32", 64, 30, 900))
    ones = cupy.ones(30, "float32")
    first = [array.get() for array in cuda.channel_statistics(x)]
    sums = [
        array.get()
        for array in cuda.norm_backward(x, x, ones, ones, ones, ones, target=cupy.empty_like(x), accumulate=False)
    ]
    for _ in range(5):
        for made, expected in zip(cuda.channel_statistics(x), first, strict=True):
            same(made, expected)
        again = cuda.norm_backward(x, x, ones, ones, ones, ones, target=cupy.empty_like(x), accumulate=False)
        for made, expected in zip(again, sums, strict=True):
            same(made, expected)


def test_kernels_go_to_the_stream_given() -> None:
    """On a stream that is kept busy the result comes late; on the default stream at once."""
    x = numbers("float32", 2**20)
    expected = reference.quantize(x, 2, seed=3).codes
    cuda.quantize(cupy.asarray(x), 2, seed=3)  # compiled before anything is timed
    stream = cupy.cuda.Stream(non_blocking=True)
    late = cupy.zeros(x.size, "float32")
    codes = cupy.zeros(expected.size, "uint8")
    big = cupy.ones((4096, 4096), "float32")
    cupy.cuda.Device().synchronize()
    with stream:
        for _ in range(50):
            big = big @ big * np.float32(0)
        late[...] = cupy.asarray(x)
    with cuda.on_stream(stream.ptr):
        made = cuda.quantize(late, 2, seed=3, codes=codes)
        assert cupy.cuda.get_current_stream().ptr == stream.ptr
    assert cupy.cuda.get_current_stream().ptr != stream.ptr
    stream.synchronize()
    assert made.codes is codes
    same(codes, expected)


def test_pytorch_tensors_without_a_copy() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    x = torch.randn(5000, device="cuda")
    codes = torch.zeros(1250, dtype=torch.uint8, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), cuda.on_stream(torch.cuda.current_stream().cuda_stream):
        made = cuda.quantize(x, 2, seed=3, codes=codes)
    stream.synchronize()
    assert made.codes is codes
    np.testing.assert_array_equal(codes.cpu().numpy(), reference.quantize(x.cpu().numpy(), 2, seed=3).codes)
    half = torch.randn(999, device="cuda", dtype=torch.bfloat16)
    expected = reference.quantize(half.view(torch.uint16).cpu().numpy(), 4, seed=1, dtype="bfloat16")
    for tensor in (half, half.view(torch.uint16)):
        same(cuda.quantize(tensor, 4, seed=1, dtype="bfloat16").codes, expected.codes)
    with pytest.raises(TypeError, match="array on a GPU"):
        cuda.quantize(x.cpu(), 2, seed=0)


def test_dlpack_without_a_copy() -> None:
    class Capsule:
        def __init__(self, array: Any) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    x = cupy.asarray(numbers("float32", 40, 7))
    out = cupy.zeros_like(x)
    ones = cupy.ones(7, "float32")
    cuda.affine_activation(Capsule(x), ones, ones, Capsule(out), activation="identity")
    same(out, x.get() + 1)


def test_second_gpu() -> None:
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("there is one GPU: two devices are untested here")
    x = numbers("float32", 5000)
    with cupy.cuda.Device(1):
        there = cupy.asarray(x)
    made = cuda.quantize(there, 2, seed=3)
    assert made.codes.device.id == 1
    same(made.codes, reference.quantize(x, 2, seed=3).codes)
    with pytest.raises(ValueError, match="different GPUs"):
        cuda.quantize(there, 2, seed=3, codes=cupy.empty(1250, "uint8"))


@pytest.mark.parametrize("bits", [2, 8])
def test_more_than_two_to_the_32_values(bits: int) -> None:
    count, tail = 2**32 + 70_001, 70_001
    free = cupy.cuda.runtime.memGetInfo()[0]
    if free < 5 * count:
        pytest.skip(f"needs {5 * count / 2**30:.0f} GiB of free GPU memory, there are {free / 2**30:.0f}")
    x = cupy.zeros(count, "float16")
    x[-tail:] = cupy.asarray(numbers("float16", tail))
    made = cuda.quantize(x, bits, seed=3, start=7)
    expected = reference.quantize(x[-tail:].get(), bits, seed=3, start=7 + count - tail)
    same(made.codes[-expected.codes.size :], expected.codes)
    assert not made.codes[: 2**28].any()
    cuda.dequantize(made.codes, made.minima, made.steps, bits, count, dtype="float16", out=x)
    coded = (expected.codes, expected.minima, expected.steps)
    same(x[-tail:], reference.dequantize(*coded, bits, tail, dtype="float16"))
    mask = cuda.pack_positive(x)
    same(mask[-(tail // 8) :], reference.pack_positive(x[-(tail // 8 * 8 + count % 8) :].get())[-(tail // 8) :])


def test_more_than_two_to_the_31_values_in_channels() -> None:
    rows, channels = 2**31 // 60 + 1000, 60
    free = cupy.cuda.runtime.memGetInfo()[0]
    if free < 7 * rows * channels:
        pytest.skip(f"needs {7 * rows * channels / 2**30:.0f} GiB of free GPU memory, there are {free / 2**30:.0f}")
    x = cupy.zeros((rows, channels), "float16")
    x[-500:] = cupy.asarray(numbers("float16", 500, channels))
    out = cupy.empty_like(x)
    ones = cupy.ones(channels, "float32")
    cuda.affine_activation(x, ones, -ones, out, activation="relu")
    same(out[-500:], np.maximum(x[-500:].get() - np.float16(1), 0))
    mean, _ = cuda.channel_statistics(x)
    np.testing.assert_allclose(mean.get(), x[-500:].get().astype(np.float64).sum(axis=0) / rows, rtol=1e-6)


def test_a_cuda_graph_holds_the_kernels() -> None:
    """Captured with outputs given, replayed on new values."""
    x = cupy.asarray(numbers("float32", 4096))
    expected = reference.quantize(x.get() * np.float32(2), 4, seed=1)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        made = cuda.quantize(x, 4, seed=1)
        spare = cuda.quantize(x, 4, seed=1)
        del spare  # compiled, and its memory is in the pool, before the capture
        stream.begin_capture()
        cuda.quantize(x, 4, seed=1, codes=made.codes, minima=made.minima, steps=made.steps)
        graph = stream.end_capture()
    x *= 2
    cupy.cuda.Device().synchronize()
    graph.launch(stream)
    stream.synchronize()
    same(made.codes, expected.codes)
