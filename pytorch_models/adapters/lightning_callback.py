"""Compressed training in Lightning: `Trainer(callbacks=[CompressionCallback("L3")])`."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback
from torch import nn

from pytorch_models.checkpoint import give_learnt, take_learnt
from pytorch_models.compressed import compress
from zoo.schemes import Scheme, find_scheme

LEARNT = "compression"  # a checkpoint's key


class CompressionCallback(Callback):
    """Converts a LightningModule's network before it is trained.

    Args:
        scheme: "L3", "gact:4", "autoquantz": see `zoo.schemes`.
        module: name of the network inside the LightningModule; "" = the LightningModule itself, whose `forward` its
            `training_step` then has to call.

    Raises:
        AttributeError: no such network.

    Example:
        >>> CompressionCallback("gact:2").scheme.bits
        2
    """

    def __init__(self, scheme: str | int | Scheme = "L3", module: str = "model") -> None:
        self.scheme, self.module = find_scheme(scheme), module

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Convert, once, and only to train."""
        network: nn.Module = pl_module.get_submodule(self.module)
        if stage == "fit" and getattr(network, "compression", None) is None:
            compress(network, self.scheme)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """What was learnt goes into the checkpoint, so that a resumed run goes on from it."""
        checkpoint[LEARNT] = take_learnt(pl_module.get_submodule(self.module), 1)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Go on from a checkpoint's."""
        give_learnt(pl_module.get_submodule(self.module), checkpoint.get(LEARNT, ()), 0)
