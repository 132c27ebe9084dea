"""Compressed training in mmengine's Runner, from a config file: `custom_imports = dict(imports=[...this module...])`.

mmengine finds hooks, models and data sets in registries that modules fill when they are imported: the one place of this
project that does so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

import zoo
import zoo.data
from pytorch_models.checkpoint import give_learnt, take_learnt
from pytorch_models.compressed import Controller, compress
from zoo.data.image_data import ImageData
from zoo.experiment import in_colour
from zoo.schemes import HOOKS as BY_HOOKS
from zoo.schemes import find_scheme

LEARNT = "compression"  # a checkpoint's key


@HOOKS.register_module()
class CompressionHook(Hook):
    """Stores what the runner's model saves for its backward pass in few bits.

    Args:
        scheme: "L3", "gact:4", "autoquantz": see `zoo.schemes`. By a gact scheme a `Controller` works on the model from
            the first epoch to the end of the run; by any other the model's layers are converted before the run.

    Example:
        >>> CompressionHook("gact:2").scheme.bits
        2
    """

    priority = "VERY_HIGH"

    def __init__(self, scheme: str | int = "L3") -> None:
        self.scheme = find_scheme(scheme)
        self.controller: Controller | None = None

    def before_run(self, runner: Any) -> None:
        """Convert the model, or make its controller."""
        model = _unwrapped(runner.model)
        if self.scheme.way != BY_HOOKS:
            if getattr(model, "compression", None) is None:
                compress(model, self.scheme)
            return
        self.controller = Controller(model, default_bit=self.scheme.bits)
        self.controller.filter_tensors(model.named_parameters())

    def before_train_epoch(self, runner: Any) -> None:
        """Begin to pack."""
        if self.controller is not None and not self.controller.is_installed:
            self.controller.install()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """End of an optimiser step."""
        if self.controller is not None:
            self.controller.iterate()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """What was learnt goes into the runner's checkpoint, so that a resumed run goes on from it."""
        checkpoint[LEARNT] = take_learnt(_unwrapped(runner.model), 1)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Go on from a checkpoint's; in several processes all from the first one's."""
        if checkpoint.get(LEARNT):
            give_learnt(_unwrapped(runner.model), checkpoint[LEARNT], 0)

    def after_run(self, runner: Any) -> None:
        """Leave the model as it was, or say what its layers kept."""
        if self.controller is not None:
            self.controller.uninstall()
            return
        compression = getattr(_unwrapped(runner.model), "compression", None)
        if compression is not None and compression.report():
            runner.logger.info(f"compressed {self.scheme}: {compression.average_bits:.2f} bits a value on average")


@HOOKS.register_module()
class ActNNHook(CompressionHook):
    """`CompressionHook` with the argument of MMLab's: `default_bit` bits by saved-tensor hooks."""

    def __init__(self, default_bit: int = 4) -> None:
        super().__init__(f"gact:{default_bit}")


@MODELS.register_module()
class ZooClassifier(BaseModel):
    """A classifier of this zoo as mmengine's models are called.

    Args:
        name: one of `zoo.list_models()`.
        options: of `zoo.create_model`.

    Example:
        >>> model = ZooClassifier("resnet20", num_classes=10)
        >>> sorted(model(torch.randn(4, 3, 32, 32), torch.arange(4), mode="loss"))
        ['loss']
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()
        self.network = zoo.create_model(name, **options)

    def forward(self, images: Tensor, targets: Tensor, mode: str = "tensor") -> Any:
        """Class scores, or in mode "loss" the cross entropy."""
        scores = self.network(images)
        return {"loss": F.cross_entropy(scores, targets)} if mode == "loss" else scores


@DATASETS.register_module()
class ZooImages(Dataset):
    """Training images of one of the zoo's data sets, normalised, in colour.

    Args:
        data: "mnist5k", "cifar10", "digits", "synthetic": see `zoo.data.load`.
        limit: so many images; None = all.
        options: of `zoo.data.load`.

    Example:
        >>> image, target = ZooImages("synthetic", limit=8)[0]
        >>> tuple(image.shape)
        (3, 32, 32)
    """

    def __init__(self, data: str = "mnist5k", limit: int | None = None, **options: Any) -> None:
        found = zoo.data.load(data, **options)
        if not isinstance(found, ImageData):
            raise ValueError(f"ZooImages: {data!r} is a text: give a data set of images, such as 'mnist5k'")
        loaded = in_colour(found)
        self.images, self.targets = loaded.train_images[:limit], loaded.train_labels[:limit]
        self.mean, self.std = (torch.as_tensor(v, dtype=torch.float32) for v in (loaded.mean, loaded.std))

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(self.images[index].copy()).float() / 255
        return (image - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1), int(self.targets[index])

    def __len__(self) -> int:
        return len(self.images)


def _unwrapped(model: Any) -> Any:
    """The model inside a wrapper for several processes."""
    return model.module if hasattr(model, "module") else model
