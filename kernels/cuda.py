"""CUDA kernels with the names and results of kernels/reference.py, for arrays in GPU memory.

Arrays are CuPy's, or anything with `__cuda_array_interface__` or DLPack, such as PyTorch's tensors; nothing is copied.
What is returned without an output array having been given is a CuPy array. Kernels are started on CuPy's current stream
of the arrays' GPU (`on_stream` changes it) and not waited for, but where a function says so. They are compiled from the
.cu files beside this one at first use, by NVRTC, and kept on disk; no compiler is needed. Importing this module imports
no CuPy.
"""

from kernels._cuda_codes import (
    dequantize_fixed,
    max_pool_gradient,
    max_pool_positions,
    pack_bits,
    pack_integers,
    pack_positive,
    pack_regions,
    quantize_fixed,
    unpack_bits,
    unpack_integers,
    unpack_regions,
    zero_compress,
    zero_expand,
)
from kernels._cuda_device import on_stream, why_unavailable
from kernels._cuda_group import dequantize, dequantize_samples, noise, quantize, quantize_samples
from kernels._cuda_norm import (
    affine_activation,
    channel_statistics,
    norm_backward,
    norm_backward_coded,
    normalize_quantize_mask,
)
from kernels._cuda_norm_apply import dequantize_affine, rebuild_activation, subtract_norm_terms

__all__ = [
    "affine_activation",
    "channel_statistics",
    "dequantize",
    "dequantize_affine",
    "dequantize_fixed",
    "dequantize_samples",
    "max_pool_gradient",
    "max_pool_positions",
    "noise",
    "norm_backward",
    "norm_backward_coded",
    "normalize_quantize_mask",
    "on_stream",
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
    "why_unavailable",
    "zero_compress",
    "zero_expand",
]
