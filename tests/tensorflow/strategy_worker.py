"""One worker of a MultiWorkerMirroredStrategy that trains a small network; or one process that trains it alone."""

from __future__ import annotations

import json
import os
import sys

import numpy as np

import tf_models
from tf_models.tensorflow_names import keras, tf
from tf_models.workers import make_worker_step

rank, ports = int(sys.argv[2]), [int(port) for port in sys.argv[3:]]
cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
if len(ports) > 1:
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": rank}})
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
else:
    strategy = tf.distribute.OneDeviceStrategy("/CPU:0")
draw = np.random.default_rng(0)
images, labels = draw.standard_normal((6, 7, 28, 1)).astype(np.float32), np.arange(6) % 3
tf_models.set_seed(0)
with strategy.scope():
    model = tf_models.LSTM(hidden_size=6, num_classes=3, efficient=True)
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build(model.trainable_variables)
mine = slice(rank, None, len(ports))
step = make_worker_step(model, strategy, optimizer)
told = [step(images[mine], labels[mine]) for _ in range(3)]
np.savez(f"{sys.argv[1]}/{rank}.npz", told=np.array(told), weight=model.trainable_variables[0].numpy())
