"""Street View House Numbers, cropped digits, from the two official MATLAB files.

Netzer, Wang, Coates, Bissacco, Wu, Ng, "Reading digits in natural images" (2011);
http://ufldl.stanford.edu/housenumbers/
"""

from __future__ import annotations

import importlib.util
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data.datasets import RemoteFile
from zoo.data.download import fetch, missing_message
from zoo.data.image_data import ImageData, channel_statistics

URL_BASE = "http://ufldl.stanford.edu/housenumbers"
TRAIN = RemoteFile("train_32x32.mat", URL_BASE, "e26dedcc434d2e4c54c9b2d4a06d8373")
TEST = RemoteFile("test_32x32.mat", URL_BASE, "eb5a983be6a315427106f1b164d9cef3")
SUBFOLDER = "svhn"


def require_scipy() -> None:
    """Checks, without importing it, that the package which reads MATLAB files is there.

    Raises:
        ImportError: it is not; says what to install.
    """
    if importlib.util.find_spec("scipy") is None:
        raise ImportError(
            "data set 'svhn' is read with scipy, which is not installed: pip install 'memory-efficient-zoo[demo]'",
            name="scipy",
        )


def load_svhn(
    data_dir: Path, *, download: bool = True, progress: bool = True, url_base: str | None = None
) -> ImageData:
    """SVHN from `data_dir` or `data_dir`/svhn; downloaded into the latter if it is in neither.

    Args:
        data_dir: holds train_32x32.mat and test_32x32.mat.
        download: False: an error instead of a download.
        progress: write to stderr how far a download is.
        url_base: a mirror instead of the official address.

    Raises:
        ImportError: scipy is missing.
        FileNotFoundError: the files are missing and cannot be downloaded.
        ConnectionError: a download broke halfway.
        ValueError: damaged files or a wrong checksum.
    """
    require_scipy()
    parts = []
    for remote in (TRAIN, TEST):
        path = _find(remote, data_dir)
        if path is None:
            if not download:
                raise FileNotFoundError(missing_message(remote, data_dir / SUBFOLDER, "download=False"))
            path = fetch(remote, data_dir / SUBFOLDER, url_base=url_base, progress=progress)
        parts.append((path, remote))
    (train_images, train_labels), (test_images, test_labels) = (read_mat(*part) for part in parts)
    mean, std = channel_statistics(train_images)
    return ImageData(
        name="svhn",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=tuple("0123456789"),
        mean=mean,
        std=std,
        augmentation="crop",  # a mirrored digit is another sign
    )


def read_mat(path: Path, remote: RemoteFile) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 3, 32, 32), contiguous, and labels 0..9 of one file, which holds X (32, 32, 3, N) and y (N, 1), 1..10.

    Args:
        path: the file.
        remote: what it should be, for messages.

    Raises:
        ValueError: naming the file, what came and what was needed.
    """
    from scipy.io import loadmat  # loaded only when this data set is asked for
    from scipy.io.matlab import MatReadError

    advice = f"Delete it and download it again: {remote.url()} (MD5 {remote.md5})"
    try:
        content = loadmat(str(path), variable_names=("X", "y"))
    except (MatReadError, OSError, zlib.error, ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(f"{path} is truncated, damaged or no MATLAB 5 file: {error}. {advice}") from error
    missing = [name for name in ("X", "y") if name not in content]
    if missing:
        raise ValueError(f"{path} has no array {' and no array '.join(missing)}. {advice}")
    pixels, marks = content["X"], content["y"]
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3) or not pixels.shape[3]:
        raise ValueError(f"{path}: X must be uint8 (32, 32, 3, images), not {pixels.dtype} {pixels.shape}. {advice}")
    if marks.size != pixels.shape[3]:
        raise ValueError(f"{path} has {pixels.shape[3]} images and {marks.size} labels. {advice}")
    labels = marks.reshape(-1)
    if not np.isin(labels, np.arange(1, 11)).all():
        raise ValueError(f"{path}: labels must be whole numbers in 1..10 (10 stands for the digit 0). {advice}")
    return np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)), labels.astype(np.int64) % 10


def _find(remote: RemoteFile, data_dir: Path) -> Path | None:
    candidates = (data_dir / SUBFOLDER / remote.name, data_dir / remote.name)
    return next((path for path in candidates if path.is_file()), None)
