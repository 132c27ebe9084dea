"""`zoo plan` and `demo.py --budget`: what they print and write, and what they refuse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import demo
from zoo.__main__ import main
from zoo.planner import Plan


def test_zoo_plan_prints_a_table_and_writes_a_file_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    words = ["resnet20", "0.8", "--batch_size", "2", "--times", "counted", "--save", str(path)]
    words += ["--pictures", str(tmp_path / "pictures"), "--html", str(tmp_path / "plan.html")]
    assert main(["plan", *words, "--allow", "recompute"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"peak [\d.]+ MiB \(\d+% of plain\) of a budget of", printed)
    assert re.search(r"^layer1\.0 ", printed, re.MULTILINE)
    plan = Plan.load(path)
    assert plan.peak_bytes <= plan.budget_bytes
    assert (tmp_path / "plan.html").read_text(encoding="utf-8").count("<img") == 3
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [picture.name for picture in pictures] == ["frontier.png", "memory.png", "parts.png"]
    assert all(picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 5000 for picture in pictures)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet20"], "name a model and a budget"),
        (["resnet20", "lots"], "budget must be a number"),
        (["resnet20", "nan"], "budget must be"),
        (["resnet20", "0.5", "--allow", "compres"], "did you mean compress"),
        (["resnet20", "0.5", "--times", "guessed"], "times"),
        (["resnet_20", "0.5"], "did you mean resnet20"),
        (["resnet20", "0.5", "--batch_size", "0"], "positive sizes"),
        (["resnet20", "0.5", "--device", "gpu"], "device must be auto, cpu, cuda or cuda:<number>, not 'gpu'"),
        (["resnet20", "0.5", "--amp", "True", "--others", "True"], "leave others out, or amp and device"),
        (["resnet20", "1KB", "--batch_size", "2", "--times", "counted"], "the smallest that works"),
    ],
)
def test_zoo_plan_refuses_nonsense_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_zoo_plan_in_mixed_precision_counts_half_the_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    plain = []
    for words in ([], ["--amp", "True", "--device", "auto"]):
        assert main(["plan", "resnet20", "0.9", "--batch_size", "8", "--times", "counted", *words]) == 0
        found = re.search(r"plain ([\d.]+) MiB", capsys.readouterr().out)
        assert found is not None
        plain.append(float(found[1]))
    assert 0.4 * plain[0] < plain[1] < 0.8 * plain[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "2GiX"], "budget must be a number"),
        (["--budget", "2GiB", "--efficient", "True"], "both say what to keep"),
        (["--budget", "2GiB", "--compressed", "2"], "both say what to keep"),
    ],
)
def test_demo_refuses_a_budget_that_is_none(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(words) == 2
    assert message in capsys.readouterr().err


def test_demo_trains_within_a_budget(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "synthetic", "--depth", "16", "--growth_rate", "4", "--n_epochs", "1", "--batch_size", "8"]
    assert demo.main([*words, "--budget", "0.7"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"plan +peak [\d.]+ MiB .* of a budget of", printed)
    assert "test    loss" in printed
