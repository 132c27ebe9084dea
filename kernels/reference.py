"""NumPy definition of every kernel: written to be read, and what the fast backends are compared with.

Integer results (codes, masks, metadata) of all backends are equal bit for bit; floating-point results to rounding.
"""

from kernels._reference_exact import (
    pack_bits,
    pack_integers,
    pack_positive,
    pack_regions,
    unpack_bits,
    unpack_integers,
    unpack_regions,
    zero_compress,
    zero_expand,
)
from kernels._reference_fixed import dequantize_fixed, quantize_fixed
from kernels._reference_group import dequantize, dequantize_samples, quantize, quantize_samples
from kernels._reference_noise import noise
from kernels._reference_norm import (
    affine_activation,
    channel_statistics,
    dequantize_affine,
    norm_backward,
    norm_backward_coded,
    normalize_quantize_mask,
    rebuild_activation,
    subtract_norm_terms,
)
from kernels._reference_pool import max_pool_gradient, max_pool_positions

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
