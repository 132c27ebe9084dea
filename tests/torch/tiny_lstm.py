"""LSTMs small enough for many comparisons, the same plain and efficient, and all that one training step computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pytorch_models import LSTM

TINY: dict[str, Any] = {"input_size": 3, "hidden_size": 5, "num_layers": 2, "num_classes": 4}
STEPS, SAMPLES = 37, 4


def pair(seed: int = 0, dtype: torch.dtype = torch.float64, **shape: Any) -> tuple[LSTM, LSTM]:
    """A plain and an efficient model of the same weights."""
    torch.manual_seed(seed)
    plain = LSTM(**{**TINY, **shape}).to(dtype)
    efficient = LSTM(**{**TINY, **shape}, efficient=True).to(dtype)
    efficient.load_state_dict(plain.state_dict())
    return plain, efficient


def batch(model: LSTM, steps: int = STEPS, seed: int = 1) -> tuple[Tensor, ...]:
    """Random sequences in the model's dtype; tokens and targets for a language model."""
    generator = torch.Generator().manual_seed(seed)
    if model.spec.is_language_model:
        shape = (SAMPLES, steps)
        classes = model.spec.num_classes
        return tuple(torch.randint(classes, shape, generator=generator) for _ in range(2))
    dtype = model.classifier.weight.dtype
    return (torch.randn(SAMPLES, steps, model.spec.input_size, dtype=dtype, generator=generator),)


def step(model: LSTM, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Outputs and gradients of one step by name, and the next random number."""
    torch.manual_seed(5)
    inputs = tuple(t.clone().requires_grad_(t.is_floating_point()) for t in inputs)
    outputs = model(*inputs)
    found: dict[str, Tensor] = {}
    if isinstance(outputs, tuple):
        outputs, found["right"] = outputs
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs) + 0.5
    (outputs * weights).sum().backward()
    found |= {"outputs": outputs.detach(), "random": torch.rand(1)}
    if inputs[0].is_floating_point():
        found["inputs"] = inputs[0].grad
    gradients = {f"gradient of {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found | gradients
