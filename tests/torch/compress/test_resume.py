"""What schemes learn is part of a checkpoint: a run that was killed goes on to the same numbers."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from compress.small_nets import gradient, images, loss_of, residual
from small_run import SmallNet, small_data, small_options
from torch import nn

from pytorch_models.checkpoint import take_learnt
from pytorch_models.compressed import Controller, compress
from pytorch_models.devices import set_seed
from pytorch_models.training import train as train_model

ROOT = Path(__file__).resolve().parents[3]
CLOCK = ("step_seconds", "images_per_second")


def train(model: nn.Module, steps: range) -> list[float]:
    losses = []
    for step in steps:
        torch.manual_seed(step)
        loss = loss_of(model, images(seed=step))
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad, alpha=0.05)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("scheme", ["L3", "autoquantz", "autoquant-sr"])
def test_a_run_goes_on_from_what_it_had_learnt(scheme: str, tmp_path: Path) -> None:
    whole, first, second = (compress(residual(), scheme) for _ in range(3))
    losses = train(whole, range(13))
    train(first, range(7))
    torch.save({"model": first.state_dict(), "learnt": first.compression.state_dict()}, tmp_path / "a.pt")
    assert set(first.state_dict()) == set(residual().state_dict())
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    second.load_state_dict(saved["model"])
    second.compression.load_state_dict(saved["learnt"])
    assert train(second, range(7, 13)) == losses[7:]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
    assert second.compression.report() == whole.compression.report()
    anew = compress(residual(), scheme)
    anew.load_state_dict(saved["model"])
    assert train(anew, range(7, 13)) != losses[7:], "the learnt state matters"


def test_samples_seen_are_remembered_with_indices() -> None:
    first, second = (compress(residual(), "L3", num_samples=16) for _ in range(2))
    first.compression.set_indices(torch.arange(4, 12))
    loss_of(first, images()).backward()
    second.compression.load_state_dict(first.compression.state_dict())
    known = second.conv1.site._per_index
    assert known is not first.conv1.site._per_index
    assert known.isnan().tolist() == [not 4 <= index < 12 for index in range(16)]


def test_a_controllers_automatic_bits_are_remembered() -> None:
    inputs, model = images(), residual()
    first, second = (Controller(model, 2, automatic=True) for _ in range(2))
    found = []
    for controller, steps in ((first, 3), (second, 0)):
        controller.install()
        for _ in range(steps):
            loss_of(model, inputs).backward()
            controller.iterate(lambda: loss_of(model, inputs).backward())
        if controller is second:
            second.load_state_dict(found[0])
        else:
            found.append(first.state_dict())
        found.append(gradient(model, inputs))
        controller.uninstall()
    assert torch.equal(found[1], found[2])
    with pytest.raises(ValueError, match="automatic or not"):
        Controller(model, 2).load_state_dict(found[0])


def test_the_state_of_something_else_is_refused() -> None:
    model = compress(residual(), "L3")
    state = model.compression.state_dict()
    for change, words in (
        ({"scheme": "autoquantz"}, "was learnt by autoquantz, the model is compressed by L3"),
        ({"layers": {}}, "other layers .*conv1"),
        ({"layers": {**state["layers"], "stem": {}}}, "layer 'stem': the state has no average"),
    ):
        with pytest.raises(ValueError, match=words):
            model.compression.load_state_dict({**state, **change})
    with pytest.raises(ValueError, match="has no scheme, steps"):
        model.compression.load_state_dict({})


def demo(folder: Path, scheme: str, *more: str) -> subprocess.Popen[str]:
    command = [
        sys.executable, "demo.py", "--data", "digits", "--model", "resnet20", "--compressed", scheme, "--batch_size",
        "16", "--valid_size", "1365", "--device", "cpu", "--n_epochs", "3", "--save", str(folder), *more,
    ]  # fmt: skip
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def metrics(folder: Path) -> list[dict[str, Any]]:
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


class Cut(Exception):
    """Where a run ends without warning."""


@pytest.mark.parametrize("scheme", ["L3", "autoquantz"])
def test_the_training_loop_cut_off_and_resumed(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In small: without processes that are killed."""

    def run(name: str, **options: Any) -> None:
        set_seed(0)
        model = compress(SmallNet(drop_rate=0.2), scheme)
        train_model(model, small_data(), small_options(save=str(tmp_path / name), **options))

    def cut(*_: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise Cut

    calls: list[int] = []
    run("whole")
    with monkeypatch.context() as patch:
        patch.setattr("pytorch_models.training.checkpoint.take_learnt", lambda *given: cut() or take_learnt(*given))
        with pytest.raises(Cut):
            run("cut")
    run("cut", resume=True)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    one, two = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "cut"))
    assert len(one["compression"]) == 1
    assert all(torch.equal(one["model"][key], two["model"][key]) for key in one["model"])


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["L3", "autoquantz"])
def test_the_training_command_killed_and_resumed(scheme: str, tmp_path: Path) -> None:
    pytest.importorskip("fire", reason="fire is not installed: pip install 'memory-efficient-zoo[demo]'")
    whole, killed = demo(tmp_path / "whole", scheme), demo(tmp_path / "killed", scheme)
    assert killed.stdout is not None
    assert any(line.startswith("epoch 1/3") for line in killed.stdout)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert whole.communicate()[1] == ""
    assert len(metrics(tmp_path / "killed")) in (1, 2)
    resumed = demo(tmp_path / "killed", scheme, "--resume", "True")
    out, err = resumed.communicate()
    assert (resumed.returncode, err) == (0, ""), out
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    one, two = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "killed"))
    assert all(torch.equal(one["model"][key], two["model"][key]) for key in one["model"])
