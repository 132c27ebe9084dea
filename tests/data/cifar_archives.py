"""Writes tiny archives and folders in the four official CIFAR forms, with pickles as Python 2 wrote them."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import zoo.data
from zoo.data.cifar import CLASSES

Images, Labels = NDArray[np.uint8], NDArray[np.int64]
FOLDERS = {
    ("cifar10", "python"): "cifar-10-batches-py",
    ("cifar10", "binary"): "cifar-10-batches-bin",
    ("cifar100", "python"): "cifar-100-python",
    ("cifar100", "binary"): "cifar-100-binary",
}


def random_images(number: int, classes: int, seed: int) -> tuple[Images, Labels]:
    """Images (number, 3, 32, 32) and labels of which one is the highest."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, number)
    labels[0] = classes - 1
    return rng.integers(0, 256, (number, 3, 32, 32)).astype(np.uint8), labels.astype(np.int64)


def python2_text(content: bytes) -> bytes:
    """A `str` of Python 2, as its pickle, protocol 2."""
    if len(content) < 256:
        return b"U" + bytes([len(content)]) + content
    return b"T" + struct.pack("<i", len(content)) + content


def python2_pickle(images: Images, labels: Labels, label_key: str) -> bytes:
    """An official batch as Python 2 and NumPy 1 pickled it: a dict of `data`, labels, `batch_label`, `filenames`."""
    data = images.reshape(len(images), -1)
    shape = b"".join(b"J" + struct.pack("<i", size) for size in data.shape) + b"\x86"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    array += b"(K\x01" + shape + dtype + b"\x89" + python2_text(data.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    names = b"](" + b"".join(python2_text(b"picture_%d.png" % place) for place in range(len(labels))) + b"e"
    fields = {
        "data": array,
        label_key: numbers,
        "batch_label": python2_text(b"training batch 1 of 5"),
        "filenames": names,
    }
    return b"\x80\x02}(" + b"".join(python2_text(key.encode()) + value for key, value in fields.items()) + b"u."


def binary_records(images: Images, labels: Labels, dataset: str) -> bytes:
    """An official binary file; CIFAR-100 has a coarse label (here always 19) before the fine one."""
    columns = [labels.astype(np.uint8)[:, None], images.reshape(len(images), -1)]
    if dataset == "cifar100":
        columns.insert(0, np.full((len(labels), 1), 19, np.uint8))
    return np.concatenate(columns, axis=1).tobytes()


def encode(images: Images, labels: Labels, dataset: str, form: str) -> bytes:
    """One file of `form` "python" or "binary"."""
    if form == "binary":
        return binary_records(images, labels, dataset)
    return python2_pickle(images, labels, "labels" if dataset == "cifar10" else "fine_labels")


def official_files(dataset: str, form: str, images_a_file: int = 3) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """All files of an official folder, by name, with random content; and the arrays that must come out of them."""
    classes = 10 if dataset == "cifar10" else 100
    train_names = [f"data_batch_{number}" for number in range(1, 6)] if dataset == "cifar10" else ["train"]
    test_name = "test_batch" if dataset == "cifar10" else "test"
    suffix = ".bin" if form == "binary" else ""
    parts = [random_images(images_a_file, classes, seed) for seed in range(len(train_names) + 1)]
    names = [*train_names, test_name]
    files = {name + suffix: encode(*part, dataset, form) for name, part in zip(names, parts, strict=True)}
    files["readme.html"] = b"<html>"
    arrays = {
        "train_images": np.concatenate([images for images, _ in parts[:-1]]),
        "train_labels": np.concatenate([labels for _, labels in parts[:-1]]),
        "test_images": parts[-1][0],
        "test_labels": parts[-1][1],
    }
    return files, arrays


def tar_bytes(files: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    """A tar ("w") or tar.gz ("w:gz") of `files`, by the names given."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """`files` as files of `folder`, which is made."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def official_tar(dataset: str, form: str, mode: str = "w:gz", images_a_file: int = 3) -> bytes:
    """The official archive, tiny."""
    files, _ = official_files(dataset, form, images_a_file)
    return tar_bytes({f"{FOLDERS[dataset, form]}/{name}": content for name, content in files.items()}, mode)


def assert_holds(data: zoo.data.ImageData, dataset: str, arrays: dict[str, np.ndarray]) -> None:
    assert data.name == dataset
    assert data.classes == CLASSES[dataset]
    for field, array in arrays.items():
        np.testing.assert_array_equal(getattr(data, field), array, err_msg=field, strict=True)
