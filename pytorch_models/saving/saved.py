"""The tensors a fused Function keeps, by name, in the flat form `save_for_backward` takes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pytorch_models.saving.own import mark_own


class SavedTensors:
    """Per-layer dictionaries plus the tensors all layers share; everything passes through `save_for_backward`,

    so that saved-tensor hooks, version checks and memory trackers see each of them. What belongs to the block's inputs
    stands in a dictionary after the last layer's.
    """

    def __init__(self, layers: int) -> None:
        self.layers: list[dict[str, Tensor | None]] = [{} for _ in range(layers + 1)]
        self.features: Tensor | None = None
        self.mean: Tensor | None = None
        self.variance: Tensor | None = None
        self.parameters: tuple[Tensor | None, ...] = ()

    def store(self, ctx: Any, features: Tensor | None, parameters: tuple[Tensor | None, ...]) -> None:
        """Hand everything to autograd; the layout (names and positions) stays on `ctx`."""
        ctx.saved_layout = [list(layer) for layer in self.layers]
        ctx.saved_parameters = len(parameters)
        per_layer = [tensor for layer in self.layers for tensor in layer.values()]
        mark_own((features, *per_layer))
        ctx.save_for_backward(features, self.mean, self.variance, *parameters, *per_layer)

    @classmethod
    def restore(cls, ctx: Any) -> SavedTensors:
        """What `store` kept, unpacked."""
        features, mean, variance, *rest = ctx.saved_tensors
        saved = cls(len(ctx.saved_layout) - 1)
        saved.features, saved.mean, saved.variance = features, mean, variance
        saved.parameters = tuple(rest[: ctx.saved_parameters])
        remaining = iter(rest[ctx.saved_parameters :])
        saved.layers = [{name: next(remaining) for name in names} for names in ctx.saved_layout]
        return saved

    def keep_parts(self, index: int, name: str, parts: tuple[Tensor, ...]) -> None:
        """Keep what a codec made of one tensor."""
        self.layers[index].update({f"{name}/{number}": part for number, part in enumerate(parts)})

    def parts(self, index: int, name: str) -> tuple[Tensor, ...]:
        """What `keep_parts` kept, in its order."""
        found = (part for key, part in self.layers[index].items() if key.startswith(f"{name}/"))
        return tuple(part for part in found if part is not None)
