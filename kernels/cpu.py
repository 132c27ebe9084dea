"""numba kernels for NumPy arrays: the names, arguments and results of kernels/reference.py at the speed of memory."""

from kernels._cpu_exact import (
    pack_bits,
    pack_integers,
    pack_positive,
    pack_regions,
    unpack_bits,
    unpack_integers,
    unpack_regions,
)
from kernels._cpu_fixed import dequantize_fixed, quantize_fixed
from kernels._cpu_noise import noise
from kernels._cpu_norm import affine_activation, normalize_quantize_mask
from kernels._cpu_norm_apply import dequantize_affine, rebuild_activation, subtract_norm_terms
from kernels._cpu_norm_backward import norm_backward, norm_backward_coded
from kernels._cpu_pool import max_pool_gradient, max_pool_positions
from kernels._cpu_quantize import dequantize, dequantize_samples, quantize, quantize_samples
from kernels._cpu_statistics import channel_statistics
from kernels._cpu_threads import Threads, threads
from kernels._cpu_zeros import zero_compress, zero_expand

__all__ = [
    "Threads",
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
    "pack_bits",
    "pack_integers",
    "pack_positive",
    "pack_regions",
    "quantize",
    "quantize_fixed",
    "quantize_samples",
    "rebuild_activation",
    "subtract_norm_terms",
    "threads",
    "unpack_bits",
    "unpack_integers",
    "unpack_regions",
    "zero_compress",
    "zero_expand",
]
