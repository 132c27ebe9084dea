"""The tensors a fused Function keeps, by name, in the flat form `save_for_backward` takes."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class SavedTensors:
    """Per-layer dictionaries plus the tensors all layers share; everything passes through `save_for_backward`,

    so that saved-tensor hooks, version checks and memory trackers see each of them.
    """

    def __init__(self, layers: int) -> None:
        self.layers: list[dict[str, Tensor | None]] = [{} for _ in range(layers)]
        self.features: Tensor
        self.mean: Tensor | None = None
        self.variance: Tensor | None = None
        self.parameters: tuple[Tensor | None, ...] = ()

    def store(self, ctx: Any, features: Tensor, parameters: tuple[Tensor | None, ...]) -> None:
        """Hand everything to autograd; the layout (names and positions) stays on `ctx`."""
        ctx.saved_layout = [list(layer) for layer in self.layers]
        ctx.saved_parameters = len(parameters)
        per_layer = [tensor for layer in self.layers for tensor in layer.values()]
        ctx.save_for_backward(features, self.mean, self.variance, *parameters, *per_layer)

    @classmethod
    def restore(cls, ctx: Any) -> SavedTensors:
        """What `store` kept, unpacked."""
        features, mean, variance, *rest = ctx.saved_tensors
        saved = cls(len(ctx.saved_layout))
        saved.features, saved.mean, saved.variance = features, mean, variance
        saved.parameters = tuple(rest[: ctx.saved_parameters])
        remaining = iter(rest[ctx.saved_parameters :])
        saved.layers = [{name: next(remaining) for name in names} for names in ctx.saved_layout]
        return saved
