"""The training command at work: what it trains, prints and writes, and how it can be stopped."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
TINY = ("--depth", "10", "--growth_rate", "4", "--batch_size", "32", "--device", "cpu")
SMALL = ("--depth", "22", "--growth_rate", "8", "--batch_size", "32", "--device", "cpu")


def needs(*modules: str) -> None:
    for module in modules:
        pytest.importorskip(module, reason=f"{module} is not installed: pip install 'memory-efficient-zoo[torch,demo]'")


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "demo.py", *arguments]
    return subprocess.Popen(
        command,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def write_cifar10(folder: Path) -> None:
    """The official binary form, with a few random images."""
    random = np.random.default_rng(0)
    (folder / "cifar-10-batches-bin").mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        labels = (np.arange(20) % 10).astype(np.uint8)[:, None]
        records = np.concatenate([labels, random.integers(0, 256, (20, 3072), dtype=np.uint8)], axis=1)
        (folder / "cifar-10-batches-bin" / f"{name}.bin").write_bytes(records.tobytes())


def test_the_command_existing_users_know_trains_and_saves(tmp_path: Path) -> None:
    needs("torch", "fire", "matplotlib")
    write_cifar10(tmp_path / "data")
    folder = tmp_path / "run"
    line = ["--efficient", "True", "--data", str(tmp_path / "data"), "--save", str(folder), "--n_epochs", "2", *TINY]
    code, out, err = finish(start(*line))
    assert (code, err) == (0, "")
    assert "90 training, 10 validation and 20 test images" in out
    assert re.search(r"^epoch 2/2  lr 0.01  train loss .*  valid loss .* images/s$", out, re.MULTILINE)
    assert re.search(r"^test    loss .*, accuracy .* %", out, re.MULTILINE)
    assert not re.search(r"[\r\x1b]", out), "clean lines where there is no terminal"
    names = {"config.json", "metrics.csv", "result.json", "training.png", "best.pt", "last.pt"}
    assert {path.name for path in folder.iterdir()} == names
    config = json.loads((folder / "config.json").read_text())["flags"]
    assert {"data", "save", "framework", "model", "growth_rate", "opt_memory", "lr", "seed", "amp"} <= set(config)
    assert (config["efficient"], config["depth"], config["valid_size"]) == (True, 10, 10)
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")


def test_without_data_it_learns_real_digits_and_compares_memory(tmp_path: Path) -> None:
    """In small: the shape of the bare run, which takes a minute; `make demo` runs the whole."""
    needs("torch", "fire", "mlxtend")
    code, out, err = finish(start("--n_epochs", "1", "--valid_size", "3600", *SMALL))
    assert (code, err) == (0, "")
    assert "train   1 epoch, batch 32" in out
    assert out.startswith("data    mnist5k: 400 training, 3600 validation and 1000 test images")
    peaks = {
        name: float(peak)
        for name, peak in re.findall(r"^(\w[\w, ]*?)  +\d+\.\d  +\d\.\d\dx  +(\d+\.\d)  ", out, re.MULTILINE)
    }
    assert list(peaks) == ["plain", "efficient, keep_bottleneck", "efficient", "efficient, compressed 2"]
    assert peaks["efficient"] <= peaks["efficient, keep_bottleneck"] < peaks["plain"]


@pytest.mark.slow
def test_the_bare_command_reaches_its_accuracy() -> None:
    needs("torch", "fire", "mlxtend")
    begin = time.perf_counter()
    code, out, _ = finish(start())
    assert code == 0
    assert float(re.findall(r"^test .*accuracy (\S+) %", out, re.MULTILINE)[0]) >= 95
    assert time.perf_counter() - begin < 180


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal_it_leaves_valid_files_and_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    needs("torch", "fire", "matplotlib")
    folder = tmp_path / "a run"
    process = start("--data", "digits", "--n_epochs", "500", "--save", str(folder), *TINY)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch   1/500"):
            break
    time.sleep(0.3)
    process.send_signal(number)
    returned, _, err = finish(process)
    assert returned == code
    again = f"python demo.py --save '{folder}' --resume True"
    assert err == f"demo.py: stopped; go on from the last finished epoch with: {again}\n"
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert rows
    import torch

    assert len(torch.load(folder / "last.pt", weights_only=True)["rows"]) == len(rows)
    assert not list(folder.glob(".*"))


def test_a_progress_bar_on_a_terminal_only() -> None:
    needs("tqdm")
    from io import StringIO

    from zoo.progress import Progress

    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    terminal, pipe = Terminal(), StringIO()
    for stream in (terminal, pipe):
        assert list(Progress(True, stream).bar(range(3), 3, "epoch 1")) == [0, 1, 2]
    assert "epoch 1" in terminal.getvalue()
    assert "0/3" in terminal.getvalue()
    assert pipe.getvalue() == ""
