"""Bytes of a step in TensorFlow, counted anew in each mode: a mode in which nothing is saved fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_networks import LSTM, DenseNet, MobileNetV2, ResNet, keras, tf

from tf_models import measure_step
from tf_models.allocations import replay
from zoo.report import MemoryReport

DENSE: dict[str, Any] = {"growth_rate": 12, "block_config": (8,), "num_init_features": 24}


def peak(kind: Any, fields: dict[str, Any], shape: tuple[int, ...], mode: str, **flags: Any) -> MemoryReport:
    keras.utils.set_random_seed(0)
    return measure_step(kind(**fields, **flags), shape, mode=mode, repeats=0)


@pytest.mark.parametrize(("mode", "most"), [("eager", 0.46), ("graph", 0.3), ("xla", 0.4)])
def test_a_dense_block_needs_a_fraction(mode: str, most: float) -> None:
    plain, efficient = (peak(DenseNet, DENSE, (8, 3, 32, 32), mode, efficient=flag) for flag in (False, True))
    assert efficient.peak_bytes < most * plain.peak_bytes
    if mode != "xla":
        # Kept are the features once, 24 + 8 * 12 channels, and the stem's output.
        features = 8 * 32 * 32 * (24 + 8 * 12) * 4
        assert features <= efficient.saved_bytes < 1.2 * features
        assert plain.saved_bytes > 5 * features


@pytest.mark.slow
def test_saved_bytes_grow_linearly_with_depth() -> None:
    saved = {}
    for layers in (4, 8, 12):
        fields = {**DENSE, "block_config": (layers,)}
        for efficient in (False, True):
            report = peak(DenseNet, fields, (8, 3, 32, 32), "eager", efficient=efficient)
            saved[layers, efficient] = report.saved_bytes
    steps = {flag: (saved[8, flag] - saved[4, flag], saved[12, flag] - saved[8, flag]) for flag in (False, True)}
    assert steps[True][1] == pytest.approx(steps[True][0], rel=0.05)
    assert steps[False][1] > 1.3 * steps[False][0]


def test_keep_bottleneck_stands_between() -> None:
    reports = [
        peak(DenseNet, DENSE, (8, 3, 32, 32), "graph", **flags)
        for flags in ({"efficient": True}, {"efficient": True, "keep_bottleneck": True}, {})
    ]
    assert reports[0].saved_bytes < reports[1].saved_bytes < reports[2].saved_bytes


@pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("xla", marks=pytest.mark.slow)])
def test_residual_blocks_keep_one_tensor_a_convolution(mode: str) -> None:
    fields = {"block": "bottleneck", "layers": (4,), "width": 32}
    plain, efficient = (peak(ResNet, fields, (8, 3, 32, 32), mode, efficient=flag) for flag in (False, True))
    assert efficient.peak_bytes < 0.72 * plain.peak_bytes


def test_mobilenet_keeps_no_expansion() -> None:
    fields = {"width_mult": 0.5, "num_classes": 10}
    plain, efficient = (peak(MobileNetV2, fields, (8, 3, 96, 96), "eager", efficient=flag) for flag in (False, True))
    assert efficient.saved_bytes < 0.62 * plain.saved_bytes


@pytest.mark.slow
def test_an_lstm_keeps_chunks_states_alone() -> None:
    fields = {"hidden_size": 64, "num_layers": 2}
    # Of single steps' small tensors TensorFlow tells nothing but under XLA, which counts all of them.
    plain, efficient = (peak(LSTM, fields, (16, 1, 256, 28), "xla", efficient=flag) for flag in (False, True))
    assert efficient.peak_bytes < 0.35 * plain.peak_bytes


def test_an_lstm_saves_in_a_graph() -> None:
    fields = {"hidden_size": 512, "num_layers": 1}
    plain, efficient = (peak(LSTM, fields, (128, 1, 49, 28), "graph", efficient=flag) for flag in (False, True))
    assert efficient.peak_bytes < 0.6 * plain.peak_bytes


def test_measuring_changes_no_variable_and_parts_add_up() -> None:
    model = ResNet(layers=(1, 1), width=16, efficient=True)
    before = [one.numpy() for one in model.variables]
    report = measure_step(model, (16, 3, 32, 32), repeats=1)
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, model.variables, strict=True))
    assert sum(report.parts.values()) == report.peak_bytes
    assert report.step_seconds is not None
    assert report.peak_bytes >= report.saved_bytes > 0


def test_what_cannot_be_measured_is_refused() -> None:
    model = ResNet(layers=(1,), width=4)
    with pytest.raises(ValueError, match="256 KiB"):
        measure_step(model, (1, 3, 8, 8), repeats=0)
    with pytest.raises(ValueError, match="graph"):
        measure_step(model, (1, 3, 8, 8), mode="grahp")
    with pytest.raises(TypeError, match="tf_models"):
        measure_step(tf.zeros(1), (1, 3, 8, 8))


def test_allocations_are_replayed_in_order() -> None:
    taken, freed = "MemoryAllocation", "MemoryDeallocation"
    events = [(0, taken, 1, 10, "a/Conv_1"), (1, taken, 2, 20, "b"), (2, freed, 1, 0, ""), (3, "end", 0, 0, "")]
    found = replay([*events, (4, taken, 1, 5, "c"), (5, freed, 9, 0, "")])
    assert (found.peak_bytes, found.held_bytes, found.largest_bytes) == (30, 20, 20)
    assert found.at_peak == {"a/Conv_1": 10, "b": 20}
