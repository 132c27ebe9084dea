"""README's commands and code do what they say, on a small scale."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL_LINES = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
CHEAP = [line for line in SHELL_LINES if line.startswith("python -m zoo")]


def run(arguments: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=250)


@pytest.mark.parametrize("code", PYTHON_BLOCKS)
def test_python_blocks_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the README's code uses PyTorch")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "README"})


@pytest.mark.parametrize("line", CHEAP)
def test_zoo_commands_run(line: str) -> None:
    pytest.importorskip("torch", reason="the README's commands use PyTorch")
    found = run(shlex.split(line)[1:])
    assert found.returncode == 0, found.stderr
    assert found.stdout


def test_every_make_target_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", "\n".join(re.findall(r"`[^`]*`|```sh.*?```", README, re.DOTALL)))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_demo_lines_have_known_flags() -> None:
    lines = [line for line in SHELL_LINES if line.startswith("python demo.py")]
    assert len(lines) >= 4
    listed = run(["demo.py", "--help"]).stdout
    for flag in re.findall(r"--([a-z_]+)", " ".join(lines)):
        assert f"--{flag} " in listed, flag
