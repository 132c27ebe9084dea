"""Bytes are a result: what efficient=True saves of an LSTM, at full size, without computing anything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_lstm import TINY, batch, pair
from torch import nn

from pytorch_models import LSTM, measure_step
from pytorch_models.measure import MemoryTracker
from pytorch_models.saving import recurrence
from pytorch_models.workspace import lstm_workspace_bytes
from zoo.report import MIB

TARGET = {"input_size": 28, "hidden_size": 512, "num_layers": 2}
ONEDNN = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of PyTorch has no oneDNN")


def whole_peak(steps: int, samples: int = 8, **flags: Any) -> float:
    """MiB at the peak of a step, with parameters and their gradients."""
    model = LSTM(**TARGET, **flags)
    report = measure_step(model, model.spec.sequence_shape(steps, samples), execute=False)
    return (report.peak_bytes + report.model_bytes) / MIB


@pytest.mark.quick
@ONEDNN
def test_4096_steps_peak_at_a_twentieth_of_plain() -> None:
    assert whole_peak(4096, efficient=True) <= 0.05 * whole_peak(4096)


@ONEDNN
def test_memory_grows_like_the_square_root_of_the_steps_or_slower() -> None:
    fixed = 4 * LSTM(**TARGET).spec.count_parameters() * 3 / MIB  # parameters, their gradients, and a chunk's
    efficient = [whole_peak(steps, efficient=True) - fixed for steps in (256, 16384)]
    assert efficient[1] <= 8 * efficient[0]
    plain = [whole_peak(steps) for steps in (256, 1024)]
    assert plain[1] > 3.3 * plain[0]


def test_saved_are_the_states_between_chunks_and_nothing_else() -> None:
    model = LSTM(**TARGET, efficient=True)
    report = measure_step(model, model.spec.sequence_shape(4096, 8), execute=False)
    state_bytes = 2 * 2 * 8 * 512 * 4
    assert report.saved_bytes <= 1.02 * 32 * state_bytes
    kept = {row.name: row.kept for row in report.rows}
    assert "states between chunks" in kept["recurrent"]


def test_the_bytes_test_fails_where_chunks_are_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def keeping(
        way: recurrence.Recurrence, sequences: Any, state: Any, parameters: Any
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        for segment in range(way.plan.chunks):
            _, state = way.run(segment, tuple(sequences), state, tuple(parameters))
        return (), state

    monkeypatch.setattr("pytorch_models.stacked_lstm.recur", keeping)
    assert whole_peak(1024, efficient=True) > 0.9 * whole_peak(1024)


@ONEDNN
@pytest.mark.parametrize("shape", [{}, {"bidirectional": True}, {"reads": "tokens", "drop_rate": 0.3}], ids=str)
@pytest.mark.parametrize("efficient", [False, True])
def test_real_steps_cost_what_fake_ones_say(shape: dict[str, Any], efficient: bool) -> None:
    """But for a page of oneDNN's workspace a layer and chunk, which its alignment sometimes needs."""
    model = LSTM(**{**TINY, "hidden_size": 64, **shape}, efficient=efficient)
    inputs = model.spec.sequence_shape(100, 4)
    real, fake = measure_step(model, inputs, repeats=0), measure_step(model, inputs, execute=False)
    assert real.saved_bytes == pytest.approx(fake.saved_bytes, abs=4 * 4096)
    assert real.peak_bytes == pytest.approx(fake.peak_bytes, abs=8 * 4096)


@ONEDNN
@pytest.mark.parametrize("shape", [(64, 8, 512, 512), (28, 64, 28, 128), (100, 8, 700, 40), (784, 16, 1, 100)])
def test_the_workspace_of_a_fused_layer_is_as_large_as_assumed(shape: tuple[int, int, int, int]) -> None:
    steps, samples, width, hidden = shape
    layer, inputs = nn.LSTM(width, hidden), torch.randn(steps, samples, width)
    with MemoryTracker((*layer.parameters(), inputs)) as tracker:
        results = layer(inputs)
    others = 4 * hidden * samples * (steps + 8)  # outputs, and states
    workspace = max(allocation.storage_bytes for allocation in tracker.allocations)
    assert workspace == pytest.approx(lstm_workspace_bytes(*shape), abs=4096)
    assert tracker.live_bytes <= workspace + others
    del results


def test_a_bidirectional_one_keeps_layer_outputs() -> None:
    shape = {"input_size": 28, "hidden_size": 64, "bidirectional": True}
    reports = [measure_step(LSTM(**shape, efficient=e), (8, 1, 512, 28), execute=False) for e in (False, True)]
    assert reports[1].saved_bytes <= 0.05 * reports[0].saved_bytes
    assert reports[1].peak_bytes <= 0.15 * reports[0].peak_bytes


def test_a_language_models_scores_are_never_whole() -> None:
    shape = {"reads": "tokens", "input_size": 32, "hidden_size": 32, "num_classes": 5000}
    whole = 8 * 1024 * 5000 * 4
    peaks = [measure_step(LSTM(**shape, efficient=e), (8, 1024), execute=False).peak_bytes for e in (False, True)]
    assert peaks[0] > whole
    assert peaks[1] < 0.15 * whole


def test_nothing_is_kept_without_a_backward_pass() -> None:
    _, model = pair(dtype=torch.float32)
    inputs = batch(model, steps=400)
    with torch.no_grad(), MemoryTracker((*model.parameters(), *inputs)) as tracker:
        outputs = model(*inputs)
    assert tracker.live_bytes == outputs.numel() * 4
    assert tracker.peak_bytes < 400 * 4 * TINY["hidden_size"] * 4, "less than one layer's outputs"
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with MemoryTracker((*model.parameters(), *inputs)) as tracker:
        outputs = model(*inputs)
    assert tracker.live_bytes == outputs.numel() * 4


def test_all_that_is_kept_passes_through_saved_tensor_hooks() -> None:
    _, model = pair(dtype=torch.float32, hidden_size=32)
    seen: list[torch.Tensor] = []
    inputs = batch(model, steps=400)
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t),
        MemoryTracker((*model.parameters(), *inputs)) as tracker,
    ):
        outputs = model(*inputs)
        kept = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in seen if tracker.allocation_of(t)}
        assert sum(kept.values()) >= tracker.live_bytes - outputs.untyped_storage().nbytes()
