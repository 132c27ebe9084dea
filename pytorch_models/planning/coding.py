"""A part of any library that keeps in few bits, or in host memory, what its operators save; by GACT's rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pytorch_models.compressed.gact import Controller
from pytorch_models.compression import NoiseSeeds


class Coded:
    """`module` (or its `forward`) as a function that keeps in `bits` bits what may be rounded; outputs are unchanged.

    Args:
        bits: None = nothing is rounded, and what may be moves to host memory, and back for the backward pass.
        seeds: of the rounding; one for all parts of a model, so that no two parts round alike.

    Example:
        >>> layer = nn.Conv2d(8, 8, 3)
        >>> images = torch.randn(4, 8, 16, 16)
        >>> bool((Coded(layer, 4, NoiseSeeds())(images) == layer(images)).all())
        True
    """

    def __init__(
        self, module: nn.Module, bits: int | None, seeds: NoiseSeeds, forward: Callable[..., Any] | None = None
    ) -> None:
        self.module, self.bits, self.seeds = module, bits, seeds
        self.forward = forward or module
        self.controller: Controller | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it; without gradients, just that."""
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        away = self.bits is None
        self.controller = Controller(bits=self.bits or 8, keep_values=away, swap=away, seeds=self.seeds)
        with self.controller.recording():
            return self.forward(*args, **kwargs)

    def kept(self) -> list[Tensor]:
        """What the last run saved and still keeps."""
        return [] if self.controller is None else self.controller.kept()
