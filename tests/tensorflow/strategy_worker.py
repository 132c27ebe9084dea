"""One worker of a MultiWorkerMirroredStrategy that trains a small network: strategy_worker.py FOLDER RANK PORT PORT."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np

import tf_models
from tf_models.tensorflow_names import keras, tf
from tf_models.workers import make_worker_step


def train_a_little(strategy: Any, rank: int, world: int) -> dict[str, np.ndarray]:
    """Mean losses and shares of right answers of three steps, and what a weight is then."""
    draw = np.random.default_rng(0)
    images, labels = draw.standard_normal((6, 7, 28, 1)).astype(np.float32), np.arange(6) % 3
    tf_models.set_seed(0)
    with strategy.scope():
        model = tf_models.LSTM(hidden_size=6, num_classes=3, efficient=True)
        optimizer = keras.optimizers.SGD(0.5)
        optimizer.build(model.trainable_variables)
    step, mine = make_worker_step(model, strategy, optimizer), slice(rank, None, world)
    told = [step(images[mine], labels[mine]) for _ in range(3)]
    return {"told": np.array(told), "weight": model.trainable_variables[0].numpy()}


if __name__ == "__main__":
    own, ports = int(sys.argv[2]), sys.argv[3:]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": own}})
    found = train_a_little(tf.distribute.MultiWorkerMirroredStrategy(), own, len(ports))
    np.savez(f"{sys.argv[1]}/{own}.npz", **found)
