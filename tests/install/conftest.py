"""The wheel and the source archive, built once from a copy of the project."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NO_SOURCE = (".git", ".venv", "runs", "data", "build", "dist", "site", "__pycache__", "*_cache", "*.egg-info")


def ignored(folder: str, names: list[str]) -> set[str]:
    """What is no source; below the top, data is a package."""
    return shutil.ignore_patterns(*NO_SOURCE)(folder, names) - ({"data"} if Path(folder) != ROOT else set())


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Paths of the "wheel" and the "sdist"."""
    pytest.importorskip("setuptools", minversion="77", reason="the build backend is setuptools 77 or newer")
    folder = tmp_path_factory.mktemp("built")
    copy = shutil.copytree(ROOT, folder / "project", ignore=ignored)
    program = (
        "from setuptools import build_meta\n"
        f"names = build_meta.build_sdist({str(folder)!r}), build_meta.build_wheel({str(folder)!r})\n"
        f"open({str(folder / 'names')!r}, 'w').write(' '.join(names))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=copy, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    sdist, wheel = (folder / "names").read_text().split()
    return {"sdist": folder / sdist, "wheel": folder / wheel}
