"""The shared kernels as PyTorch operators, so that hooks, FakeTensorMode, torch.compile and trackers see them.

Operators live in the namespace `memory_efficient_zoo`; PyTorch wants them registered when this module is imported.
What is kept is allocated by PyTorch; kernels on a GPU go to PyTorch's current stream of the tensors' device. Values are
(N, C, ...) in one of the layouts of `kernel_arrays.layout_of`; vectors are (C,), float32 (float64 for float64 values).
Names ending in _ write into the arguments their schema marks. The kernels are described in kernels/reference.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels import checks
from kernels.norm_arguments import pooling
from pytorch_models.channels import statistics_dtype
from pytorch_models.kernel_arrays import array_of, format_of, rows_of, running_on, tensor_of
from pytorch_models.operators import define_operator as _operator


def _empty_codes(values: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised codes (uint8), minima and steps (bfloat16) of the group quantiser for so many values."""
    count = values.numel()
    codes = torch.empty(checks.packed_bytes(count, bits), dtype=torch.uint8, device=values.device)
    groups = checks.group_count(count, group)
    minima, steps = (torch.empty(groups, dtype=torch.bfloat16, device=values.device) for _ in range(2))
    return codes, minima, steps


def _normalize_quantize(
    values: Tensor, mean: Tensor, inv_std: Tensor, bits: int, group: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    coded = _empty_codes(values, bits, group)
    codes, minima, steps = (array_of(tensor) for tensor in coded)
    about, factor = array_of(mean), array_of(inv_std)
    with running_on(values) as module:
        module.normalize_quantize_mask(
            array_of(rows_of(values)),
            *(about, factor, factor, about),
            bits,
            seed=seed,
            group=group,
            activation="identity",
            codes=codes,
            minima=minima,
            steps=steps,
            dtype=format_of(values),
        )
    return coded


def _dequantize_affine_(
    codes: Tensor, minima: Tensor, steps: Tensor, bits: int, group: int, weight: Tensor, bias: Tensor, out: Tensor
) -> None:
    with running_on(out) as module:
        module.dequantize_affine(
            *(array_of(tensor) for tensor in (codes, minima, steps)),
            bits,
            *(array_of(tensor) for tensor in (weight, bias, rows_of(out))),
            group=group,
            activation="identity",
            dtype=format_of(out),
        )


def _quantize_fixed(values: Tensor, step: Tensor, bits: int, seed: int) -> Tensor:
    codes = _fake_quantize_fixed(values, step, bits, seed)
    with running_on(values) as module:
        module.quantize_fixed(
            array_of(values),
            bits,
            array_of(step),
            signed=True,
            seed=seed,
            codes=array_of(codes),
            dtype=format_of(values),
        )
    return codes


def _fake_quantize_fixed(values: Tensor, step: Tensor, bits: int, seed: int) -> Tensor:
    return torch.empty(checks.packed_bytes(values.numel(), bits), dtype=torch.uint8, device=values.device)


def _dequantize_fixed_(codes: Tensor, step: Tensor, bits: int, out: Tensor) -> None:
    with running_on(out) as module:
        dtype = format_of(out) or str(out.dtype).removeprefix("torch.")
        module.dequantize_fixed(
            array_of(codes), bits, array_of(step), out.numel(), signed=True, dtype=dtype, out=array_of(out)
        )


def _pack_positive_(values: Tensor, mask: Tensor) -> None:
    with running_on(values) as module:
        module.pack_positive(array_of(values), dtype=format_of(values), codes=array_of(mask))


def _unpack_bits(mask: Tensor, count: int) -> Tensor:
    flags = _fake_unpack_bits(mask, count)
    with running_on(mask) as module:
        module.unpack_bits(array_of(mask), count, out=array_of(flags))
    return flags


def _fake_unpack_bits(mask: Tensor, count: int) -> Tensor:
    return torch.empty(count, dtype=torch.uint8, device=mask.device)


def _pack_regions_(values: Tensor, low: float, high: float, codes: Tensor) -> None:
    with running_on(values) as module:
        module.pack_regions(array_of(values), low, high, dtype=format_of(values), codes=array_of(codes))


def _unpack_regions(codes: Tensor, count: int) -> Tensor:
    regions = _fake_unpack_bits(codes, count)
    with running_on(codes) as module:
        module.unpack_regions(array_of(codes), count, out=array_of(regions))
    return regions


def _channel_statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    with running_on(values) as module:
        mean, variance = module.channel_statistics(array_of(rows_of(values)), dtype=format_of(values))
    return tensor_of(mean), tensor_of(variance)


def _fake_channel_statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    dtype = statistics_dtype(values.dtype)
    mean, variance = (torch.empty(values.shape[1], dtype=dtype, device=values.device) for _ in range(2))
    return mean, variance


def _affine_relu_(values: Tensor, scale: Tensor, shift: Tensor, out: Tensor, mask: Tensor | None) -> None:
    with running_on(values) as module:
        arrays = (array_of(tensor) for tensor in (rows_of(values), scale, shift, rows_of(out)))
        module.affine_activation(*arrays, mask=array_of(mask), dtype=format_of(values))


def _rebuild_activation_(
    values: Tensor, scale: Tensor, shift: Tensor, mask: Tensor, out: Tensor, activation: str
) -> None:
    with running_on(values) as module:
        arrays = (array_of(tensor) for tensor in (rows_of(values), scale, shift, mask, rows_of(out)))
        module.rebuild_activation(*arrays, activation=activation, dtype=format_of(values))


def _subtract_norm_terms_(target: Tensor, values: Tensor, mean: Tensor, constant: Tensor, slope: Tensor) -> None:
    with running_on(values) as module:
        arrays = (array_of(tensor) for tensor in (rows_of(target), rows_of(values), mean, constant, slope))
        module.subtract_norm_terms(*arrays, dtype=format_of(values))


def _norm_backward_(
    d_out: Tensor,
    values: Tensor,
    mean: Tensor,
    inv_std: Tensor,
    scale: Tensor,
    shift: Tensor,
    mask: Tensor | None,
    target: Tensor,
    accumulate: bool,
    activation: str,
) -> tuple[Tensor, Tensor]:
    with running_on(values) as module:
        sums = module.norm_backward(
            *(array_of(rows_of(tensor)) for tensor in (d_out, values)),
            *(array_of(vector) for vector in (mean, inv_std, scale, shift)),
            target=array_of(rows_of(target)),
            accumulate=accumulate,
            activation=activation,
            mask=array_of(mask),
            dtype=format_of(values),
        )
    return tensor_of(sums[0]), tensor_of(sums[1])


def _fake_norm_backward_(d_out: Tensor, values: Tensor, mean: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(mean), torch.empty_like(mean)


def _max_pool_positions(
    values: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> tuple[Tensor, Tensor]:
    with running_on(values) as module:
        window = (tuple(pair) for pair in (kernel, stride, padding, dilation))
        pooled, codes = module.max_pool_positions(array_of(values), *window, dtype=format_of(values))
    return tensor_of(pooled).view(values.dtype), tensor_of(codes)


def _fake_max_pool_positions(
    values: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> tuple[Tensor, Tensor]:
    window = pooling("max_pool_positions", values.shape, kernel, stride, padding, dilation)
    pooled = values.new_empty(*values.shape[:2], *window.size)
    size = checks.packed_bytes(pooled.numel(), window.bits)
    return pooled, torch.empty(size, dtype=torch.uint8, device=values.device)


def _max_pool_gradient(
    d_out: Tensor,
    codes: Tensor,
    shape: list[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    made = d_out.new_empty(shape)
    with running_on(d_out) as module:
        window = (tuple(pair) for pair in (kernel, stride, padding, dilation))
        arrays = (array_of(d_out), array_of(codes))
        module.max_pool_gradient(*arrays, tuple(shape), *window, dtype=format_of(d_out), out=array_of(made))
    return made


normalize_quantize = _operator(
    "normalize_quantize(Tensor values, Tensor mean, Tensor inv_std, int bits, int group, int seed) "
    "-> (Tensor, Tensor, Tensor)",
    _normalize_quantize,
    lambda values, mean, inv_std, bits, group, seed: _empty_codes(values, bits, group),
)
dequantize_affine_ = _operator(
    "dequantize_affine_(Tensor codes, Tensor minima, Tensor steps, int bits, int group, Tensor weight, Tensor bias, "
    "Tensor(a!) out) -> ()",
    _dequantize_affine_,
)
quantize_fixed = _operator(
    "quantize_fixed(Tensor values, Tensor step, int bits, int seed) -> Tensor", _quantize_fixed, _fake_quantize_fixed
)
dequantize_fixed_ = _operator(
    "dequantize_fixed_(Tensor codes, Tensor step, int bits, Tensor(a!) out) -> ()", _dequantize_fixed_
)
pack_positive_ = _operator("pack_positive_(Tensor values, Tensor(a!) mask) -> ()", _pack_positive_)
unpack_bits = _operator("unpack_bits(Tensor mask, SymInt count) -> Tensor", _unpack_bits, _fake_unpack_bits)
pack_regions_ = _operator("pack_regions_(Tensor values, float low, float high, Tensor(a!) codes) -> ()", _pack_regions_)
unpack_regions = _operator("unpack_regions(Tensor codes, SymInt count) -> Tensor", _unpack_regions, _fake_unpack_bits)
channel_statistics = _operator(
    "channel_statistics(Tensor values) -> (Tensor, Tensor)", _channel_statistics, _fake_channel_statistics
)
affine_relu_ = _operator(
    "affine_relu_(Tensor values, Tensor scale, Tensor shift, Tensor(a!) out, Tensor(b!)? mask) -> ()", _affine_relu_
)
rebuild_activation_ = _operator(
    "rebuild_activation_(Tensor values, Tensor scale, Tensor shift, Tensor mask, Tensor(a!) out, str activation) -> ()",
    _rebuild_activation_,
)
subtract_norm_terms_ = _operator(
    "subtract_norm_terms_(Tensor(a!) target, Tensor values, Tensor mean, Tensor constant, Tensor slope) -> ()",
    _subtract_norm_terms_,
)
norm_backward_ = _operator(
    "norm_backward_(Tensor d_out, Tensor values, Tensor mean, Tensor inv_std, Tensor scale, Tensor shift, "
    "Tensor? mask, Tensor(a!) target, bool accumulate, str activation) -> (Tensor, Tensor)",
    _norm_backward_,
    _fake_norm_backward_,
)
max_pool_positions = _operator(
    "max_pool_positions(Tensor values, int[] kernel, int[] stride, int[] padding, int[] dilation) -> (Tensor, Tensor)",
    _max_pool_positions,
    _fake_max_pool_positions,
)
max_pool_gradient = _operator(
    "max_pool_gradient(Tensor d_out, Tensor codes, SymInt[] shape, int[] kernel, int[] stride, int[] padding, "
    "int[] dilation) -> Tensor",
    _max_pool_gradient,
    lambda d_out, codes, shape, *_: d_out.new_empty(shape),
)
