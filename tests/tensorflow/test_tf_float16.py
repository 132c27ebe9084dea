"""Training in float16: the loss's scale, steps left out because gradients overflow, resuming, and bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_networks import NETWORKS, batch, network, tf
from test_tf_training import options, small_data, small_network

from tf_models import measure_step, train
from tf_models.loss_scale import FIRST, GROWS_AFTER, LossScale
from tf_models.step import FLOAT16, SCALE, StepRunner, in_mixed_precision
from tf_models.weights import canonical_weights
from zoo.options import TrainingError
from zoo.weight_files import MOMENTUM, load_arrays


@pytest.mark.parametrize("name", ["densenet", "resnet", pytest.param("mobilenet_v2", marks=pytest.mark.slow), "lstm"])
def test_a_step_in_float16_is_near_the_one_in_float32(name: str) -> None:
    inputs, labels = (one.numpy() for one in batch(name, "float32"))
    if len(NETWORKS[name][2]) == 4:
        inputs = inputs.transpose(0, 3, 1, 2)
    moved, losses = [], []
    for narrow in (False, True):
        model = network(name, efficient=True, **({} if name == "resnet" else {"drop_rate": 0.0}))
        before = [one.numpy() for one in model.trainable_variables]
        model = in_mixed_precision(model, FLOAT16) if narrow else model
        runner = StepRunner(model, 0.9, 0.0)
        if narrow:
            # So that nothing overflows at once; MobileNetV2 divides by deviations of four values.
            runner.loss_scale.value.assign(1.0 if name == "mobilenet_v2" else 2.0**8)
        losses.append(runner.train(inputs, labels, 0.1)[0])
        assert {str(one.dtype) for one in model.trainable_variables} == {"float32"}
        moved.append([one.numpy() - old for one, old in zip(model.trainable_variables, before, strict=True)])
    wide, narrow = (np.concatenate([one.ravel() for one in part]) for part in moved)
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert np.isfinite(narrow).all()
    assert np.linalg.norm(narrow - wide) > 0
    if name != "mobilenet_v2":  # whose deviations of four values magnify every rounding
        assert np.linalg.norm(narrow - wide) < 0.05 * np.linalg.norm(wide)


def test_small_gradients_survive_by_the_scale() -> None:
    """A loss of a weight of 1e-9 has gradients that float16 does not know; the scale is what saves them."""
    lost = tf.cast(tf.constant(1e-9), tf.float16)
    kept = tf.cast(tf.constant(1e-9) * FIRST, tf.float16)
    found, finite = LossScale().unscaled([kept])
    assert float(lost) == 0
    assert float(found[0]) == pytest.approx(1e-9, rel=0.01)
    assert bool(finite)


def test_an_overflow_leaves_the_step_out_and_halves_the_scale() -> None:
    inputs, labels = (one.numpy() for one in batch("resnet", "float32"))
    runner = StepRunner(network("resnet", dtype=FLOAT16, efficient=True), 0.9, 1e-4)
    runner.loss_scale.value.assign(2.0**40)
    before = [one.numpy() for one in runner.model.trainable_variables]
    loss, _ = runner.train(inputs.transpose(0, 3, 1, 2), labels, 0.1)
    assert np.isfinite(loss)
    assert all(np.array_equal(a, b) for a, b in zip(before, runner.model.trainable_variables, strict=True))
    assert not any(one.numpy().any() for one in runner.velocities)
    assert runner.loss_scale.to_array().tolist() == [2.0**39, 0]
    runner.loss_scale.take_over(np.array([2.0**10, GROWS_AFTER - 1]))
    runner.train(inputs.transpose(0, 3, 1, 2), labels, 0.1)
    assert runner.loss_scale.to_array().tolist() == [2.0**11, 0]
    assert not np.array_equal(before[0], runner.model.trainable_variables[0])


def test_a_resumed_run_goes_on_with_its_scale(tmp_path: Path) -> None:
    asked = {"fp16": True, "n_epochs": 2, "lr": 0.05}
    whole = small_network()
    result = train(whole, small_data(), options(**asked, save=str(tmp_path / "whole")))
    assert result.metrics[1]["train_loss"] < result.metrics[0]["train_loss"]
    assert str(whole.dtype_policy.compute_dtype) == "float32"
    # As if it had been stopped after an epoch: its rows and a scale that is not the first one.
    stopped = small_network()
    train(stopped, small_data(), options(**asked | {"n_epochs": 1}, save=str(tmp_path / "part")))
    last = load_arrays(tmp_path / "part" / "last.npz")
    assert last[MOMENTUM + SCALE].tolist() == [FIRST, 3]
    last[MOMENTUM + SCALE] = np.array([2.0**-20, 0], np.float32)
    np.savez(tmp_path / "part" / "last.npz", **last)
    config = json.loads((tmp_path / "part" / "config.json").read_text())
    config["flags"]["n_epochs"] = 2
    (tmp_path / "part" / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrainingError, match=r"epoch 2, step 1: a gradient is not finite.*--fp16 False"):
        train(small_network(), small_data(), options(**asked, save=str(tmp_path / "part"), resume=True))
    assert set(canonical_weights(whole)) == set(canonical_weights(stopped))


@pytest.mark.parametrize("flags", [{}, {"efficient": True}])
def test_bytes_fall(flags: dict[str, Any]) -> None:
    shape = (16, 3, 32, 32)
    saved = [
        measure_step(network("densenet", growth_rate=8, drop_rate=0.0, dtype=dtype, **flags), shape, repeats=0)
        for dtype in ("float32", FLOAT16)
    ]
    assert saved[1].saved_bytes < 0.6 * saved[0].saved_bytes


def test_both_kinds_of_mixed_precision_contradict_one_another() -> None:
    with pytest.raises(ValueError, match="amp=True and fp16=True"):
        options(amp=True, fp16=True)
