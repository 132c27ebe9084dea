"""A DenseNet small enough for finite differences, and a comparison of two of them that raises."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pytorch_models import DenseNet

TINY = {"growth_rate": 4, "block_config": (3, 2), "num_init_features": 6, "bn_size": 2, "num_classes": 5}


def pair(seed: int = 0, dtype: torch.dtype = torch.float64, **flags: Any) -> tuple[DenseNet, DenseNet]:
    """A plain model and one with the memory flags among `flags`, same weights, norms away from their defaults."""
    shape = {name: flags.pop(name) for name in list(flags) if name in ("bn_size", "small_inputs", "drop_rate")}
    torch.manual_seed(seed)
    plain = DenseNet(**{**TINY, **shape}).to(dtype)
    with torch.no_grad():
        for module in plain.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.normal_(1, 0.5)
                module.bias.normal_(0, 0.5)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
    other = DenseNet(**{**TINY, **shape}, **flags).to(dtype)
    other.load_state_dict(plain.state_dict())
    return plain, other


def images(samples: int = 5, size: int = 12, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    """Random images (samples, 3, size, size)."""
    return torch.randn(samples, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def step(model: nn.Module, inputs: Tensor, needs_input: bool = True) -> dict[str, Tensor]:
    """Outputs, gradients and buffers of one forward and backward pass, and the next random number, by name."""
    torch.manual_seed(5)
    inputs = inputs.clone(memory_format=torch.preserve_format).requires_grad_(needs_input)
    outputs = model(inputs)
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)
    (outputs * weights).sum().backward()
    found = {"outputs": outputs.detach(), "random": torch.rand(1)}
    if needs_input:
        found["inputs"] = inputs.grad
    found |= {f"gradient of {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    return found | {f"buffer {n}": b.clone() for n, b in model.named_buffers()}


def worst_difference(found: dict[str, Tensor], expected: dict[str, Tensor], floor: float = 1e-2) -> tuple[float, str]:
    """The largest difference over all named tensors, relative to each one's largest value, and whose it is.

    Values below `floor` count as `floor`: a gradient that cancels to nearly nothing is rounding alone.
    """
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    differences = {}
    for name, tensor in expected.items():
        scale = tensor.double().abs().max().clamp_min(floor)
        differences[name] = float((found[name].double() - tensor.double()).abs().max() / scale)
    name = max(differences, key=differences.__getitem__)
    return differences[name], name


def assert_same(
    found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12, floor: float = 1e-2
) -> None:
    """Raise unless every tensor agrees within `tolerance`, relative to its largest value or `floor`."""
    difference, name = worst_difference(found, expected, floor)
    assert difference <= tolerance, f"{name} differs by {difference:.2e}, allowed {tolerance:.0e}"


def assert_only_gradients_differ(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise unless all but the gradients of a `step` is equal to the bit, and these are finite."""
    for name in expected:
        if "gradient" not in name and name != "inputs":
            assert torch.equal(found[name], expected[name]), name
        else:
            assert torch.isfinite(found[name]).all(), name


def gradients(model: nn.Module, inputs: Tensor) -> Tensor:
    """All parameters' gradients, one after the other."""
    model.zero_grad()
    outputs = model(inputs)
    (outputs * torch.linspace(-1, 1, outputs.numel()).view_as(outputs)).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def same_but_compressed(compressed: int | str, dtype: torch.dtype = torch.float32, **flags: Any) -> Any:
    """A model with the flags, and one with compression on top: same weights."""
    _, exact = pair(dtype=dtype, **flags)
    _, coded = pair(dtype=dtype, **flags, compressed=compressed)
    return exact, coded
