"""Packing operators: schemas and fakes are true, and codes come back as what they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytorch_models import kernel_ops, packing_ops
from pytorch_models.compressed import codes


def calls() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    rows = torch.randn(3, 300, generator=torch.Generator().manual_seed(0))
    coded = packing_ops.quantize_rows(rows, [1, 2, 8], 256, 3)
    image = rows.view(3, 6, 50)
    ones = torch.ones(6)
    one = kernel_ops.normalize_quantize(image, ones * 0, ones, 2, 256, 7)
    mask = torch.arange(113, dtype=torch.uint8)
    step = torch.full((6,), 0.1)
    fixed = packing_ops.quantize_channels(rows.view(-1), step, 5, True, 50, 3)
    integers = torch.arange(40).to(torch.uint16)
    packed = packing_ops.pack_integers(integers, 6)
    zeros, kept = packing_ops.zero_compress(rows.relu().view(-1))
    out = torch.empty(900)
    return {
        "quantize_rows": (packing_ops.quantize_rows, (rows, [1, 2, 8], 256, 3)),
        "dequantize_rows_": (packing_ops.dequantize_rows_, (*coded[:3], [1, 2, 8], 256, torch.empty(3, 300))),
        "dequantize_masked_": (
            packing_ops.dequantize_masked_,
            (*one, 2, 256, ones, ones, mask, torch.empty_like(image)),
        ),
        "quantize_channels": (packing_ops.quantize_channels, (rows.view(-1), step, 5, True, 50, 3)),
        "dequantize_channels_": (packing_ops.dequantize_channels_, (fixed, step, 5, True, 50, out)),
        "zero_expand": (packing_ops.zero_expand, (zeros, kept, 900)),
        "pack_integers": (packing_ops.pack_integers, (integers, 6)),
        "unpack_integers": (packing_ops.unpack_integers, (packed, 6, 40)),
    }


@pytest.mark.parametrize("name", calls())
def test_schemas_and_fakes_are_true(name: str) -> None:
    operator, arguments = calls()[name]
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (3, 257), (2, 3, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_shape_comes_back(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.randn(shape, dtype=dtype)
    for tensor in (values, values.transpose(0, 1), values[..., ::2]):
        kept = codes.pack_values(tensor, (8,), 5)
        found = kept.unpack()
        assert found.shape == tensor.shape
        assert found.dtype == dtype
        spread = float(tensor.max() - tensor.min()) if tensor.numel() else 0.0
        # A group's smallest value is kept in bfloat16, rounded down: a lone value is a range of its own.
        top = float(tensor.abs().max()) * 2**-7 if tensor.numel() else 0.0
        assert not tensor.numel() or (found - tensor).abs().max().item() <= (spread + top) / 200 + 1e-6
        assert torch.equal(codes.pack_mask(tensor).unpack(), (tensor > 0).to(dtype))


def test_constant_and_nan_values() -> None:
    values = torch.full((2, 300), 3.0)
    assert torch.equal(codes.pack_values(values, (1,), 5).unpack(), values)
    values[0, 0] = float("nan")
    found = codes.pack_values(values, (2, 2), 5).unpack()
    assert found[0, :256].isnan().all()
    assert torch.equal(found[1], values[1])


def test_masked_and_affine_codes_are_the_unfused() -> None:
    values = torch.randn(4, 6, 8, 8).contiguous(memory_format=torch.channels_last)
    kept = codes.pack_normalised(values, values.mean((0, 2, 3)), values.var((0, 2, 3)).rsqrt(), (4,), 9)
    mask = codes.pack_mask(values)
    assert isinstance(mask.code, codes.MaskCode)
    masked = codes.MaskedCode(kept.code, mask.code).unpack((*kept.parts, *mask.parts))
    assert torch.allclose(masked, kept.unpack() * (values > 0), atol=1e-6)
    assert (kept.unpack() - values).abs().max() < 0.7
