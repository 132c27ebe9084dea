"""Several workers and devices: two processes on loopback train as one does, fit works on two devices and in float16."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_networks import CLASSES, batch, keras, network, tf
from strategy_worker import train_a_little

from tf_models.workers import make_worker_step

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}


def start(*command: str) -> subprocess.Popen[str]:
    line = [sys.executable, str(HERE / command[0]), *command[1:]]
    return subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_two_workers_give_one_processs_loss(tmp_path: Path) -> None:
    ports = free_ports(2)
    started = [start("strategy_worker.py", str(tmp_path), rank, *ports) for rank in ("0", "1")]
    alone = train_a_little(tf.distribute.OneDeviceStrategy("/CPU:0"), 0, 1)
    for process in started:
        output, _ = process.communicate(timeout=280)
        assert process.returncode == 0, output
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    assert np.array_equal(first["weight"], second["weight"])
    assert np.allclose(first["weight"], alone["weight"], rtol=1e-4, atol=1e-6)
    assert np.allclose(first["told"], alone["told"], rtol=1e-5)
    assert alone["told"][2, 0] < alone["told"][0, 0]


@pytest.mark.slow
def test_fit_on_two_devices() -> None:
    process = start("mirrored_fit.py")
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output


def test_several_replicas_in_a_process_are_refused() -> None:
    two = SimpleNamespace(extended=SimpleNamespace(worker_devices=("/CPU:0", "/CPU:1")))
    with pytest.raises(ValueError, match=r"model\.fit"):
        make_worker_step(network("resnet"), two, None)


@pytest.mark.parametrize("flags", [{"efficient": True}, {"compressed": 8}])
def test_float16_fits_with_loss_scaling(flags: dict[str, object]) -> None:
    inputs, labels = batch("resnet", "float32")
    model = network("resnet", dtype="mixed_float16", **flags)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss, jit_compile=False)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    before = model.parts["conv1"].kernel.numpy()
    losses = model.fit(inputs, labels, batch_size=4, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert not np.array_equal(model.parts["conv1"].kernel.numpy(), before)
    assert str(model.trainable_variables[0].dtype) == "float32"
    assert tf.reduce_max(labels) < CLASSES
