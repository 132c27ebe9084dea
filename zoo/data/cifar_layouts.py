"""Where the files of CIFAR-10 and CIFAR-100 may lie and what they are called: four official layouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.data.datasets import RemoteFile

URL_BASE = "https://www.cs.toronto.edu/~kriz"


@dataclass(frozen=True)
class CifarLayout:
    """One official archive: its address, the folder inside it, and the files that hold images."""

    dataset: str
    pickled: bool  # else binary records
    archive: RemoteFile
    folder: str
    train: tuple[str, ...]
    test: str

    @property
    def files(self) -> tuple[str, ...]:
        """All files that hold images."""
        return (*self.train, self.test)


def _remote(name: str, md5: str) -> RemoteFile:
    return RemoteFile(name, URL_BASE, md5)


# In the order in which they are looked for; the first of a data set is the one that is downloaded.
LAYOUTS = (
    CifarLayout(
        dataset="cifar10",
        pickled=True,
        archive=_remote("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test="test_batch",
    ),
    CifarLayout(
        dataset="cifar10",
        pickled=False,
        archive=_remote("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test="test_batch.bin",
    ),
    CifarLayout(
        dataset="cifar100",
        pickled=True,
        archive=_remote("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
        folder="cifar-100-python",
        train=("train",),
        test="test",
    ),
    CifarLayout(
        dataset="cifar100",
        pickled=False,
        archive=_remote("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
        folder="cifar-100-binary",
        train=("train.bin",),
        test="test.bin",
    ),
)


def layouts_of(dataset: str) -> tuple[CifarLayout, ...]:
    """The layouts of "cifar10" or "cifar100", the downloaded one first."""
    return tuple(layout for layout in LAYOUTS if layout.dataset == dataset)


def locate(folder: Path, layouts: Sequence[CifarLayout]) -> Path | None:
    """The folder of files or the archive of one of `layouts` in `folder`, or `folder` itself; None if there is nothing.

    No file is read.

    Raises:
        FileNotFoundError: a layout of which some files are there and others are missing, naming them.
    """
    incomplete: list[str] = []
    for layout in layouts:
        for candidate in (folder, folder / layout.folder):
            missing = [name for name in layout.files if not (candidate / name).is_file()]
            if not missing:
                return candidate
            if len(missing) < len(layout.files):
                incomplete.append(f"{candidate} lacks {', '.join(missing)}")
    for layout in layouts:
        if (folder / layout.archive.name).is_file():
            return folder / layout.archive.name
    if incomplete:
        raise FileNotFoundError(
            f"{'; '.join(incomplete)}: unpack the whole archive there, or remove these files to use the archive itself"
        )
    return None


def locate_in_path(path: Path) -> Path:
    """The CIFAR folder or archive that a person means by `path`: an archive, or what lies in a folder.

    Raises:
        FileNotFoundError: no such path, or a folder without CIFAR files, naming what was looked for.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist: give a folder that holds CIFAR-10, or its tar.gz")
    found = locate(path, LAYOUTS)
    if found is None:
        wanted = ", ".join(name for layout in LAYOUTS for name in (layout.archive.name, f"{layout.folder}/"))
        raise FileNotFoundError(
            f"{path} holds no CIFAR-10: looked for {wanted} and for the files of these folders themselves "
            f"({LAYOUTS[0].train[0]} ... {LAYOUTS[0].test})"
        )
    return found
