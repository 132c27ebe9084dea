"""Random shifts and mirrors of a batch, and its scaling to floats, in NumPy: the same numbers for every framework."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zoo.data.image_data import AUGMENTATIONS

PADDING = 4  # pixels a shift may move an image, each way (He et al., arXiv:1512.03385, section 4.2)


def augment(images: NDArray[np.uint8], augmentation: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Each image shifted by -4..4 pixels each way (zeros move in) and, for "crop_flip", mirrored with probability 1/2.

    Args:
        images: uint8, (batch, channels, height, width); not changed.
        augmentation: "crop_flip", "crop" or "none".
        rng: where the shifts and mirrors are drawn from: one draw an image of each kind.

    Returns:
        uint8, the same shape; `images` itself for "none".

    Raises:
        TypeError, ValueError: images that are no such array, an unknown augmentation.

    Source: He et al., arXiv:1512.03385, section 4.2.

    Example:
        >>> batch = np.ones((2, 1, 32, 32), np.uint8)
        >>> augment(batch, "crop", np.random.default_rng(0)).shape
        (2, 1, 32, 32)
    """
    _check_batch(images)
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}, not {augmentation!r}")
    if augmentation == "none":
        return images
    shifted = _random_crop(images, rng)
    if augmentation == "crop_flip":
        mirrored = rng.random(len(images)) < 0.5
        shifted[mirrored] = shifted[mirrored, :, :, ::-1]
    return shifted


def normalise(images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """(pixel/255 - mean) / std per channel.

    Args:
        images: uint8, (batch, channels, height, width).
        mean: one value a channel, of pixel/255.
        std: one value a channel, of pixel/255, above 0.

    Returns:
        float32, the same shape.

    Raises:
        TypeError, ValueError: images that are no such array, or not one mean and std a channel.

    Example:
        >>> normalise(np.array([[[[0, 255]]]], np.uint8), mean=[0.5], std=[0.5]).tolist()
        [[[[-1.0, 1.0]]]]
    """
    _check_batch(images)
    channels = images.shape[1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(f"mean and std need {channels} values, one a channel; came {len(mean)} and {len(std)}")
    deviation = np.asarray(std, np.float64)
    if not (deviation > 0).all():
        raise ValueError(f"every std must be above 0, not {tuple(std)}")
    scale = (1 / (255 * deviation)).astype(np.float32)
    shift = (np.asarray(mean, np.float64) / deviation).astype(np.float32)
    result = images.astype(np.float32)
    result *= scale[:, None, None]
    result -= shift[:, None, None]
    return result


def _random_crop(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    batch, _, height, width = images.shape
    down, right = rng.integers(0, 2 * PADDING + 1, size=(2, batch))
    border = (PADDING, PADDING)
    padded = np.pad(images, ((0, 0), (0, 0), border, border))
    rows = np.lib.stride_tricks.sliding_window_view(padded, height, axis=2)
    windows = np.lib.stride_tricks.sliding_window_view(rows, width, axis=3)  # (batch, channels, 9, 9, height, width)
    return windows[np.arange(batch), :, down, right]


def _check_batch(images: object) -> None:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        raise TypeError(f"images must be a uint8 array, not {getattr(images, 'dtype', type(images).__name__)}")
    if images.ndim != 4:
        raise ValueError(f"images must have the shape (batch, channels, height, width), not {images.shape}")
