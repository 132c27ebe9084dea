"""Compressed training in Hugging Face's Trainer: `Trainer(..., callbacks=[CompressionCallback("gact:4")])`."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback

from pytorch_models.compressed import Controller, compress
from zoo.schemes import HOOKS, Scheme, find_scheme


class CompressionCallback(TrainerCallback):
    """Stores what the trained model saves for its backward pass in few bits.

    Args:
        scheme: "gact:4", "L3": see `zoo.schemes`. A gact scheme ends with the training; by any other the model's layers
            are converted and stay so.

    Example:
        >>> CompressionCallback("gact:2").scheme.bits
        2
    """

    def __init__(self, scheme: str | int | Scheme = "gact:4") -> None:
        self.scheme = find_scheme(scheme)
        self.controller: Controller | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Begin to pack."""
        model: nn.Module = given["model"]
        if self.scheme.way == HOOKS:
            self.controller = Controller(model, default_bit=self.scheme.bits)
            self.controller.install()
        elif getattr(model, "compression", None) is None:
            compress(model, self.scheme)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End of an optimiser step."""
        if self.controller is not None:
            self.controller.iterate()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave the model as it was."""
        if self.controller is not None:
            self.controller.uninstall()
