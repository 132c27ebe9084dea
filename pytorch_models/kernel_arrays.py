"""How tensors reach the shared kernels without a copy, and which backend works on a tensor."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import Tensor

import kernels

# torch's device type -> a name of `kernels.BACKENDS`
BACKENDS: Mapping[str, str] = MappingProxyType({"cpu": "cpu", "cuda": "cuda"})
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def backend_of(tensor: Tensor) -> str:
    """The kernel backend that works where a tensor lies: "cpu" (numba) or "cuda" (CuPy).

    Raises:
        RuntimeError: there is none for that device.
    """
    backend = BACKENDS.get(tensor.device.type)
    if backend is None:
        raise RuntimeError(
            f"kernels: there are none for tensors on {tensor.device}: move the model to a CPU or a CUDA GPU, or build "
            "it without compressed"
        )
    return backend


@functools.cache
def kernels_of(backend: str) -> ModuleType:
    """The module of a backend.

    Raises:
        ImportError: what it needs is not installed; names the command that installs it.
    """
    return kernels.load(backend)


def layout_of(tensor: Tensor) -> str | None:
    """Which of the kernels' two layouts an (N, C, ...) tensor has, channel slices of wider buffers too, or None.

    Example:
        >>> layout_of(torch.empty(2, 8, 4, 4)[:, 2:5]), layout_of(torch.empty(2, 8, 4, 4)[:, :, 1:])
        ('contiguous', None)
    """
    samples, channels, *sizes = tensor.shape
    by_sample, by_channel, *strides = tensor.stride()
    step = _step(tensor)
    if (
        (by_channel == 1 or channels == 1)
        and step >= channels
        and _joined((samples, *sizes), (by_sample, *strides), step)
    ):
        return "channels_last"
    pixels = math.prod(sizes)
    dense = _joined(sizes, strides, 1) and (channels == 1 or by_channel == pixels)
    return "contiguous" if sizes and dense and (samples == 1 or by_sample >= channels * pixels) else None


def _step(tensor: Tensor) -> int:
    """Elements from one pixel to the next, were the tensor channels_last."""
    pairs = zip((tensor.shape[0], *tensor.shape[2:]), (tensor.stride(0), *tensor.stride()[2:]), strict=True)
    return next((stride for size, stride in reversed(list(pairs)) if size > 1), tensor.shape[1])


def _joined(sizes: Sequence[int], strides: Sequence[int], step: int) -> bool:
    """Whether dimensions follow one another without gaps, `step` elements from one place to the next."""
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size > 1 and stride != step:
            return False
        step *= size
    return True


@dataclass(frozen=True)
class DenseLike:
    """What it takes to allocate a tensor without gaps in one of the kernels' layouts."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    memory_order: tuple[int, ...]  # dimensions from the outermost to the innermost

    def empty(self) -> Tensor:
        """An uninitialised tensor."""
        return self.view(torch.empty(self.shape.numel(), dtype=self.dtype, device=self.device))

    def view(self, flat: Tensor) -> Tensor:
        """Elements in the order of memory, as the tensor that they are."""
        sizes = [self.shape[dimension] for dimension in self.memory_order]
        places = [self.memory_order.index(dimension) for dimension in range(len(sizes))]
        return flat.view(sizes).permute(places)


def dense_like(tensor: Tensor) -> DenseLike:
    """The layout of an (N, C, ...) tensor whose `layout_of` is not None, without its gaps."""
    order = [0, *range(2, tensor.dim()), 1] if layout_of(tensor) == "channels_last" else range(tensor.dim())
    return DenseLike(tensor.shape, tensor.dtype, tensor.device, tuple(order))


def rows_of(tensor: Tensor) -> Tensor:
    """The kernels' view of an (N, C, ...) tensor whose `layout_of` is not None: (rows, C) or (N, C, P)."""
    tensor = tensor.detach()
    if layout_of(tensor) == "channels_last":
        channels = tensor.shape[1]
        return tensor.as_strided((tensor.numel() // max(channels, 1), channels), (_step(tensor), 1))
    return tensor.flatten(2)


def array_of(tensor: Tensor | None) -> Any:
    """What the kernels take for a tensor: NumPy on a CPU (bfloat16 as its bits), the tensor itself on a GPU."""
    if tensor is None or tensor.device.type != "cpu":
        return tensor
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def format_of(tensor: Tensor) -> str | None:
    """The `dtype` argument of the kernels for a tensor's values."""
    return "bfloat16" if tensor.dtype == torch.bfloat16 else None


def tensor_of(array: Any) -> Tensor:
    """The tensor on the memory of an array that a kernel returned."""
    return torch.from_dlpack(array)


@contextlib.contextmanager
def running_on(tensor: Tensor) -> Iterator[ModuleType]:
    """The kernels for a tensor; on a GPU they go to PyTorch's current stream and take their scratch from PyTorch."""
    module = kernels_of(backend_of(tensor))
    if tensor.device.type != "cuda":
        yield module
        return
    import cupy

    def allocate(size: int) -> Any:
        owner = torch.empty(size, dtype=torch.uint8, device=tensor.device)
        memory = cupy.cuda.UnownedMemory(owner.data_ptr(), size, owner, tensor.device.index)
        return cupy.cuda.MemoryPointer(memory, 0)

    stream = torch.cuda.current_stream(tensor.device).cuda_stream
    with module.on_stream(stream, tensor.device.index), cupy.cuda.using_allocator(allocate):
        yield module
