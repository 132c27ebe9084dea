"""Training in TensorFlow: it learns, an interrupted run ends as an uninterrupted one, Keras fits, saves and loads."""

from __future__ import annotations

import csv
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_networks import DenseNet, batch, keras, network, tf

import tf_models
import zoo
from tf_models import train
from tf_models.weights import canonical_weights
from zoo.data.image_data import ImageData
from zoo.data.text_data import TextData
from zoo.options import TrainingError, TrainingOptions
from zoo.weight_files import load_arrays

BOARD = importlib.util.find_spec("tensorboard") is not None
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
    usual = {"n_epochs": 3, "batch_size": 16, "valid_size": 16, "lr": 0.1, "device": "cpu", "progress": False}
    return TrainingOptions(**{**usual, **changes})


def small_network(efficient: bool = True, compressed: int | None = None) -> DenseNet:
    tf_models.set_seed(0)
    shape = {"growth_rate": 8, "block_config": (2, 2), "num_init_features": 8, "num_classes": 2, "drop_rate": 0.2}
    return DenseNet(**shape, efficient=efficient, compressed=compressed)


# Trains until a file has been written in the second epoch, and ends as if its machine had lost its power.
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_tf_training import options, small_data, small_network, train
from zoo import training_loop
write, written = training_loop.save_arrays, []
def save(path, arrays):
    write(path, arrays)
    written.append(path)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
training_loop.save_arrays = save
train(small_network(False, 4), small_data(), options(save=sys.argv[2]))
"""


def test_it_learns_and_a_killed_run_ends_the_same(tmp_path: Path) -> None:
    whole = small_network(False, 4)  # the noise of codes must be the same too
    result = train(whole, small_data(), options(save=str(tmp_path / "whole"), tensorboard=BOARD))
    assert result.metrics[-1]["train_accuracy"] > 0.8
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path / "part")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "part" / "last.npz").exists()
    resumed = small_network(False, 4)
    resumed.parts["classifier"].bias.assign([7, 7])  # what it started from must not matter
    train(resumed, small_data(), options(save=str(tmp_path / "part"), resume=True))
    one, other = canonical_weights(whole), canonical_weights(resumed)
    assert all(np.allclose(other[name], one[name], rtol=1e-5, atol=1e-6) for name in one)
    lines = [(tmp_path / run / "metrics.csv").read_text().splitlines() for run in ("whole", "part")]
    assert [line.split(",")[:2] for line in lines[0]] == [line.split(",")[:2] for line in lines[1]]
    loaded = zoo.load_run(tmp_path / "whole", "tensorflow")
    best = load_arrays(tmp_path / "whole" / "best.npz")
    assert all(np.array_equal(value, best[name]) for name, value in canonical_weights(loaded).items())
    assert bool(list((tmp_path / "whole").glob("events.out.tfevents.*"))) == BOARD


def test_a_damaged_checkpoint_and_a_loss_that_is_not_finite_are_named(tmp_path: Path) -> None:
    model = small_network()
    train(model, small_data(), options(n_epochs=1, save=str(tmp_path), amp=True))
    last = tmp_path / "last.npz"
    last.write_bytes(last.read_bytes()[:200])
    with pytest.raises(TrainingError, match=r"last\.npz cannot be read as a checkpoint"):
        train(small_network(), small_data(), options(n_epochs=1, save=str(tmp_path), amp=True, resume=True))
    model.parts["classifier"].kernel.assign(np.full((28, 2), np.nan))
    with pytest.raises(TrainingError, match="epoch 1, step 1: the training loss is nan"):
        train(model, small_data(), options())
    with pytest.raises(TypeError, match="a model of tf_models"):
        train(tf.zeros(1), small_data(), options())


def test_a_language_model_trains() -> None:
    data = TextData.of("abc", "abcab" * 60, window=12)
    tf_models.set_seed(0)
    model = tf_models.LSTM(
        reads="tokens", input_size=6, hidden_size=12, num_layers=1, num_classes=len(data.classes), efficient=True
    )
    result = train(model, data, options(valid_size=2, lr=0.5, batch_size=8))
    assert result.metrics[-1]["train_loss"] < result.metrics[0]["train_loss"]
    assert "train_bits_per_character" in result.metrics[-1]


def test_keras_fits_both_the_same() -> None:
    data = small_data()
    images, losses = data.train_images.transpose(0, 2, 3, 1).astype(np.float32) / 255, []
    for efficient in (False, True):
        model = small_network(efficient)
        model.dropout_seeds.state.assign([1, 2])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05), loss, metrics=["accuracy"], jit_compile=False)
        found = model.fit(images, data.train_labels, batch_size=16, epochs=2, verbose=0, shuffle=False)
        losses.append(found.history["loss"])
    assert np.allclose(*losses, rtol=1e-3)
    assert losses[0][1] < losses[0][0]


def test_keras_callbacks_work_in_fit(tmp_path: Path) -> None:
    inputs, labels = batch("resnet", "float32")
    model = network("resnet", efficient=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss, metrics=["accuracy"], jit_compile=False)
    callbacks = [
        keras.callbacks.ModelCheckpoint(str(tmp_path / "best.keras"), monitor="loss", save_best_only=True),
        keras.callbacks.CSVLogger(str(tmp_path / "log.csv")),
        *([keras.callbacks.TensorBoard(str(tmp_path / "board"))] if BOARD else []),
    ]
    losses = model.fit(inputs, labels, batch_size=4, epochs=2, verbose=0, callbacks=callbacks).history["loss"]
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [float(row["loss"]) for row in rows] == pytest.approx(losses)
    assert losses[1] < losses[0]  # so that the best one is the last one
    loaded = keras.models.load_model(tmp_path / "best.keras")
    assert np.allclose(loaded(inputs), model(inputs), rtol=1e-6)
    assert loaded.optimizer.iterations.numpy() == 2
    assert bool(list(tmp_path.rglob("events.out.tfevents.*"))) == BOARD


def test_a_model_is_loaded_in_a_new_process(tmp_path: Path) -> None:
    """Of every family and flavour."""
    flavours = {"densenet": "torchvision", "resnet": "torchvision", "mobilenet_v2": "torchvision", "lstm": ""}
    flavours |= {"densenet of the ImageNet stem": "keras", "resnet of bottlenecks": "keras", "mobilenet_v2-": "keras"}
    expected = {}
    for case, flavour in flavours.items():
        name = case.rstrip("-")
        model = network(name, efficient=True, **({"flavour": flavour} if flavour else {}))
        images = batch(name, "float32")[0]
        model.save(tmp_path / f"{case}.keras")
        np.save(tmp_path / f"{case}.npy", images)
        expected[case] = model(images).numpy()
    code = (
        "import sys, numpy as np, tf_models, keras\n"
        "for name in sys.argv[2:]:\n"
        "    model = keras.models.load_model(f'{sys.argv[1]}/{name}.keras')\n"
        "    assert model.policy.efficient\n"
        "    np.save(f'{sys.argv[1]}/{name}.out.npy', model(np.load(f'{sys.argv[1]}/{name}.npy')))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), *expected]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    for name, value in expected.items():
        assert np.allclose(np.load(tmp_path / f"{name}.out.npy"), value, rtol=1e-6), name


def test_the_command_trains_with_tensorflow(tmp_path: Path) -> None:
    flags = ["--framework", "tensorflow", "--data", "synthetic", "--depth", "10", "--n_epochs", "1"]
    command = [sys.executable, "demo.py", *flags, "--efficient", "True", "--save", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "test    loss" in done.stdout
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.json", "metrics.csv", "best.npz", "last.npz", "result.json"} <= names
