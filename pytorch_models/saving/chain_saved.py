"""What a chain of units keeps for its backward pass, in the flat form `save_for_backward` takes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pytorch_models.saving.own import mark_own
from pytorch_models.saving.statistics import Statistics


class SavedChain:
    """What a chain keeps, by unit; everything passes through `save_for_backward`.

    Hooks, version checks and memory trackers so see each tensor.
    """

    def __init__(self, units: int) -> None:
        self.values: list[Tensor | None] = [None] * units
        self.statistics: list[Statistics | None] = [None] * units
        self.has_outputs = False
        self.outputs: Tensor | None = None
        self.parameters: tuple[Tensor | None, ...] = ()

    def store(self, ctx: Any, outputs: Tensor | None, parameters: tuple[Tensor | None, ...]) -> None:
        """Hand everything to autograd; which positions hold statistics stays on `ctx`."""
        ctx.has_statistics = tuple(statistics is not None for statistics in self.statistics)
        vectors = [vector for statistics in self.statistics if statistics is not None for vector in statistics]
        mark_own((outputs, *self.values))
        ctx.save_for_backward(outputs, *self.values, *vectors, *parameters)

    @classmethod
    def restore(cls, ctx: Any) -> SavedChain:
        """What `store` kept, unpacked."""
        saved = cls(len(ctx.has_statistics))
        saved.outputs, *rest = ctx.saved_tensors
        units = len(saved.values)
        saved.values, remaining = rest[:units], iter(rest[units:])
        for index, has in enumerate(ctx.has_statistics):
            if has:
                saved.statistics[index] = (next(remaining), next(remaining), next(remaining))
        saved.parameters = tuple(remaining)
        return saved
