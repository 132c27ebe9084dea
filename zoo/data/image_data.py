"""A labelled image data set in memory: the one form in which every data set reaches every framework."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AUGMENTATIONS = ("crop_flip", "crop", "none")
STATISTICS_CHUNK = 2048  # images counted at a time: bincount widens its input to 8 bytes a pixel


@dataclass(frozen=True, eq=False)
class ImageData:
    """Train and test images with their labels.

    Args:
        name: the data set's name, such as "cifar10".
        train_images: uint8, (images, channels, height, width).
        train_labels: int64, (images,), each in 0..len(classes)-1.
        test_images: as train_images, same channels and size.
        test_labels: as train_labels.
        classes: the name of each class.
        mean: per channel, of pixel/255 over the train images.
        std: per channel, of pixel/255 over the train images; above 0.
        augmentation: what `augment` may do to a train image without changing its class:
            "crop_flip" (shift and mirror), "crop" (shift) or "none".

    Raises:
        TypeError, ValueError: naming the data set, the field, what came and what is needed.
    """

    name: str
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: str

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            _check_images(f"{self.name}: {part}_images", images)
            _check_labels(f"{self.name}: {part}_labels", labels, len(images), len(self.classes))
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise ValueError(
                f"{self.name}: train images are {self.train_images.shape[1:]} and test images "
                f"{self.test_images.shape[1:]}; both must have the same channels, height and width"
            )
        channels = self.train_images.shape[1]
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(f"{self.name}: mean {self.mean} and std {self.std} need {channels} values, one a channel")
        if not all(value > 0 for value in self.std):
            raise ValueError(f"{self.name}: every std must be above 0, not {self.std}")
        if self.augmentation not in AUGMENTATIONS:
            known = ", ".join(AUGMENTATIONS)
            raise ValueError(f"{self.name}: augmentation must be one of {known}, not {self.augmentation!r}")

    def split(self, valid_size: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of the train images that train and of those that validate: disjoint, shuffled, the same for a seed.

        Args:
            valid_size: images to validate with, from 0 to one less than there are train images.
            seed: 0 or more.

        Returns:
            (train indices, validation indices), int64.

        Raises:
            TypeError, ValueError: a size or seed that is no such integer.

        Example:
            >>> import zoo.data
            >>> [len(part) for part in zoo.data.load("synthetic").split(valid_size=200, seed=0)]
            [1800, 200]
        """
        return check_split(self.name, len(self.train_images), valid_size, seed)

    @property
    def train_inputs(self) -> NDArray[np.uint8]:
        """The train images, by the name every kind of data has."""
        return self.train_images

    @property
    def test_inputs(self) -> NDArray[np.uint8]:
        """The test images, by the name every kind of data has."""
        return self.test_images

    def prepare(self, inputs: NDArray[np.uint8], rng: np.random.Generator | None = None) -> NDArray[np.float32]:
        """As the models take them: normalised, and with `rng` augmented before."""
        from zoo.data.augment import augment, normalise  # which import this module

        augmented = inputs if rng is None else augment(inputs, self.augmentation, rng)
        return normalise(augmented, self.mean, self.std)


def check_split(name: str, total: int, valid_size: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """See `ImageData.split`, for any kind of samples."""
    for field, value in (("valid_size", valid_size), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{field} must be an integer, not {value!r}")
        if value < 0:
            raise ValueError(f"{field} must be 0 or more, not {value}")
    if valid_size >= total:
        raise ValueError(
            f"valid_size={valid_size} leaves nothing to train on: {name} has {total} train images; "
            f"give a valid_size from 0 to {total - 1}"
        )
    order = np.random.default_rng(seed).permutation(total).astype(np.int64)
    return order[: total - valid_size], order[total - valid_size :]


def channel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixel/255 per channel, from exact integer counts; a constant channel gets std 1.

    Args:
        images: uint8, (images, channels, height, width).

    Example:
        >>> channel_statistics(np.array([[[[0, 255]]]], np.uint8))
        ((0.5,), (0.5,))
    """
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), STATISTICS_CHUNK):
            chunk = images[start : start + STATISTICS_CHUNK, channel]
            counts += np.bincount(chunk.reshape(-1), minlength=256)
        share = counts / counts.sum()
        mean = float(share @ levels)
        means.append(mean)
        # A constant channel has nothing to scale; 1 keeps `normalise` free of a division by zero.
        stds.append(float(np.sqrt(share @ (levels - mean) ** 2)) if np.count_nonzero(counts) > 1 else 1.0)
    return tuple(means), tuple(stds)


def _check_images(where: str, images: object) -> None:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        raise TypeError(f"{where} must be a uint8 array, not {getattr(images, 'dtype', type(images).__name__)}")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"{where} must be (images, channels, height, width), none of them 0, not {images.shape}")


def _check_labels(where: str, labels: object, images: int, classes: int) -> None:
    if not isinstance(labels, np.ndarray) or labels.dtype != np.int64:
        raise TypeError(f"{where} must be an int64 array, not {getattr(labels, 'dtype', type(labels).__name__)}")
    if labels.shape != (images,):
        raise ValueError(f"{where} must have the shape ({images},), one label an image, not {labels.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"{where} run from {labels.min()} to {labels.max()}; needed is 0..{classes - 1}")
