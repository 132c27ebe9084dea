"""The wheel with nothing but what it asks for: the command, the errors, and each framework's demo."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from email import message_from_bytes
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest

from zoo.frameworks import FRAMEWORKS, why_missing

pytest.importorskip("packaging", reason="what the wheel needs is read with packaging, which pytest brings along")
from linked_environment import closure, make_environment, requirements_of

ROOT = Path(__file__).resolve().parents[2]
TINY = ("--data", "synthetic", "--depth", "10", "--growth_rate", "4", "--n_epochs", "1", "--device", "cpu")


def environment(folder: Path, wheel: Path, *extras: str) -> Path:
    """The interpreter of an environment with the wheel and these extras; demo.py lies beside it."""
    with ZipFile(wheel) as archive:
        about = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        needed = requirements_of(message_from_bytes(archive.read(about)), set(extras))  # type: ignore[arg-type]
    try:
        python = make_environment(folder / "environment", wheel, closure(needed))
    except metadata.PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed here, so that it cannot be linked")
    shutil.copy(ROOT / "demo.py", folder)
    return python


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In the folder of the environment, which holds no source of the project but demo.py."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(python), "-W", "error::ImportWarning", *arguments]
    return subprocess.run(
        command, cwd=python.parents[2], env=clean, capture_output=True, text=True, timeout=400, check=False
    )


def test_without_a_framework_the_command_works_and_says_what_to_install(built: dict[str, Path], tmp_path: Path) -> None:
    python = environment(tmp_path, built["wheel"])
    where = run(python, "-c", "import zoo, kernels, sys; print(zoo.__file__); print(sys.prefix)").stdout.split()
    assert Path(where[0]).is_relative_to(where[1])
    for arguments in (("list",), ("--help",), ("measure", "--help")):
        command = subprocess.run([python.with_name("zoo"), *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert (command.returncode, command.stderr) == (0, ""), arguments
    assert "densenet121" in run(python, "-m", "zoo", "list").stdout
    for framework in FRAMEWORKS:
        found = run(python, "-m", "zoo", "measure", "densenet_bc_40_12", "--framework", framework)
        assert found.returncode == 2
        assert f"pip install 'memory-efficient-zoo[{framework}]'" in found.stderr or "no wheels" in found.stderr
        assert "Traceback" not in found.stderr
    found = run(python, "demo.py", *TINY)
    assert found.returncode == 1
    assert found.stderr == "demo.py: fire is not installed: pip install 'memory-efficient-zoo[demo]'\n"


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_framework_alone_lists_helps_and_trains(built: dict[str, Path], tmp_path: Path, framework: str) -> None:
    missing = why_missing(FRAMEWORKS[framework])
    if missing:
        pytest.skip(missing)
    python = environment(tmp_path, built["wheel"], FRAMEWORKS[framework].extra, "demo")
    others = [row.module for row in FRAMEWORKS.values() if row.name != framework]
    code = f"import importlib.util as u; print([u.find_spec(name) is not None for name in {others}])"
    assert run(python, "-c", code).stdout.strip() == "[False, False]"
    for arguments in (("-m", "zoo", "list"), ("-m", "zoo", "--help"), ("demo.py", "--help"), ("-m", "zoo", "doctor")):
        found = run(python, *arguments)
        assert found.returncode == 0, found.stdout + found.stderr
    found = run(python, "demo.py", "--framework", framework, *TINY, "--efficient", "True", "--save", "saved")
    assert found.returncode == 0, found.stderr
    assert "accuracy" in found.stdout
    assert (tmp_path / "saved" / "metrics.csv").exists()


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_pip_installs_one_framework_alone(built: dict[str, Path], tmp_path: Path, framework: str) -> None:
    """As a user does it: hundreds of MB, from pip's cache where they are there."""
    missing = why_missing(FRAMEWORKS[framework])
    if missing:
        pytest.skip(missing)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "environment")], check=True, timeout=60)
    python = tmp_path / "environment" / "bin" / "python"
    asked = f"{built['wheel']}[{FRAMEWORKS[framework].extra},demo]"
    # Not compiled ahead: that takes longer than all else, and most of these files are never imported.
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "-c",
        str(ROOT / "constraints.txt"),
        asked,
    ]
    done = subprocess.run(install, capture_output=True, text=True, timeout=1200)
    if "No matching distribution" in done.stderr or "connection" in done.stderr.lower():
        pytest.skip(f"no package index to install from: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    shutil.copy(ROOT / "demo.py", tmp_path)
    found = run(python, "demo.py", "--framework", framework, *TINY, "--efficient", "True")
    assert found.returncode == 0, found.stderr
