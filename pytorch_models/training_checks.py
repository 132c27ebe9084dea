"""What ends a training run: refusals before any work begins, and a loss that is no number."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor, nn

from pytorch_models.devices import check_device
from zoo.data.text_data import Data
from zoo.options import TrainingError, TrainingOptions
from zoo.run_folder import RunFolder


def check_training(model: nn.Module, data: Data, options: TrainingOptions) -> None:
    """Refuse what cannot be trained so.

    Raises:
        ValueError: a device that is not there, a split that does not fit, a model with nothing to train.
        ImportError: TensorBoard is asked for and not installed.
    """
    check_device(options.device, options.amp)
    data.split(options.valid_size, options.seed)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the model has no parameter that requires a gradient: nothing would be trained")
    if options.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ImportError("tensorboard=True needs the package tensorboard: pip install tensorboard")


def check_finite(losses: Tensor, epoch: int, options: TrainingOptions, folder: RunFolder | None) -> None:
    """Refuse to go on after a loss that is no number.

    Args:
        losses: of the epoch's steps so far, (steps,).
        folder: the run's, where it holds a checkpoint.

    Raises:
        TrainingError: names the step, the loss, and what is left.
    """
    finite = torch.isfinite(losses)
    if bool(finite.all()):
        return
    step = int((~finite).nonzero()[0])
    kept = "no checkpoint was written before it"
    if folder is not None:
        kept = f"the checkpoint of epoch {epoch - 1} in {folder.folder} is intact"
    raise TrainingError(
        f"epoch {epoch}, step {step + 1}: the training loss is {float(losses[step])}; {kept}. "
        f"Try a smaller --lr (now {options.lr:g})" + (" or --amp False" if options.amp else "")
    )
