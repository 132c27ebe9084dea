"""The shared quantisers and exact codes for tensors of any meaning, as PyTorch operators.

As `kernel_ops`, whose operators are about norms. Values are dense, in rows (N, L) or flat; kernels/reference.py says
what is computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels import checks
from pytorch_models.kernel_arrays import array_of, format_of, rows_of, running_on, tensor_of
from pytorch_models.operators import define_operator

NEAREST = -1  # the seed that means: round to nearest


def byte_offsets(bits: list[int], length: int) -> list[int]:
    """First byte of every row's codes, and the end.

    Example:
        >>> byte_offsets([2, 8], 10)
        [0, 3, 13]
    """
    found = [0]
    for width in bits:
        found.append(found[-1] + checks.packed_bytes(length, width))
    return found


def _quantize_rows(values: Tensor, bits: list[int], group: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    made = _fake_quantize_rows(values, bits, group, seed)
    codes, minima, steps, energy = made
    with running_on(values) as module:
        if len(bits) == 1:
            outputs = {"codes": array_of(codes), "minima": array_of(minima), "steps": array_of(steps)}
            coded = module.quantize(
                array_of(values), bits[0], seed=seed, group=group, dtype=format_of(values), **outputs
            )
        else:
            coded = module.quantize_samples(array_of(values), bits, seed=seed, group=group, dtype=format_of(values))
            codes.copy_(tensor_of(coded.codes))
            minima.view(torch.int16).copy_(tensor_of(coded.minima.view(np.int16)).view(minima.shape))
            steps.view(torch.int16).copy_(tensor_of(coded.steps.view(np.int16)).view(steps.shape))
    energy.copy_(tensor_of(coded.energy))
    return made


def _fake_quantize_rows(values: Tensor, bits: list[int], group: int, _: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, length = values.shape
    codes = torch.empty(byte_offsets(bits, length)[-1], dtype=torch.uint8, device=values.device)
    groups = rows * checks.group_count(length, group)
    minima, steps = (torch.empty(groups, dtype=torch.bfloat16, device=values.device) for _ in range(2))
    return codes, minima, steps, torch.empty(rows, dtype=torch.float32, device=values.device)


def _dequantize_rows_(codes: Tensor, minima: Tensor, steps: Tensor, bits: list[int], group: int, out: Tensor) -> None:
    length = out.shape[1]
    with running_on(codes) as module:
        arrays = [array_of(tensor) for tensor in (codes, minima, steps)]
        dtype = format_of(out) or str(out.dtype).removeprefix("torch.")
        if len(bits) == 1:
            module.dequantize(*arrays, bits[0], out.numel(), group=group, dtype=dtype, out=array_of(out))
            return
        offsets = array_of(torch.tensor(byte_offsets(bits, length), device=codes.device))
        module.dequantize_samples(*arrays, bits, offsets, length, group=group, dtype=dtype, out=array_of(out))


def _dequantize_masked_(
    codes: Tensor, minima: Tensor, steps: Tensor, bits: int, group: int, scale: Tensor, shift: Tensor, mask: Tensor,
    out: Tensor,
) -> None:  # fmt: skip
    with running_on(out) as module:
        module.dequantize_affine(
            *(array_of(tensor) for tensor in (codes, minima, steps)),
            bits,
            *(array_of(tensor) for tensor in (scale, shift, rows_of(out))),
            group=group,
            mask=array_of(mask),
            dtype=format_of(out),
        )


def _quantize_channels(values: Tensor, step: Tensor, bits: int, signed: bool, inner: int, seed: int) -> Tensor:
    codes = _fake_quantize_channels(values, step, bits, signed, inner, seed)
    with running_on(values) as module:
        module.quantize_fixed(
            array_of(values),
            bits,
            array_of(step),
            signed=signed,
            seed=None if seed == NEAREST else seed,
            channels=step.numel(),
            inner=inner,
            codes=array_of(codes),
            dtype=format_of(values),
        )
    return codes


def _fake_quantize_channels(values: Tensor, _: Tensor, bits: int, *__: Any) -> Tensor:
    return torch.empty(checks.packed_bytes(values.numel(), bits), dtype=torch.uint8, device=values.device)


def _dequantize_channels_(codes: Tensor, step: Tensor, bits: int, signed: bool, inner: int, out: Tensor) -> None:
    with running_on(codes) as module:
        module.dequantize_fixed(
            array_of(codes),
            bits,
            array_of(step),
            out.numel(),
            signed=signed,
            channels=step.numel(),
            inner=inner,
            dtype=format_of(out) or str(out.dtype).removeprefix("torch."),
            out=array_of(out),
        )


def _zero_compress(values: Tensor) -> tuple[Tensor, Tensor]:
    with running_on(values) as module:
        mask, kept, _ = module.zero_compress(array_of(values), dtype=format_of(values))
    return tensor_of(mask), tensor_of(kept).view(values.dtype)


def _fake_zero_compress(values: Tensor) -> tuple[Tensor, Tensor]:
    # How many are not zero is not known without computing: count all of them, the most there can be.
    mask = torch.empty(checks.packed_bytes(values.numel(), 1), dtype=torch.uint8, device=values.device)
    return mask, torch.empty_like(values)


def _zero_expand(mask: Tensor, kept: Tensor, count: int) -> Tensor:
    out = kept.new_empty(count)
    with running_on(mask) as module:
        module.zero_expand(array_of(mask), array_of(kept), count, out=array_of(out))
    return out


def _pack_integers(values: Tensor, bits: int) -> Tensor:
    codes = _fake_pack_integers(values, bits)
    with running_on(values) as module:
        module.pack_integers(array_of(values), bits, codes=array_of(codes))
    return codes


def _fake_pack_integers(values: Tensor, bits: int) -> Tensor:
    return torch.empty(checks.packed_bytes(values.numel(), bits), dtype=torch.uint8, device=values.device)


def _unpack_integers(codes: Tensor, bits: int, count: int) -> Tensor:
    out = torch.empty(count, dtype=torch.uint16, device=codes.device)
    with running_on(codes) as module:
        module.unpack_integers(array_of(codes), bits, count, out=array_of(out))
    return out


quantize_rows = define_operator(
    "quantize_rows(Tensor values, int[] bits, int group, int seed) -> (Tensor, Tensor, Tensor, Tensor)",
    _quantize_rows,
    _fake_quantize_rows,
)
dequantize_rows_ = define_operator(
    "dequantize_rows_(Tensor codes, Tensor minima, Tensor steps, int[] bits, int group, Tensor(a!) out) -> ()",
    _dequantize_rows_,
)
# out = mask * (scale * zhat + shift), over (N, C, ...) in one of the layouts of `kernel_arrays.layout_of`
dequantize_masked_ = define_operator(
    "dequantize_masked_(Tensor codes, Tensor minima, Tensor steps, int bits, int group, Tensor scale, Tensor shift, "
    "Tensor mask, Tensor(a!) out) -> ()",
    _dequantize_masked_,
)
quantize_channels = define_operator(
    "quantize_channels(Tensor values, Tensor step, int bits, bool signed, int inner, int seed) -> Tensor",
    _quantize_channels,
    _fake_quantize_channels,
)
dequantize_channels_ = define_operator(
    "dequantize_channels_(Tensor codes, Tensor step, int bits, bool signed, int inner, Tensor(a!) out) -> ()",
    _dequantize_channels_,
)
zero_compress = define_operator("zero_compress(Tensor values) -> (Tensor, Tensor)", _zero_compress, _fake_zero_compress)
zero_expand = define_operator(
    "zero_expand(Tensor mask, Tensor kept, SymInt count) -> Tensor",
    _zero_expand,
    lambda mask, kept, count: kept.new_empty(count),
)
pack_integers = define_operator("pack_integers(Tensor values, int bits) -> Tensor", _pack_integers, _fake_pack_integers)
unpack_integers = define_operator(
    "unpack_integers(Tensor codes, int bits, SymInt count) -> Tensor",
    _unpack_integers,
    lambda codes, bits, count: torch.empty(count, dtype=torch.uint16, device=codes.device),
)
