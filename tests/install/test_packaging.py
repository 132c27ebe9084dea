"""What the wheel and the source archive hold, and what the wheel says of itself."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import zoo

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("zoo", "kernels", "pytorch_models", "tf_models", "mxnet_memonger")
SOURCES = (".py", ".cu", ".cuh", ".typed")


@pytest.fixture(scope="module")
def in_wheel(built: dict[str, Path]) -> set[str]:
    with zipfile.ZipFile(built["wheel"]) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_source_of_the_packages_and_nothing_else(in_wheel: set[str]) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in SOURCES
    }
    about = {name for name in in_wheel if name.partition("/")[0].endswith(".dist-info")}
    assert in_wheel - about == expected
    assert {f"{package}/py.typed" for package in PACKAGES} <= in_wheel
    assert {"kernels/quantize.cu", "kernels/quantizer.cuh"} <= in_wheel


def test_the_wheel_names_its_command_version_and_extras(built: dict[str, Path], in_wheel: set[str]) -> None:
    with zipfile.ZipFile(built["wheel"]) as archive:
        texts = {name.rpartition("/")[2]: archive.read(name) for name in in_wheel if ".dist-info/" in name}
    assert "zoo = zoo.__main__:main" in texts["entry_points.txt"].decode()
    said = message_from_bytes(texts["METADATA"])
    assert (said["Name"], said["Version"], said["License-Expression"]) == (
        "memory-efficient-zoo",
        zoo.__version__,
        "Apache-2.0",
    )
    assert {"torch", "tensorflow", "mxnet", "demo", "cuda12", "cuda13"} <= set(said.get_all("Provides-Extra"))
    assert "LICENSE" in texts


def test_the_source_archive_holds_what_its_tests_need(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("this is no git checkout: what belongs to the sources is not known")
    expected = {name for name in tracked.stdout.split() if (ROOT / name).exists()}
    assert expected - names <= {".gitignore"}
    assert not [name for name in names if "__pycache__" in name or ".venv" in name]
