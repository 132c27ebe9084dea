"""Compressed training in Hugging Face's Trainer: `Trainer(..., callbacks=[CompressionCallback("gact:4")])`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from pytorch_models.checkpoint import give_learnt, load, save, take_learnt
from pytorch_models.compressed import Controller, compress
from zoo.schemes import HOOKS, Scheme, find_scheme

FILE = "compression.pt"  # in a checkpoint's folder


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
            return
        if getattr(model, "compression", None) is None:
            compress(model, self.scheme)
        file = _folder(args, state) / FILE
        if state.global_step and file.exists():
            give_learnt(model, load(file)["states"], 0)

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """What was learnt lies beside the checkpoint, so that a run resumed in its folder goes on from it."""
        states = take_learnt(given["model"], 1)
        if states and state.is_world_process_zero:
            save(_folder(args, state) / FILE, {"states": states})

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End of an optimiser step."""
        if self.controller is not None:
            self.controller.iterate()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave the model as it was."""
        if self.controller is not None:
            self.controller.uninstall()


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
