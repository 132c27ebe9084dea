"""One of several processes that train a small LSTM by `train`: train_worker.py FOLDER EPOCHS [HOROVOD'S STAND-IN]."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import tf_models
from tf_models.weights import canonical_weights
from zoo.data.image_data import ImageData
from zoo.options import TrainingOptions


def rows_data() -> ImageData:
    """Grey images of two classes; 22 to train on: 4 batches of 6, the last one smaller."""
    draw = np.random.default_rng(5)
    labels = draw.integers(0, 2, 40)
    images = draw.integers(0, 120, (40, 1, 7, 28), dtype=np.uint8)
    images[:, :, :4] += (100 * labels[:, None, None, None]).astype(np.uint8)
    halves = (images[:26], labels[:26], images[26:], labels[26:])
    return ImageData("rows", *halves, ("a", "b"), (0.4,), (0.2,), "none")


def run(folder: str, epochs: int, horovod: bool = False, fp16: bool = False) -> dict[str, np.ndarray]:
    """Train; the weights, and the losses of all epochs and of the test."""
    asked = {"n_epochs": epochs, "batch_size": 6, "valid_size": 4, "lr": 0.2, "device": "cpu", "progress": False}
    save = Path(folder) / "run"
    options = TrainingOptions(**asked, horovod=horovod, fp16=fp16, save=str(save), resume=save.exists())
    workers = tf_models.join_workers(options)
    workers.wait()
    tf_models.set_seed(workers.rank)  # each its own weights: the first one's must count
    model = tf_models.LSTM(hidden_size=6, num_classes=2, efficient=True)
    result = tf_models.train(model, rows_data(), options, workers)
    rows = [[float(row[name]) for name in ("train_loss", "valid_loss", "valid_accuracy")] for row in result.metrics]
    workers.wait()
    return {**canonical_weights(model), "rows": np.array(rows), "test": np.array([result.test_loss])}


if __name__ == "__main__":
    with_horovod = len(sys.argv) > 3
    if with_horovod:
        sys.path.insert(0, sys.argv[3])
    found = run(sys.argv[1], int(sys.argv[2]), with_horovod)
    rank = tf_models.processes.Launch.from_environment().rank
    np.savez(f"{sys.argv[1]}/{rank}.npz", **found)
