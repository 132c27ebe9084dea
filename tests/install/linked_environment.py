"""Environments that hold the built wheel and exactly what its metadata asks for, without a download.

What a distribution needs is linked from the environment that runs the tests. What the metadata forgets is missing
there, as it would be on a user's machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

NAME = "memory-efficient-zoo"


def requirements_of(wheel_metadata: metadata.PackageMetadata, extras: set[str]) -> list[Requirement]:
    """What the wheel needs with these extras."""
    return _that_hold(wheel_metadata.get_all("Requires-Dist") or [], extras)


def closure(wanted: list[Requirement]) -> dict[str, metadata.Distribution]:
    """These distributions and all that they need, as installed here.

    Raises:
        PackageNotFoundError: one is not installed here.
    """
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    while wanted:
        one = wanted.pop()
        extras = one.extras or {""}
        fresh = {extra for extra in extras if (one.name, extra) not in seen}
        seen |= {(one.name, extra) for extra in fresh}
        if fresh:
            found[one.name] = metadata.distribution(one.name)
            wanted += _that_hold(found[one.name].requires or [], fresh | {""})
    return found


def _that_hold(lines: list[str], extras: set[str]) -> list[Requirement]:
    requirements = [Requirement(line) for line in lines]
    ways = [{"extra": extra} for extra in extras | {""}]
    return [one for one in requirements if one.marker is None or any(one.marker.evaluate(way) for way in ways)]


def make_environment(folder: Path, wheel: Path, distributions: dict[str, metadata.Distribution]) -> Path:
    """An environment with the wheel installed and the distributions linked; its interpreter."""
    venv.EnvBuilder(symlinks=True).create(folder)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True, timeout=60)
    here = Path(sysconfig.get_path("purelib"))
    there = folder / here.relative_to(sys.prefix)
    for distribution in distributions.values():
        for path in distribution.files or []:
            # Up and out of the folder of packages are scripts, which are not needed, and libraries such as TBB's.
            entry = Path(path) if path.parts[0] == ".." else Path(path.parts[0])
            target = Path(os.path.normpath(there / entry))
            if "bin" not in entry.parts and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(os.path.normpath(here / entry))
    return python
