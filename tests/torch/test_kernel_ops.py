"""The shared kernels as PyTorch's operators: schemas and fakes are true, and whole networks are exact on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_densenet import assert_same, images, pair, step
from torch import Tensor

from pytorch_models import kernel_ops
from pytorch_models.kernel_arrays import norm_path

C = 6


def values(channels_last: bool = True, dtype: torch.dtype = torch.float32) -> Tensor:
    made = torch.randn(3, C, 5, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    return made.contiguous(memory_format=torch.channels_last) if channels_last else made


def vectors(count: int) -> list[Tensor]:
    return [torch.linspace(0.5, 1.5, C) + number for number in range(count)]


def mask() -> Tensor:
    return torch.arange((3 * C * 5 * 4 + 7) // 8, dtype=torch.uint8)


def calls() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Every operator with arguments that suit it."""
    x, one = values(), vectors(4)
    codes = kernel_ops.normalize_quantize(x, one[0], one[1], 2, 256, 7)
    flat, fixed_step = x.permute(0, 2, 3, 1).reshape(-1).contiguous(), torch.tensor([0.1])
    fixed = kernel_ops.quantize_fixed(flat, fixed_step, 5, 3)
    plane, window = values(False), ([2, 2], [2, 2], [0, 0], [1, 1])
    pooled, positions = kernel_ops.max_pool_positions(plane, *window)
    return {
        "normalize_quantize": (kernel_ops.normalize_quantize, (x, one[0], one[1], 2, 256, 7)),
        "dequantize_affine_": (kernel_ops.dequantize_affine_, (*codes, 2, 256, one[0], one[1], torch.empty_like(x))),
        "quantize_fixed": (kernel_ops.quantize_fixed, (flat, fixed_step, 5, 3)),
        "dequantize_fixed_": (kernel_ops.dequantize_fixed_, (fixed, fixed_step, 5, torch.empty_like(flat))),
        "pack_positive_": (kernel_ops.pack_positive_, (flat, mask())),
        "unpack_bits": (kernel_ops.unpack_bits, (mask(), 3 * C * 5 * 4)),
        "pack_regions_": (kernel_ops.pack_regions_, (flat, 0.0, 6.0, torch.empty(90, dtype=torch.uint8))),
        "unpack_regions": (kernel_ops.unpack_regions, (torch.arange(90, dtype=torch.uint8), 3 * C * 5 * 4)),
        "channel_statistics": (kernel_ops.channel_statistics, (x,)),
        "affine_relu_": (kernel_ops.affine_relu_, (x, one[0], one[1], torch.empty_like(x), mask())),
        "rebuild_activation_": (
            kernel_ops.rebuild_activation_,
            (x, one[0], one[1], mask(), torch.empty_like(x), "relu"),
        ),
        "subtract_norm_terms_": (kernel_ops.subtract_norm_terms_, (values(), x, *one[:3])),
        "norm_backward_": (kernel_ops.norm_backward_, (values(), x, *one, mask(), torch.zeros_like(x), True, "relu")),
        "max_pool_positions": (kernel_ops.max_pool_positions, (plane, *window)),
        "max_pool_gradient": (kernel_ops.max_pool_gradient, (pooled, positions, list(plane.shape), *window)),
    }


@pytest.mark.parametrize("name", calls())
def test_schemas_and_fakes_are_true(name: str) -> None:
    operator, arguments = calls()[name]
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("flags", [{"efficient": True}, {"efficient": True, "keep_bottleneck": True}], ids=str)
@pytest.mark.parametrize("shape", [{}, {"bn_size": 0}, {"small_inputs": False}], ids=str)
def test_networks_are_exact_on_the_kernels(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, bool], shape: dict[str, Any]
) -> None:
    """On a GPU every exact pass runs on them; a CPU has operators that are faster there, and takes those."""
    taken = []

    def path(*tensors: Tensor) -> str:
        taken.append(norm_path(*tensors))
        return taken[-1]

    monkeypatch.setattr("pytorch_models.saving.passes.exact_path", path)
    plain, efficient = pair(**flags, **shape)
    inputs = images(size=32 if shape.get("small_inputs") is False else 12)
    assert_same(step(efficient, inputs), step(plain, inputs))
    assert "numba" in taken
