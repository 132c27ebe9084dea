"""Images made from a seed: each class is a coarse colour pattern under noise, so a model can learn them; no file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zoo.data.image_data import ImageData, channel_statistics

CLASSES, SIZE, COARSE = 10, 32, 4
CONTRAST, NOISE = 30.0, 50.0  # pixel levels: one pixel says nothing, the whole image says its class


def load_synthetic(train_size: int = 2000, test_size: int = 500, seed: int = 0) -> ImageData:
    """Train and test images, 3x32x32, of 10 classes of equal number (to one image).

    Args:
        train_size: images, at least 1.
        test_size: images, at least 1.
        seed: of the patterns, the labels' order and the noise.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> load_synthetic(train_size=20, test_size=10).train_images.shape
        (20, 3, 32, 32)
    """
    if train_size < 1 or test_size < 1:
        raise ValueError(f"train_size={train_size} and test_size={test_size} must be at least 1")
    rng = np.random.default_rng(seed)
    coarse = rng.choice([-CONTRAST, CONTRAST], size=(CLASSES, 3, COARSE, COARSE))
    patterns = coarse.repeat(SIZE // COARSE, axis=2).repeat(SIZE // COARSE, axis=3)
    train_images, train_labels = _draw(patterns, train_size, rng)
    test_images, test_labels = _draw(patterns, test_size, rng)
    mean, std = channel_statistics(train_images)
    return ImageData(
        name="synthetic",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=tuple(f"pattern {number}" for number in range(CLASSES)),
        mean=mean,
        std=std,
        augmentation="none",
    )


def _draw(
    patterns: NDArray[np.float64], number: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    labels = rng.permutation(np.arange(number, dtype=np.int64) % CLASSES)
    noise = rng.standard_normal((number, 3, SIZE, SIZE), dtype=np.float32) * np.float32(NOISE)
    pixels = 128 + patterns[labels].astype(np.float32) + noise
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), labels
