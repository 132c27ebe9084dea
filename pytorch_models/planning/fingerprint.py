"""What a plan is for: a short text that two models share if, and only if, they have the same architecture."""

from __future__ import annotations

import hashlib

from torch import nn

from pytorch_models.zoo_model import ZooModel
from zoo.planner.adapt import fingerprint_of_spec
from zoo.weights import strip_wrappers


def fingerprint_of(model: nn.Module) -> str:
    """Of a zoo model, its family's config, which every framework has; of another, its modules and parameters.

    Example:
        >>> fingerprint_of(nn.Linear(2, 3)) == fingerprint_of(nn.Linear(2, 3)) != fingerprint_of(nn.Linear(3, 2))
        True
    """
    inner = model
    while not isinstance(inner, ZooModel) and isinstance(getattr(inner, "module", None), nn.Module):
        inner = inner.module  # type: ignore[assignment]
    if isinstance(inner, ZooModel):
        return fingerprint_of_spec(inner.spec)
    lines = [f"{strip_wrappers(name)} {type(module).__name__}" for name, module in inner.named_modules()]
    lines += [f"{strip_wrappers(name)} {tuple(p.shape)}" for name, p in inner.named_parameters()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
