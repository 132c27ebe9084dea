"""How bytes shrink: quantisers, exact codes and fused norm passes, on NumPy arrays (numba) and GPU arrays (CuPy CUDA).

Every function takes the arguments of its namesake in `kernels.reference`, which defines the results, and runs where its
first array lies: a NumPy array on the CPU, an array in GPU memory (CuPy's, or anything with
`__cuda_array_interface__` or DLPack) on its GPU. Nothing falls back: a backend that cannot work is an error.
Importing this package loads neither numba nor CuPy.

Example:
    >>> import numpy as np, kernels
    >>> coded = kernels.quantize(np.linspace(0, 1, 1024, dtype=np.float32), 2, seed=1)
    >>> coded.nbytes, kernels.dequantize(coded.codes, coded.minima, coded.steps, 2, 1024).shape
    (272, (1024,))
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar

import numpy as np

from kernels import reference
from kernels.quantized import Quantized
from kernels.reference import noise

BACKENDS: Mapping[str, str] = MappingProxyType(
    {"reference": "kernels.reference", "cpu": "kernels.cpu", "cuda": "kernels.cuda"}
)
_DLPACK_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged
_Function = TypeVar("_Function", bound=Callable[..., Any])


def load(backend: str) -> ModuleType:
    """The module of a backend, imported now.

    Raises:
        ValueError: no such backend.
        ImportError: what it needs is not installed; names the command that installs it.
    """
    if backend not in BACKENDS:
        raise ValueError(f"kernels: unknown backend {backend!r}: there is {', '.join(BACKENDS)}")
    try:
        return importlib.import_module(BACKENDS[backend])
    except ModuleNotFoundError as error:
        if backend == "cpu" and (error.name or "").partition(".")[0] in ("numba", "llvmlite"):
            raise ImportError(f"kernels on NumPy arrays need numba ({error}): pip install numba tbb") from error
        raise


def available() -> dict[str, str | None]:
    """Every backend, with the reason why it cannot be used here, or None. Imports numba and CuPy to find out."""
    found: dict[str, str | None] = {}
    for name in BACKENDS:
        try:
            module = load(name)
            found[name] = module.why_unavailable() if name == "cuda" else None
        except ImportError as error:
            found[name] = str(error)
    return found


def backend_of(array: Any) -> str:
    """Which backend works on an array.

    Raises:
        TypeError: it is no array of a known kind.
    """
    if isinstance(array, np.ndarray):
        return "cpu"
    if hasattr(array, "__cuda_array_interface__"):
        return "cuda"
    if hasattr(array, "__dlpack_device__"):
        if array.__dlpack_device__()[0] in _DLPACK_CUDA:
            return "cuda"
        raise TypeError(f"kernels: a {type(array).__name__} in CPU memory came: pass it as a NumPy array (.numpy())")
    raise TypeError(f"kernels: a NumPy array or an array in GPU memory is needed, not {type(array).__name__}")


def _dispatched(function: _Function) -> _Function:
    """The function of the same name in the backend of the first argument."""
    first = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def run(*arguments: Any, **keywords: Any) -> Any:
        if not arguments and first not in keywords:
            return function(**keywords)  # raises the TypeError for the missing argument
        array = arguments[0] if arguments else keywords[first]
        return getattr(load(backend_of(array)), function.__name__)(*arguments, **keywords)

    return run  # type: ignore[return-value]


affine_activation = _dispatched(reference.affine_activation)
channel_statistics = _dispatched(reference.channel_statistics)
dequantize = _dispatched(reference.dequantize)
dequantize_affine = _dispatched(reference.dequantize_affine)
dequantize_fixed = _dispatched(reference.dequantize_fixed)
dequantize_samples = _dispatched(reference.dequantize_samples)
max_pool_gradient = _dispatched(reference.max_pool_gradient)
max_pool_positions = _dispatched(reference.max_pool_positions)
norm_backward = _dispatched(reference.norm_backward)
norm_backward_coded = _dispatched(reference.norm_backward_coded)
normalize_quantize_mask = _dispatched(reference.normalize_quantize_mask)
pack_bits = _dispatched(reference.pack_bits)
pack_integers = _dispatched(reference.pack_integers)
pack_positive = _dispatched(reference.pack_positive)
pack_regions = _dispatched(reference.pack_regions)
quantize = _dispatched(reference.quantize)
quantize_fixed = _dispatched(reference.quantize_fixed)
quantize_samples = _dispatched(reference.quantize_samples)
rebuild_activation = _dispatched(reference.rebuild_activation)
subtract_norm_terms = _dispatched(reference.subtract_norm_terms)
unpack_bits = _dispatched(reference.unpack_bits)
unpack_integers = _dispatched(reference.unpack_integers)
unpack_regions = _dispatched(reference.unpack_regions)
zero_compress = _dispatched(reference.zero_compress)
zero_expand = _dispatched(reference.zero_expand)

__all__ = [
    "BACKENDS",
    "Quantized",
    "affine_activation",
    "available",
    "backend_of",
    "channel_statistics",
    "dequantize",
    "dequantize_affine",
    "dequantize_fixed",
    "dequantize_samples",
    "load",
    "max_pool_gradient",
    "max_pool_positions",
    "noise",
    "norm_backward",
    "norm_backward_coded",
    "normalize_quantize_mask",
    "pack_bits",
    "pack_integers",
    "pack_positive",
    "pack_regions",
    "quantize",
    "quantize_fixed",
    "quantize_samples",
    "rebuild_activation",
    "subtract_norm_terms",
    "unpack_bits",
    "unpack_integers",
    "unpack_regions",
    "zero_compress",
    "zero_expand",
]
