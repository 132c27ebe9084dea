"""A CUDA device through CuPy: arrays that others own, memory, and starting kernels on the current stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from kernels import _cuda_compiler, _cuda_source
from kernels._cuda_plan import THREADS

INSTALL = "pip install 'memory-efficient-zoo[cuda12]' (or [cuda13], by what nvidia-smi calls CUDA Version)"
BFLOAT16 = "<V2"  # how PyTorch writes it, as ml_dtypes does
DLPACK_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged


class Device:
    """One GPU; kernels go to CuPy's current stream on it, memory comes from CuPy's current allocator.

    Args:
        cupy: the module.
        number: of the GPU.
    """

    def __init__(self, cupy: Any, number: int) -> None:
        self.cupy = cupy
        self.number = number

    def empty(self, shape: int | tuple[int, ...], dtype: str) -> Any:
        """A new array whose contents are anything."""
        with self.cupy.cuda.Device(self.number):
            return self.cupy.empty(shape, dtype)

    def upload(self, numbers: Any, dtype: str) -> Any:
        """A new array with these numbers."""
        with self.cupy.cuda.Device(self.number):
            return self.cupy.asarray(np.asarray(numbers, dtype))

    def download(self, array: Any) -> list[int]:
        """The contents of an array; waits for the stream."""
        with self.cupy.cuda.Device(self.number):
            return self.cupy.asnumpy(array).tolist()

    def pointer(self, array: Any) -> int:
        """Address of the first element; 0 for no array."""
        return 0 if array is None else int(array.data.ptr)

    def launch(self, kernel: str, blocks: int, arguments: tuple[Any, ...]) -> None:
        """Start an instance of a kernel with NumPy scalars as arguments."""
        with self.cupy.cuda.Device(self.number):
            _function(self.number, kernel)((blocks,), (THREADS,), arguments)

    def run(self, kernel: str, parameters: tuple[Any, ...], blocks: int, *arguments: Any) -> None:
        """Start `blocks` blocks of the kernel's instance for the template parameters; nothing for 0.

        Args:
            arguments: NumPy scalars, for arrays their pointers, None a null pointer.
        """
        name = _cuda_source.expression(kernel, *parameters)
        if blocks:
            scalars = (a if isinstance(a, np.generic) else np.uint64(self.pointer(a)) for a in arguments)
            self.launch(name, blocks, tuple(scalars))


@cache
def _function(device: int, name: str) -> Any:
    """The compiled kernel, loaded on the current device `device`."""
    cupy = import_cupy("kernels.cuda")
    capability = int(cupy.cuda.Device(device).compute_capability)
    mangled, binary = _cuda_compiler.compiled(_cuda_compiler.load_nvrtc(), name, capability)
    module = cupy.cuda.Module()
    module.load(binary)
    return module.get_function(mangled)


def import_cupy(where: str) -> Any:
    """CuPy with a GPU it can use.

    Raises:
        ImportError: CuPy is not installed, or not for this CUDA.
        RuntimeError: there is no driver or no GPU.
    """
    try:
        import cupy
    except ImportError as error:
        raise ImportError(f"{where} needs CuPy, which cannot be imported ({error}): {INSTALL}") from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(
            f"{where} found no usable GPU ({error}): install NVIDIA's driver, newer where it says insufficient; for "
            "arrays in host memory use kernels.cpu"
        ) from error
    if not count:
        raise RuntimeError(
            f"{where} found no GPU: check CUDA_VISIBLE_DEVICES; for arrays in host memory use kernels.cpu"
        )
    return cupy


def opened(where: str, **arrays: Any) -> tuple[Device, dict[str, Any]]:
    """The device that holds the arrays, and the arrays as CuPy arrays on the same memory; None passes.

    Raises:
        ImportError, RuntimeError: CuPy or the GPU is missing.
        TypeError: an array is not on a GPU.
        ValueError: arrays lie on different GPUs.
    """
    for name, array in arrays.items():
        if array is not None and not on_gpu(array):
            raise TypeError(
                f"{where}: {name} must be an array on a GPU (CuPy, __cuda_array_interface__ or DLPack), not "
                f"{type(array).__module__}.{type(array).__name__}: move it there, or use kernels.cpu"
            )
    cupy = import_cupy(where)
    found = {name: None if array is None else _view(cupy, array) for name, array in arrays.items()}
    return Device(cupy, _only_device(where, found)), found


def current() -> Device:
    """The current device, for what takes no array.

    Raises:
        ImportError, RuntimeError: CuPy or the GPU is missing.
    """
    cupy = import_cupy("kernels.cuda")
    return Device(cupy, int(cupy.cuda.Device().id))


def on_gpu(array: Any) -> bool:
    """Whether an object is an array in GPU memory."""
    if hasattr(array, "__cuda_array_interface__"):
        return True
    return hasattr(array, "__dlpack_device__") and array.__dlpack_device__()[0] in DLPACK_CUDA


def _view(cupy: Any, array: Any) -> Any:
    if isinstance(array, cupy.ndarray):
        return array
    if not hasattr(array, "__cuda_array_interface__"):
        return cupy.from_dlpack(array)
    interface = array.__cuda_array_interface__
    return cupy.asarray(_Bits(array) if interface["typestr"] == BFLOAT16 else array)


class _Bits:
    """An array of bfloat16, which CuPy may not know, as the uint16 that hold it."""

    def __init__(self, array: Any) -> None:
        self.array = array  # keeps the memory
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, "typestr": "<u2"}


def _only_device(where: str, arrays: Mapping[str, Any]) -> int:
    numbers = {name: int(array.device.id) for name, array in arrays.items() if array is not None}
    if len(set(numbers.values())) > 1:
        found = ", ".join(f"{name} on {number}" for name, number in numbers.items())
        raise ValueError(f"{where}: arrays lie on different GPUs ({found}): move them to one")
    return next(iter(numbers.values()))


@contextmanager
def on_stream(handle: int, device: int | None = None) -> Iterator[None]:
    """Kernels of this thread go to a CUDA stream, such as `torch.cuda.current_stream().cuda_stream`.

    Args:
        handle: the stream's address; 0 is the default stream.
        device: the GPU it belongs to; None = the current one.

    Raises:
        ImportError, RuntimeError: CuPy or the GPU is missing.
    """
    cupy = import_cupy("on_stream")
    number = int(cupy.cuda.Device().id) if device is None else device
    with cupy.cuda.Device(number), cupy.cuda.ExternalStream(handle, number):
        yield


def why_unavailable() -> str | None:
    """What keeps these kernels from running here, or None."""
    try:
        import_cupy("kernels.cuda")
        _cuda_compiler.load_nvrtc()
    except (ImportError, RuntimeError) as error:
        return str(error)
    return None
