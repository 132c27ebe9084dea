"""torch.func and forward-mode derivatives of models that save memory: right, the plain way, and said so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_densenet import images, pair
from torch import Tensor, nn
from torch.autograd import forward_ad

from pytorch_models import checkpoint_segments
from pytorch_models.saving import PlainPathWarning

Derivative = Callable[[nn.Module, dict[str, Tensor]], Any]


def gradient(model: nn.Module, parameters: dict[str, Tensor]) -> Any:
    def loss(given: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, given, (images(),)).square().sum()

    return torch.func.grad(loss)(parameters)


def per_sample_gradients(model: nn.Module, parameters: dict[str, Tensor]) -> Any:
    def loss(given: dict[str, Tensor], image: Tensor) -> Tensor:
        return torch.func.functional_call(model, given, (image[None],)).square().sum()

    return torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, images())


def directional(model: nn.Module, parameters: dict[str, Tensor]) -> Any:
    del parameters
    with forward_ad.dual_level():
        outputs = model(forward_ad.make_dual(images(), images(seed=3)))
        return {"tangent": forward_ad.unpack_dual(outputs).tangent}


@pytest.mark.parametrize("derivative", [gradient, per_sample_gradients, directional])
@pytest.mark.parametrize("saves", ["efficient", "segments", "checkpointing"])
def test_derivatives_are_the_plain_models(derivative: Derivative, saves: str) -> None:
    plain, model = pair(efficient=saves == "efficient")
    if saves == "segments":
        checkpoint_segments(model, "features.denseblock*")
    elif saves == "checkpointing":
        model.set_grad_checkpointing()
    parameters = {name: p.detach() for name, p in plain.named_parameters()}
    expected = derivative(plain.eval(), parameters)
    with pytest.warns(PlainPathWarning, match=r"saves no memory: (a torch\.func transform|forward-mode derivatives)"):
        found = derivative(model.eval(), parameters)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)
