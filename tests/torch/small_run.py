"""A network and images small enough to train in a blink, and a program that trains them: for tests that kill it."""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from pytorch_models.devices import set_seed  # noqa: E402
from pytorch_models.training import train  # noqa: E402
from zoo.data.image_data import ImageData  # noqa: E402
from zoo.options import TrainingOptions  # noqa: E402
from zoo.run_folder import holds_run  # noqa: E402


class SmallNet(nn.Module):
    """A convolution, norm and dropout if asked for, a classifier; its outputs can be spoiled from some call on."""

    def __init__(self, norm: bool = True, drop_rate: float = 0.0) -> None:
        super().__init__()
        middle = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), middle, nn.ReLU(), nn.Dropout(drop_rate))
        self.head = nn.Linear(8 * 16, 4)
        self.calls, self.spoil_after_calls, self.spoil_by = 0, 10**9, torch.nan

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        pooled = nn.functional.adaptive_avg_pool2d(self.body(images), 4).flatten(1)
        return self.head(pooled) * (self.spoil_by if self.calls > self.spoil_after_calls else 1.0)


def small_data(train: int = 96, test: int = 50) -> ImageData:
    """Images of four classes: noise with one bright quarter."""
    random = np.random.default_rng(5)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(0, 4, count)
        images = random.integers(0, 160, (count, 3, 16, 16), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 2)
            image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 80
        return images, labels

    parts = (*draw(train), *draw(test))
    return ImageData("small", *parts, tuple("abcd"), (0.4, 0.4, 0.4), (0.2, 0.2, 0.2), "crop")


def small_options(**changes: object) -> TrainingOptions:
    """Three epochs of five steps."""
    usual = {"n_epochs": 3, "batch_size": 16, "valid_size": 16, "device": "cpu", "progress": False}
    return TrainingOptions(**{**usual, **changes})  # type: ignore[arg-type]


def main(folder: str) -> None:
    """Train as the tests' uninterrupted run does, or go on with it."""
    set_seed(0)
    model = SmallNet(drop_rate=0.2)
    sys.stdout.write("starts\n")
    sys.stdout.flush()
    train(model, small_data(), small_options(save=folder, resume=holds_run(folder)))


if __name__ == "__main__":
    main(sys.argv[1])
