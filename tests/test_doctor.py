"""`zoo doctor`: it says what works, notices what does not, and survives a framework that takes its process down."""

from __future__ import annotations

import json
import subprocess

import pytest

import zoo
from kernels import BACKENDS
from zoo import doctor, frameworks
from zoo.frameworks import FRAMEWORKS, Framework

BROKEN = Framework("broken", "broken_models", module="json", distribution="numpy", extra="demo")
ABSENT = Framework("absent", "absent_models", module="no_such_module", distribution="no-such-package", extra="absent")


def answer(monkeypatch: pytest.MonkeyPatch, returncode: int, stdout: str = "", stderr: str = "") -> None:
    """Let the process that exercises a framework end like this."""
    done = subprocess.CompletedProcess([], returncode, stdout, stderr)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **settings: done)


@pytest.mark.skipif(frameworks.why_missing(FRAMEWORKS["torch"]) is not None, reason="torch is not installed")
@pytest.mark.slow  # `zoo doctor` itself runs among the README's commands
def test_a_framework_that_works_is_exercised() -> None:
    text, healthy = doctor.diagnose()
    assert healthy
    torch_line = next(line for line in text.splitlines() if line.startswith("  torch "))
    assert str(frameworks.installed_version("torch")) in torch_line
    assert "works: saved" in torch_line
    assert f"memory-efficient-zoo {zoo.__version__}" in text
    assert "  torch: " in text  # what it says about CUDA
    assert "numpy" in text


def test_backends_of_the_kernels_are_run() -> None:
    for name in BACKENDS:
        check = doctor.check_kernels(name)
        assert check.works is not False, check.detail
        assert check.works or name == "cuda"
    assert doctor.check_kernels("reference").detail == "the definition, in NumPy alone"


def test_a_broken_backend_is_found_by_running_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FRAMEWORKS", {"absent": ABSENT})
    monkeypatch.setattr(doctor, "BACKENDS", {"broken": "broken"})
    text, healthy = doctor.diagnose()
    assert not healthy
    assert "  broken       -              BROKEN: ValueError: kernels: unknown backend 'broken'" in text


def test_a_backend_that_takes_its_process_down_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, -6)
    check = doctor.check_kernels("cpu")
    assert (check.works, check.detail) == (False, "its process was killed by signal 6")


def test_a_framework_that_is_not_installed_is_no_fault() -> None:
    check = doctor.check(ABSENT)
    assert (check.works, check.version) == (None, None)
    assert check.detail == "absent is not installed: pip install 'memory-efficient-zoo[absent]'"


def test_a_broken_framework_is_found_by_running_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FRAMEWORKS", {"broken": BROKEN, "absent": ABSENT})
    text, healthy = doctor.diagnose()  # the child knows no framework of this name, and says so
    assert not healthy
    assert "BROKEN: ValueError: unknown framework 'broken'" in text
    assert "absent: absent is not installed" in text


@pytest.mark.parametrize(
    ("returncode", "stderr", "words"),
    [
        (-11, "", "killed by signal 11"),
        (1, "Traceback ...\n  x\nImportError: libcudart.so.12: cannot open\nnoise\n", "ImportError: libcudart.so.12"),
        (3, "something odd", "ended with 3: something odd"),
    ],
)
def test_how_a_framework_failed_is_said(
    monkeypatch: pytest.MonkeyPatch, returncode: int, stderr: str, words: str
) -> None:
    answer(monkeypatch, returncode, stderr=stderr)
    check = doctor.check(BROKEN)
    assert check.works is False
    assert words in check.detail


@pytest.mark.parametrize(("efficient", "works"), [(5, True), (10, False)])
def test_saving_nothing_is_broken(monkeypatch: pytest.MonkeyPatch, efficient: int, works: bool) -> None:
    found = {"plain_bytes": 10, "efficient_bytes": efficient, "cuda": "no driver"}
    answer(monkeypatch, 0, stdout=f"noise\n{json.dumps(found)}\n")
    check = doctor.check(BROKEN)
    assert (check.works, check.cuda, check.asked_cuda) == (works, "no driver", True)


def test_a_framework_that_hangs_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*arguments: object, timeout: float, **settings: object) -> None:
        raise subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    check = doctor.check(BROKEN, timeout_seconds=7)
    assert (check.works, check.detail) == (False, "no answer to a tiny training step within 7 s")
