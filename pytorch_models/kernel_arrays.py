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
TORCH = "torch operators"
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def norm_path(*tensors: Tensor) -> str:
    """Which code runs the norm passes over these (N, C, ...) tensors: "numba", "cuda" or "torch operators".

    The kernels take one dtype and one layout for all tensors of a call, the first one's; where they differ, as under
    autocast, or where a device has no kernels, PyTorch's own operators run.
    """
    first = tensors[0]
    if first.dtype not in DTYPES or why_no_kernels(first.device.type) is not None:
        return TORCH
    layout = layout_of(first)
    if layout is None or any(t.dtype != first.dtype or layout_of(t) != layout for t in tensors[1:]):
        return TORCH
    return "numba" if first.device.type == "cpu" else first.device.type


@functools.cache
def why_no_kernels(device_type: str) -> str | None:
    """Why a type of device has no kernels here, or None. Imports CuPy to find out about a GPU."""
    if device_type not in BACKENDS:
        return f"there are no kernels for {device_type}"
    try:
        module = kernels_of(BACKENDS[device_type])
    except ImportError as error:
        return str(error)
    return module.why_unavailable() if device_type == "cuda" else None


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
    return _layout(tuple(tensor.shape), tensor.stride())[0]


@functools.lru_cache(maxsize=1024)
def _layout(shape: tuple[int, ...], by: tuple[int, ...]) -> tuple[str | None, int]:
    """A layout of a shape and its strides, and the elements from one pixel to the next where it is channels_last."""
    samples, channels, *sizes = shape
    outer, strides = (samples, *sizes), (by[0], *by[2:])
    step = next((stride for size, stride in zip(outer[::-1], strides[::-1], strict=True) if size > 1), channels)
    if (by[1] == 1 or channels == 1) and step >= channels and _joined(outer, strides, step):
        return "channels_last", step
    pixels = math.prod(sizes)
    dense = _joined(sizes, by[2:], 1) and (channels == 1 or by[1] == pixels)
    return ("contiguous" if sizes and dense and (samples == 1 or by[0] >= channels * pixels) else None), step


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
    shape = tuple(tensor.shape)
    layout, step = _layout(shape, tensor.stride())
    if layout == "channels_last":
        return tensor.detach().as_strided((math.prod(shape) // max(shape[1], 1), shape[1]), (step, 1))
    return tensor.detach().flatten(2)


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
