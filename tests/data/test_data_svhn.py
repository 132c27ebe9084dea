"""SVHN from tiny files in the official MATLAB format; damaged ones; the package that reads them missing."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from range_server import running

import zoo.data
from zoo.data import svhn

pytest.importorskip("scipy", reason="the files are MATLAB's, which scipy reads")
from scipy.io import savemat

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32)).astype(np.uint8)
MARKS = np.array([[1], [9], [10], [3], [10], [5]], np.uint8)
GOOD = {"X": IMAGES.transpose(2, 3, 1, 0), "y": MARKS}


def write(folder: Path, test: Mapping[str, object] = GOOD, compressed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / "train_32x32.mat", GOOD, do_compression=compressed)
    savemat(folder / "test_32x32.mat", test, do_compression=compressed)
    return folder


@pytest.mark.quick
@pytest.mark.parametrize("place", ["", "svhn"])
def test_official_files(place: str, tmp_path: Path) -> None:
    write(tmp_path / place)
    data = zoo.data.load("svhn", tmp_path, download=False)
    np.testing.assert_array_equal(data.train_images, IMAGES, strict=True)
    assert data.train_labels.tolist() == data.test_labels.tolist() == [1, 9, 0, 3, 0, 5]
    assert data.train_images.flags.c_contiguous
    assert data.augmentation == "crop"
    np.testing.assert_allclose(data.mean, (IMAGES / 255).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.std, (IMAGES / 255).std((0, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"X": GOOD["X"]}, "has no array y"),
        ({"z": 1}, "has no array X and no array y"),
        ({"X": GOOD["X"][:31], "y": MARKS}, r"X must be uint8 \(32, 32, 3, images\), not uint8 \(31, 32, 3, 6\)"),
        ({"X": GOOD["X"].astype(float), "y": MARKS}, r"X must be uint8 .*not float64"),
        ({"X": GOOD["X"], "y": MARKS[:-1]}, "6 images and 5 labels"),
        ({"X": GOOD["X"], "y": np.zeros((6, 1), np.uint8)}, r"labels must be whole numbers in 1\.\.10"),
        ({"X": GOOD["X"], "y": np.full((6, 1), 11, np.uint8)}, r"labels must be whole numbers in 1\.\.10"),
        ({"X": GOOD["X"], "y": np.full((6, 1), 1.5)}, r"labels must be whole numbers in 1\.\.10"),
    ],
)
def test_wrong_content(content: Mapping[str, object], message: str, tmp_path: Path) -> None:
    write(tmp_path, content)
    with pytest.raises(ValueError, match=rf"test_32x32\.mat.*{message}.*Delete it and download it again: http"):
        zoo.data.load("svhn", tmp_path)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.9, 0.999])
def test_truncated_file(share: float, compressed: bool, tmp_path: Path) -> None:
    path = write(tmp_path, compressed=compressed) / "test_32x32.mat"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"test_32x32\.mat.*eb5a983be6a315427106f1b164d9cef3"):
        zoo.data.load("svhn", tmp_path)


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (write(tmp_path / "source") / "train_32x32.mat").read_bytes()
    for name in ("TRAIN", "TEST"):
        monkeypatch.setattr(svhn, name, replace(getattr(svhn, name), md5=hashlib.md5(content).hexdigest()))
    with running(content) as server:
        data = zoo.data.load("svhn", tmp_path / "data", url_base=server.url, progress=False)
    np.testing.assert_array_equal(data.test_images, IMAGES)
    assert [path for path, _ in server.requests] == ["/files/train_32x32.mat", "/files/test_32x32.mat"]


def test_without_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for use in (zoo.data.check, zoo.data.load):
        with pytest.raises(ImportError, match=r"pip install 'memory-efficient-zoo\[demo\]'"):
            use("svhn", tmp_path)
