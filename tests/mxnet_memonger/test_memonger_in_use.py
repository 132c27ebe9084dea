"""Planned networks in use: FeedForward, Gluon, and the example scripts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mxnet_networks import mx, residual_network

from mxnet_memonger import memonger

ROOT = Path(__file__).resolve().parents[2]


def test_feedforward_fits_a_planned_network() -> None:
    """With the original's import line replaced, and nothing else changed."""
    draw = np.random.default_rng(0)
    labels = np.arange(32) % 2
    images = (draw.standard_normal((32, 3, 12, 12)) * 0.1 + labels[:, None, None, None]).astype(np.float32)
    planned = memonger.search_plan(residual_network(1), ntrial=0, data=(8, 3, 12, 12))
    recipe = {"num_epoch": 6, "learning_rate": 0.1, "numpy_batch_size": 8, "initializer": mx.init.Xavier()}
    model = mx.model.FeedForward(planned, **recipe)
    model.fit(images, labels.astype(np.float32))
    assert (model.predict(images).argmax(1) == labels).mean() > 0.9


def test_gluon_gets_the_same_gradients_from_a_plan() -> None:
    def network() -> Any:
        net = mx.gluon.nn.HybridSequential(prefix="net_")
        with net.name_scope():
            for _ in range(6):
                net.add(mx.gluon.nn.Conv2D(16, 3, padding=1), mx.gluon.nn.BatchNorm(), mx.gluon.nn.Activation("relu"))
            net.add(mx.gluon.nn.Dense(4))
        mx.random.seed(0)
        np.random.seed(0)
        net.initialize(mx.init.Xavier())
        net(mx.nd.ones((1, 3, 16, 16)))
        return net

    loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    data, label = mx.nd.random.normal(shape=(8, 3, 16, 16)), mx.nd.array(np.arange(8) % 4)
    own, planned = network(), network()
    with mx.autograd.record():
        expected = loss(own(data), label)
    expected.backward()
    step = memonger.gluon_train(planned, loss, data.shape, label.shape, workers=0, ntrial=0, most_recomputed=1.0)
    assert step.executor.debug_str().count("Op:Convolution") > 6  # of six, some run again
    found, scores = step(data, label)
    assert scores.shape == (8, 4)
    assert np.array_equal(found.asnumpy(), expected.asnumpy())
    mx.nd.waitall()
    for mine, theirs in zip(planned.collect_params().values(), own.collect_params().values(), strict=True):
        assert np.allclose(mine.data().asnumpy(), theirs.data().asnumpy(), rtol=1e-6, atol=1e-7)
        if theirs.grad_req != "null":
            assert np.allclose(mine.grad().asnumpy(), theirs.grad().asnumpy(), rtol=1e-5, atol=1e-6), mine.name
    before = planned.collect_params()["net_dense0_weight"].data().asnumpy()
    mx.gluon.Trainer(planned.collect_params(), "sgd", {"learning_rate": 0.1}).step(8)
    assert not np.array_equal(planned.collect_params()["net_dense0_weight"].data().asnumpy(), before)


def test_a_gluon_step_has_one_batch_and_the_blocks_type() -> None:
    net = mx.gluon.nn.Dense(2, in_units=3)
    net.initialize()
    net.cast("float64")
    loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    step = memonger.gluon_train(net, loss, (4, 3), (4,), workers=0, ntrial=0)
    _, scores = step(mx.nd.ones((4, 3), dtype="float64"), mx.nd.zeros(4))
    assert scores.dtype == net.weight.grad().dtype == np.float64
    for data, label, message in (
        ((1, 3), 4, r"data has the shape \(1, 3\)"),
        ((4, 3), 1, r"label has the shape \(1,\)"),
    ):
        with pytest.raises(ValueError, match=f"{message}, but this step is bound for"):
            step(mx.nd.ones(data, dtype="float64"), mx.nd.zeros(label))
    net.bias.cast("float32")
    with pytest.raises(ValueError, match="float32, float64"):
        memonger.gluon_train(net, loss, (4, 3), (4,))


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("mxnet_resnet_search", ["--blocks", "1", "1", "1", "1", "--batch", "2", "--ntrial", "0"]),
        ("mxnet_densenet_search", ["--blocks", "2", "2", "--batch", "2", "--ntrial", "0"]),
        ("mxnet_lstm_search", ["--steps", "6", "--layers", "2", "--hidden", "32", "--batch", "64", "--ntrial", "0"]),
    ],
)
def test_the_examples_run(name: str, flags: list[str]) -> None:
    command = [sys.executable, f"examples/{name}.py", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=True, env=environment)
    before, after = (int(line.split()[1]) for line in done.stdout.splitlines())
    assert after < before
