"""The CUDA sources: their text, and the name of every kernel they are compiled into."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import product
from types import MappingProxyType

# C++ types of the formats; float16 and bfloat16 are structs of octets.cuh that hold the bits.
TYPES: Mapping[str, str] = MappingProxyType(
    {"float16": "float16", "bfloat16": "bfloat16", "float32": "float", "float64": "double"}
)
# Contraction would round a product and a sum at once, and flushing would lose subnormal numbers: codes would differ
# from the reference.
OPTIONS = ("-std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true")

_FORMATS = tuple(TYPES)
_LAYOUTS = ("true", "false")  # channels last, or (N, C, P)
_WIDTHS = ("1", "2", "4", "8")
# File, kernel and what its template parameters may be. 0 bits: widths differ by sample.
KERNELS: Mapping[str, tuple[str, Sequence[Sequence[str]]]] = MappingProxyType(
    {
        "noise": ("quantize.cu", ()),
        "sum_energies": ("quantize.cu", ()),
        "quantize": ("quantize.cu", (_FORMATS, ("0", *_WIDTHS))),
        "dequantize": ("quantize.cu", (_FORMATS, ("0", *_WIDTHS))),
        "quantize_fixed": ("fixed.cu", (_FORMATS,)),
        "dequantize_fixed": ("fixed.cu", (_FORMATS,)),
        "pack_integers": ("fixed.cu", (("u8", "u16"),)),
        "unpack_integers": ("fixed.cu", ()),
        "pack_bits": ("exact_codes.cu", ()),
        "unpack_bits": ("exact_codes.cu", ()),
        "pack_positive": ("exact_codes.cu", (_FORMATS,)),
        "pack_regions": ("exact_codes.cu", (_FORMATS,)),
        "mark_nonzeros": ("exact_codes.cu", (_FORMATS,)),
        "count_ones": ("exact_codes.cu", ()),
        "begin_blocks": ("exact_codes.cu", ()),
        "move_nonzeros": ("exact_codes.cu", (("u16", "u32", "u64"), ("true", "false"))),
        "max_pool_positions": ("pool.cu", (_FORMATS,)),
        "max_pool_gradient": ("pool.cu", (_FORMATS,)),
        "affine_activation": ("norm.cu", (_FORMATS, _LAYOUTS)),
        "normalize_quantize_mask": ("norm.cu", (_FORMATS, _LAYOUTS)),
        "dequantize_affine": ("norm.cu", (_FORMATS, _LAYOUTS)),
        "rebuild_activation": ("norm.cu", (_FORMATS, _LAYOUTS)),
        "subtract_norm_terms": ("norm.cu", (_FORMATS, _LAYOUTS)),
        "channel_statistics": ("channel_sums.cu", (_FORMATS, _LAYOUTS)),
        "finish_statistics": ("channel_sums.cu", (_FORMATS,)),
        "finish_sums": ("channel_sums.cu", (("float32", "float64"),)),
        "norm_backward": ("channel_sums.cu", (_FORMATS, _LAYOUTS)),
        "norm_backward_coded": ("channel_sums.cu", (_FORMATS, _LAYOUTS)),
    }
)


def expression(kernel: str, *parameters: object) -> str:
    """The C++ name of an instance.

    Raises:
        ValueError: there is no such instance.

    Example:
        >>> expression("quantize", "float32", 2), expression("norm_backward", "bfloat16", True), expression("noise")
        ('quantize<float, 2>', 'norm_backward<bfloat16, true>', 'noise')
    """
    words = [str(p).lower() if isinstance(p, bool) else str(p) for p in parameters]
    choices = KERNELS[kernel][1]
    if len(words) != len(choices) or any(word not in choice for word, choice in zip(words, choices, strict=True)):
        raise ValueError(f"kernels.cuda: {kernel} has no instance for {words}; its parameters are {choices}")
    return f"{kernel}<{', '.join(TYPES.get(word, word) for word in words)}>" if words else kernel


def instances(file: str) -> list[str]:
    """The C++ names of all instances in a file."""
    return [
        expression(kernel, *parameters)
        for kernel, (home, choices) in KERNELS.items()
        if home == file
        for parameters in product(*choices)
    ]


def files() -> list[str]:
    """The files that hold kernels."""
    return list(dict.fromkeys(home for home, _ in KERNELS.values()))


@cache
def source(file: str) -> str:
    """The text of a file with what it includes in place, so that one string is all there is to compile and to cache."""
    return _expand(file, set())


def _expand(file: str, seen: set[str]) -> str:
    if file in seen:
        return ""
    seen.add(file)
    text = resources.files("kernels").joinpath(file).read_text(encoding="utf-8").replace("#pragma once\n", "")
    return re.sub(r'#include "(\w+\.cuh)"', lambda found: _expand(found[1], seen), text)
