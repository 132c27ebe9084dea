"""Training in MXNet: it learns, an interrupted run ends as an uninterrupted one, and files are refused by name."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mxnet_networks import mx

import mxnet_memonger
import zoo
from mxnet_memonger import DenseNet, ResNet, train
from mxnet_memonger.weights import canonical_weights
from zoo.data.image_data import ImageData
from zoo.options import RefusedOptionError, TrainingError, TrainingOptions
from zoo.weight_files import load_arrays

ROOT = Path(__file__).resolve().parents[2]


def small_data() -> ImageData:
    """Images of two classes: noise with a bright half."""
    draw = np.random.default_rng(5)
    labels = draw.integers(0, 2, 96)
    images = draw.integers(0, 120, (96, 3, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 120
    halves = (images[:64], labels[:64], images[64:], labels[64:])
    return ImageData("small", *halves, ("a", "b"), (0.4,) * 3, (0.2,) * 3, "none")


def options(**changes: Any) -> TrainingOptions:
    usual = {"n_epochs": 3, "batch_size": 16, "valid_size": 16, "lr": 0.05, "device": "cpu", "progress": False}
    return TrainingOptions(**{**usual, **changes})


def network(efficient: bool = True, drop_rate: float = 0.2) -> DenseNet:
    mxnet_memonger.set_seed(0)
    shape = {"growth_rate": 16, "block_config": (2, 2), "num_init_features": 16, "num_classes": 2}
    return DenseNet(**shape, drop_rate=drop_rate, efficient=efficient)


def test_it_learns_and_efficient_changes_nothing() -> None:
    results = []
    for efficient in (True, False):
        mxnet_memonger.set_seed(0)
        model = ResNet(layers=(2, 2), width=16, num_classes=2, efficient=efficient)
        results.append(train(model, small_data(), options()))
    assert results[0].test_accuracy > 0.9
    assert results[0].test_loss == results[1].test_loss
    columns = [[{k: v for k, v in row.items() if "second" not in k} for row in result.metrics] for result in results]
    assert [row.pop("peak_bytes") for row in columns[0]] < [row.pop("peak_bytes") for row in columns[1]]
    assert columns[0] == columns[1]


def test_an_interrupted_run_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = network()
    train(whole, small_data(), options(save=str(tmp_path / "whole")))
    stopped = network()
    from mxnet_memonger.training import Trainer

    epoch = Trainer._epoch

    def stop(self: Trainer, number: int) -> Any:
        if number == 3:
            raise KeyboardInterrupt
        return epoch(self, number)

    monkeypatch.setattr(Trainer, "_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, small_data(), options(save=str(tmp_path / "part")))
    monkeypatch.setattr(Trainer, "_epoch", epoch)
    resumed = network()
    resumed.arrays["classifier.bias"][:] = 7  # what it started from must not matter
    train(resumed, small_data(), options(save=str(tmp_path / "part"), resume=True))
    one, other = canonical_weights(whole), canonical_weights(resumed)
    assert all(np.array_equal(other[name], one[name]) for name in one)
    lines = [(tmp_path / run / "metrics.csv").read_text().splitlines() for run in ("whole", "part")]
    assert [line.split(",")[:7] for line in lines[0]] == [line.split(",")[:7] for line in lines[1]]
    loaded = zoo.load_run(tmp_path / "whole", "mxnet")
    best = load_arrays(tmp_path / "whole" / "best.npz")
    assert all(np.array_equal(value, best[name]) for name, value in canonical_weights(loaded).items())


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    train(network(), small_data(), options(n_epochs=1, save=str(tmp_path)))
    last = tmp_path / "last.npz"
    last.write_bytes(last.read_bytes()[:200])
    with pytest.raises(TrainingError, match=r"last\.npz cannot be read as a checkpoint"):
        train(network(), small_data(), options(n_epochs=1, save=str(tmp_path), resume=True))


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    model = network()
    model.arrays["classifier.weight"][:] = float("nan")
    with pytest.raises(TrainingError, match="epoch 1, step 1: the training loss is nan"):
        train(model, small_data(), options())


def test_what_is_not_offered_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="amp=True"):
        train(network(), small_data(), options(amp=True))
    with pytest.raises(RefusedOptionError, match="tensorboard"):  # which the command tells in a line
        train(network(), small_data(), options(tensorboard=True, save=str(tmp_path)))
    with pytest.raises(TypeError, match="a model of mxnet_memonger"):
        train(mx.sym.Variable("data"), small_data(), options())
    assert not list(tmp_path.iterdir())


def test_momentum_is_nesterovs() -> None:
    """Two steps by hand on one weight: v = m v + g; w -= lr (g + m v)."""
    weight, velocity, gradient = mx.nd.array([1.0]), mx.nd.zeros(1), mx.nd.array([2.0])
    expected, speed = 1.0, 0.0
    for _ in range(2):
        mx.nd.nag_mom_update(weight, gradient, velocity, lr=0.1, momentum=0.9, wd=0.0, rescale_grad=1.0, out=weight)
        speed = 0.9 * speed + 2.0
        expected -= 0.1 * (2.0 + 0.9 * speed)
    assert float(weight.asscalar()) == pytest.approx(expected, rel=1e-6)


def test_the_command_trains_with_mxnet(tmp_path: Path) -> None:
    flags = ["--framework", "mxnet", "--data", "synthetic", "--depth", "10", "--n_epochs", "1", "--batch_size", "64"]
    command = [sys.executable, "demo.py", *flags, "--efficient", "True", "--save", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "test    loss" in done.stdout
    assert {"config.json", "metrics.csv", "best.npz", "last.npz"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    assert dataclasses.is_dataclass(zoo.load_run(tmp_path / "run", "mxnet").spec)
