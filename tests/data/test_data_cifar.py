"""CIFAR-10 and CIFAR-100 from their official forms; damaged, incomplete and hostile files."""

from __future__ import annotations

import os
import pickle
import tarfile
from pathlib import Path

import cifar_archives as made
import numpy as np
import pytest
from cifar_archives import assert_holds

import zoo.data
from zoo.data.cifar_batches import decode_binary, decode_pickled

FORMS = [("cifar10", "python"), ("cifar10", "binary"), ("cifar100", "python"), ("cifar100", "binary")]
ARCHIVES = {
    ("cifar10", "python"): "cifar-10-python.tar.gz",
    ("cifar10", "binary"): "cifar-10-binary.tar.gz",
    ("cifar100", "python"): "cifar-100-python.tar.gz",
    ("cifar100", "binary"): "cifar-100-binary.tar.gz",
}


def test_the_written_pickles_are_what_the_official_reading_code_expects() -> None:
    images, labels = made.random_images(4, 10, seed=0)
    loaded = pickle.loads(made.python2_pickle(images, labels, "labels"), encoding="bytes")
    np.testing.assert_array_equal(loaded[b"data"], images.reshape(4, -1), strict=True)
    assert loaded[b"labels"] == labels.tolist()


@pytest.mark.quick
@pytest.mark.parametrize(("dataset", "form"), FORMS)
@pytest.mark.parametrize("place", ["data_dir", "outer folder", "folder", "archive in folder", "archive", "plain tar"])
def test_every_official_form_from_every_place(dataset: str, form: str, place: str, tmp_path: Path) -> None:
    files, arrays = made.official_files(dataset, form)
    folder, archive = tmp_path / made.FOLDERS[dataset, form], tmp_path / ARCHIVES[dataset, form]
    if place in ("data_dir", "outer folder", "folder"):
        made.write_folder(folder, files)
    elif place == "plain tar":
        archive = tmp_path / "renamed.tar"
        archive.write_bytes(made.official_tar(dataset, form, "w"))
    else:
        archive.write_bytes(made.official_tar(dataset, form))
    if place == "data_dir":
        data = zoo.data.load(dataset, tmp_path, download=False)
    else:
        sources = {"outer folder": tmp_path, "folder": folder, "archive in folder": tmp_path}
        data = zoo.data.load(str(sources.get(place, archive)), download=False)
    assert_holds(data, dataset, arrays)
    assert data.augmentation == "crop_flip"


def test_cifar10_is_taken_where_both_lie(tmp_path: Path) -> None:
    for dataset in ("cifar100", "cifar10"):
        (tmp_path / ARCHIVES[dataset, "python"]).write_bytes(made.official_tar(dataset, "python"))
    assert zoo.data.load(tmp_path).name == "cifar10"
    assert zoo.data.load("cifar100", tmp_path).name == "cifar100"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_pickles_of_python_3(protocol: int, order: str) -> None:
    images, labels = made.random_images(5, 100, seed=1)
    flat = np.array(images.reshape(5, -1), order=order)  # type: ignore[call-overload]
    content = pickle.dumps({"data": flat, "fine_labels": labels.tolist()}, protocol)
    decoded, decoded_labels = decode_pickled(content, "fine_labels", 100, "file")
    np.testing.assert_array_equal(decoded, images, strict=True)
    np.testing.assert_array_equal(decoded_labels, labels, strict=True)


@pytest.mark.parametrize("package", [b"numpy.core.", b"numpy._core."])
def test_pickles_of_numpy_1_and_2(package: bytes) -> None:
    images, labels = made.random_images(2, 10, seed=1)
    content = made.python2_pickle(images, labels, "labels").replace(b"numpy.core.", package)
    np.testing.assert_array_equal(decode_pickled(content, "labels", 10, "file")[0], images)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o777)


@pytest.mark.quick
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_runs_no_code(protocol: int, tmp_path: Path) -> None:
    files, _ = made.official_files("cifar10", "python")
    files["data_batch_2"] = pickle.dumps({"data": Hostile(tmp_path / "made"), "labels": [1]}, protocol)
    made.write_folder(tmp_path / "cifar-10-batches-py", files)
    with pytest.raises(ValueError, match=r"data_batch_2 .* asks for posix\.mkdir.*do not trust"):
        zoo.data.load(tmp_path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["builtins\neval", "numpy\nload", "numpy\nfromfile", "_codecs\ndecode", "os\nsystem"])
def test_a_pickle_cannot_name_other_functions(name: str) -> None:
    content = f"c{name}\n(S'1'\ntR.".encode()
    with pytest.raises(ValueError, match="asks for " + name.replace("\n", r"\.")):
        decode_pickled(content, "labels", 10, "file")


IMAGES, LABELS = made.random_images(3, 10, seed=2)
FLAT = IMAGES.reshape(3, -1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([1], "file holds a list; needed is a dict"),
        ({"labels": [1, 2, 3]}, "file has no 'data'"),
        ({"data": FLAT}, "file has no 'labels'"),
        ({"data": FLAT[:, :-1], "labels": [1, 2, 3]}, r"shape \(images, 3072\), not \(3, 3071\)"),
        ({"data": FLAT[:0], "labels": []}, r"shape \(images, 3072\), not \(0, 3072\)"),
        ({"data": FLAT.astype(np.float32), "labels": [1, 2, 3]}, "type uint8 .*not 'f4'"),
        ({"data": FLAT.tolist(), "labels": [1, 2, 3]}, "'data' must be an array, not list"),
        ({"data": FLAT, "labels": [1, 2]}, "3 images and 2 labels"),
        ({"data": FLAT, "labels": [1, 2, 10]}, r"labels from 1 to 10; needed is 0\.\.9"),
        ({"data": FLAT, "labels": [1, 2, -1]}, r"labels from -1 to 2; needed is 0\.\.9"),
        ({"data": FLAT, "labels": [1, 2, 10**30]}, r"needed is 0\.\.9"),
        ({"data": FLAT, "labels": [1, 2, 3.0]}, "must be a list of integers"),
        ({"data": FLAT, "labels": "abc"}, "must be a list of integers"),
    ],
)
def test_wrong_fields(fields: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_pickled(pickle.dumps(fields, 3), "labels", 10, "file")


@pytest.mark.parametrize("length", [0, 1, 3072, 3074, 2 * 3073 - 1])
def test_binary_of_a_wrong_length(length: int) -> None:
    with pytest.raises(ValueError, match=rf"file has {length} bytes; needed is a multiple of 3073"):
        decode_binary(bytes(length), 1, 10, "file")


def test_binary_labels_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"file has labels from 10 to 10; needed is 0\.\.9"):
        decode_binary(bytes([10]) + bytes(3072), 1, 10, "file")
    images, labels = decode_binary(bytes([19, 99]) + bytes(3072), 2, 100, "file")
    assert (images.shape, labels.tolist()) == ((1, 3, 32, 32), [99])


@pytest.mark.parametrize("missing", ["data_batch_3", "test_batch"])
def test_incomplete_folder_and_archive(missing: str, tmp_path: Path) -> None:
    files, _ = made.official_files("cifar10", "python")
    del files[missing]
    folder = made.write_folder(tmp_path / "cifar-10-batches-py", files)
    for source in (tmp_path, folder, "cifar10"):
        with pytest.raises(FileNotFoundError, match=f"cifar-10-batches-py lacks {missing}: unpack the whole"):
            zoo.data.check(source, tmp_path)
    archive = tmp_path / "some.tar.gz"
    archive.write_bytes(made.tar_bytes(files))
    with pytest.raises(
        ValueError,
        match=f"some.tar.gz holds no {missing}: not the whole of cifar10. Needed is CIFAR-10's",
    ):
        zoo.data.load(archive)


def test_batches_of_unequal_length(tmp_path: Path) -> None:
    files, _ = made.official_files("cifar10", "binary")
    files["data_batch_4.bin"] = files["data_batch_4.bin"][:3073]
    made.write_folder(tmp_path / "cifar-10-batches-bin", files)
    with pytest.raises(ValueError, match=r"\[3, 3, 3, 1, 3\] images; needed is the same number in each"):
        zoo.data.load(tmp_path)


@pytest.mark.quick
def test_truncated_archive_says_what_to_do(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-binary.tar.gz"
    content = made.official_tar("cifar10", "binary")
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz .*truncated or damaged") as raised:
        zoo.data.load("cifar10", tmp_path)
    assert "Delete it and download it again: https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz" in str(
        raised.value
    )
    assert "c32a1d4ab5d03f1284b67883e8d87530" in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(2000), b"\x1f\x8b", b"<html>" * 500])
def test_what_is_no_archive(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "cifar.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"cifar\.tar (is no tar|holds no)"):
        zoo.data.load(tmp_path / "cifar.tar")


def test_the_other_data_set_under_this_name(tmp_path: Path) -> None:
    (tmp_path / ARCHIVES["cifar10", "python"]).write_bytes(made.official_tar("cifar100", "python"))
    with pytest.raises(ValueError, match=r"holds no data_batch_1.*not the whole of cifar10"):
        zoo.data.load("cifar10", tmp_path)


@pytest.mark.quick
def test_members_with_hostile_paths_write_nothing(tmp_path: Path) -> None:
    files, arrays = made.official_files("cifar10", "binary")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    hostile = {f"../../{name}": content for name, content in files.items()} | {"/absolute/else.bin": b"x"}
    (inner / "c.tar").write_bytes(made.tar_bytes(hostile, "w"))
    assert_holds(zoo.data.load(inner / "c.tar"), "cifar10", arrays)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [inner / "c.tar"]


def test_links_and_repeated_members_are_refused(tmp_path: Path) -> None:
    files, _ = made.official_files("cifar100", "binary")
    archive = tmp_path / "c.tar"
    content = files.pop("test.bin")
    archive.write_bytes(made.tar_bytes(files, "w"))
    with tarfile.open(archive, "a") as tar:
        link = tarfile.TarInfo("test.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(ValueError, match=r"holds no test\.bin"):
        zoo.data.load(archive)
    archive.write_bytes(made.tar_bytes({**files, "test.bin": content, "other/test.bin": content}, "w"))
    with pytest.raises(ValueError, match=r"holds the file test\.bin twice"):
        zoo.data.load(archive)


def test_a_member_that_claims_to_be_huge(tmp_path: Path) -> None:
    member = tarfile.TarInfo("test.bin")
    member.size = 2**33
    archive = tmp_path / "c.tar"
    archive.write_bytes(member.tobuf() + bytes(2048))
    with pytest.raises(ValueError, match="has 8589934592 bytes, more than any official file"):
        zoo.data.load(archive)
