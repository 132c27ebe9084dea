"""What PyTorch cannot train, refused before any work begins."""

from __future__ import annotations

import importlib.util

from torch import nn

from pytorch_models.devices import check_device
from zoo.data.text_data import Data
from zoo.options import TrainingOptions


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
