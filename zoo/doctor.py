"""What is installed here and whether it works, found by running it: the text of `python -m zoo doctor`."""

from __future__ import annotations

import ctypes.util
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kernels import BACKENDS, self_test
from zoo import FAMILIES, __version__, find_config, frameworks, list_models
from zoo.frameworks import FRAMEWORKS, Framework
from zoo.policy import MemoryPolicy

PYTHONS = ((3, 11), (3, 13))
EXERCISE_SECONDS = 180
EXERCISE_SHAPE = (16, 3, 64, 64)  # of less, TensorFlow does not tell what it allocates
# What the core and the demo use, by their names on the package index.
PACKAGES = ("numpy", "fire", "matplotlib", "mlxtend", "scikit-learn", "tqdm")
_GIB = 2**30


@dataclass(frozen=True)
class Check:
    """How one framework or one backend of the kernels does here.

    Args:
        name: the framework, or the backend of the kernels.
        version: installed version; None = not installed, or unknown.
        works: True = a training step, or the kernels, ran; False = installed and broken; None = not installed.
        detail: what was measured, or why not and what to do.
        cuda: why its GPU cannot be used; None = it can, or nobody could ask.
        asked_cuda: whether the framework was able to say.
    """

    name: str
    version: str | None
    works: bool | None
    detail: str
    cuda: str | None = None
    asked_cuda: bool = False


def diagnose() -> tuple[str, bool]:
    """The report as text, and False if something that is installed does not work. Takes seconds per framework."""
    checks, backends = [check(row) for row in FRAMEWORKS.values()], [check_kernels(name) for name in BACKENDS]
    lines = [
        f"memory-efficient-zoo {__version__}",
        *_machine(),
        "",
        "Frameworks (one training step each, plain and efficient)",
    ]
    lines += [_line(one) for one in checks]
    lines += ["", "Kernels (a few of each backend beside the definition)", *(_line(one) for one in backends)]
    lines += ["", "GPU", *_gpu(checks), "", "Packages"]
    lines += [f"  {name:<14} {found or 'absent'}" for name, found in _packages().items()]
    lines += ["", "Models", *(f"  {family}: {', '.join(list_models(family))}" for family in FAMILIES)]
    if all(one.works is None for one in checks):
        lines += ["", "No framework is installed: models can be listed, not built. " + checks[0].detail]
    return "\n".join(lines), all(one.works is not False for one in (*checks, *backends))


def _line(one: Check) -> str:
    words = {True: "works", False: "BROKEN", None: "absent"}
    return f"  {one.name:<12} {one.version or '-':<14} {words[one.works]}: {one.detail}"


def check(row: Framework, timeout_seconds: float = EXERCISE_SECONDS) -> Check:
    """Run a training step of a tiny model in a process of its own, which a broken framework may take down with it."""
    version = frameworks.installed_version(row.distribution)
    missing = frameworks.why_missing(row)
    if missing:
        return Check(row.name, version, None, missing)
    found = _answer(f"_exercise_here({row.name!r})", "a tiny training step", timeout_seconds)
    if isinstance(found, str):
        return Check(row.name, version, False, found)
    plain, efficient = found["plain_bytes"], found["efficient_bytes"]
    detail = f"saved {efficient} bytes efficient, {plain} plain"
    if efficient >= plain:
        return Check(row.name, version, False, f"efficient=True saves nothing ({detail})", found["cuda"], True)
    return Check(row.name, version, True, detail, found["cuda"], True)


def check_kernels(backend: str, timeout_seconds: float = EXERCISE_SECONDS) -> Check:
    """Run a few kernels of a backend in a process of its own, beside `kernels.reference`."""
    found = _answer(f"_run_kernels_here({backend!r})", "a few kernels", timeout_seconds)
    if isinstance(found, str):
        return Check(backend, None, False, found)
    return Check(backend, found["version"], found["works"], found["detail"])


def _answer(call: str, what: str, timeout_seconds: float) -> dict[str, Any] | str:
    """What a function of this module wrote in a process of its own; why there is no answer."""
    command = [sys.executable, "-c", f"from zoo import doctor; doctor.{call}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    try:
        child = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout_seconds, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"no answer to {what} within {timeout_seconds:g} s"
    if child.returncode != 0:
        return _last_words(child)
    answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return answer


def exercise(framework: str) -> dict[str, int | str | None]:
    """Bytes a tiny DenseNet saves for the backward pass, plain and efficient; why there is no GPU (None = there is)."""
    package = frameworks.load(framework)
    package.set_seed(0)
    config = find_config("densenet_bc_40_12", growth_rate=4, block_config=(3, 3), num_init_features=8)
    saved = [
        package.measure_step(
            package.build_model(config, MemoryPolicy(efficient)), EXERCISE_SHAPE, repeats=1
        ).saved_bytes
        for efficient in (False, True)
    ]
    try:
        package.check_device("cuda", False)
        no_cuda = None
    except (ValueError, RuntimeError) as error:
        no_cuda = str(error)
    return {"plain_bytes": saved[0], "efficient_bytes": saved[1], "cuda": no_cuda}


def _exercise_here(framework: str) -> None:
    found = json.dumps(exercise(framework))
    sys.stdout.write(f"\n{found}\n")


def _run_kernels_here(backend: str) -> None:
    found = json.dumps(asdict(self_test.state_of(backend)))
    sys.stdout.write(f"\n{found}\n")


def _last_words(child: subprocess.CompletedProcess[str]) -> str:
    if child.returncode < 0:
        return f"its process was killed by signal {-child.returncode}"
    words = [line for line in child.stderr.splitlines() if re.match(r"\S*(Error|Exception|Interrupt)\b", line)]
    return words[-1] if words else f"its process ended with {child.returncode}: {child.stderr.strip()[-200:]}"


def _machine() -> list[str]:
    here = platform.python_version()
    oldest, newest = (".".join(map(str, python)) for python in PYTHONS)
    supported = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    note = "" if supported else f" (not supported: {oldest} to {newest} are)"
    return [
        f"Python {here}{note}, {platform.system()} {platform.machine()}, {sys.executable}",
        f"{_cores()} cores, {_memory()} of memory",
    ]


def _cores() -> int:
    # What this process may use, which in a container is often less than what the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "an unknown amount"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / _GIB:.1f} GiB"


def _gpu(checks: list[Check]) -> list[str]:
    driver = ctypes.util.find_library("cuda") or ctypes.util.find_library("nvcuda")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    lines = [
        f"  NVIDIA driver library: {driver or 'not found'}",
        f"  CUDA_VISIBLE_DEVICES: {'not set' if visible is None else repr(visible)}",
    ]
    return lines + [f"  {one.name}: {one.cuda or 'CUDA can be used'}" for one in checks if one.asked_cuda]


def _packages() -> Mapping[str, str | None]:
    return {name: frameworks.installed_version(name) for name in PACKAGES}
