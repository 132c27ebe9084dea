"""Small networks of every family, for tests that every family must pass: one row a shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from tiny_densenet import assert_same as assert_near
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pytorch_models import LSTM, DenseNet, MobileNetV2, ResNet


@dataclass(frozen=True)
class Family:
    """A row of the conformance table.

    Args:
        build: memory flags -> a model, with fresh weights.
        inputs: shape of the inputs, the batch first.
        flags: sets of memory flags that must not change a number.
    """

    build: Callable[..., nn.Module]
    inputs: tuple[int, ...]
    flags: tuple[Mapping[str, Any], ...] = ({"efficient": True, "keep_bottleneck": True}, {"efficient": True})


_LEVELS = tuple({"opt_memory": level} for level in (3, 4))
_DENSENET = {"growth_rate": 4, "block_config": (3, 2), "num_init_features": 6, "bn_size": 2, "num_classes": 5}
_RESNET = {"layers": (2, 2), "width": 8, "num_classes": 5}
_BOTTLENECK = {**_RESNET, "block": "bottleneck"}
_LSTM = {"input_size": 3, "hidden_size": 4, "num_classes": 5}
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "densenet": Family(
            partial(DenseNet, **_DENSENET, drop_rate=0.2), (5, 3, 12, 12), flags=(*Family.flags, *_LEVELS)
        ),
        "densenet, large images": Family(partial(DenseNet, **_DENSENET, small_inputs=False), (4, 3, 40, 40)),
        "resnet": Family(partial(ResNet, **_RESNET), (5, 3, 12, 12)),
        "resnet, bottlenecks, large images": Family(partial(ResNet, **_BOTTLENECK, small_inputs=False), (4, 3, 40, 40)),
        "resnet, grouped": Family(partial(ResNet, **_BOTTLENECK, groups=4, width_per_group=32), (4, 3, 12, 12)),
        "resnet, padding": Family(partial(ResNet, **_RESNET, shortcut="padding"), (5, 3, 12, 12)),
        "resnet, pre-activation": Family(partial(ResNet, **_BOTTLENECK, pre_activation=True), (5, 3, 12, 12)),
        "resnet, keras": Family(partial(ResNet, **_BOTTLENECK, small_inputs=False, flavour="keras"), (4, 3, 40, 40)),
        "lstm": Family(partial(LSTM, **_LSTM, drop_rate=0.2), (5, 1, 40, 3), flags=({"efficient": True},)),
        "lstm, bidirectional": Family(
            partial(LSTM, **_LSTM, bidirectional=True), (5, 1, 40, 3), flags=({"efficient": True},)
        ),
        "mobilenet_v2": Family(partial(MobileNetV2, width_mult=0.1, num_classes=5), (6, 3, 64, 64)),
    }
)


def pair_of(
    family: Family, flags: Mapping[str, Any], dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[nn.Module, nn.Module]:
    """A plain model and one with the flags, same weights, norms away from their defaults."""
    torch.manual_seed(seed)
    plain = family.build().to(dtype)
    with torch.no_grad():
        for module in plain.modules():
            if isinstance(module, _BatchNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
    other = family.build(**flags).to(dtype)
    other.load_state_dict(plain.state_dict())
    return plain, other


def inputs_of(family: Family, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    """Random inputs of the family's shape."""
    return torch.randn(family.inputs, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def norms_of(model: nn.Module) -> list[_BatchNorm]:
    """All batch norms."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    """As its namesake; a thousandth of the largest value counts as nothing.

    The gradient of a bias that a later norm takes off again is 0: only its terms' rounding is there.
    """
    largest = max(float(tensor.double().abs().max()) for tensor in expected.values())
    assert_near(found, expected, tolerance, floor=max(1e-2, 1e-3 * largest))
